"""Deliver an outcome to each place that the settings name. The run's own folder is not one of them."""

from collections.abc import Callable, Iterator

from mnist_job.config.parts import DeliverySettings
from mnist_job.distributed import cluster
from mnist_job.errors import DeliveryError, JobError, UsageError
from mnist_job.kubernetes import result
from mnist_job.results import exporter, metrics
from mnist_job.results.outcome import Outcome


def check(config: DeliverySettings) -> None:
    """Check, before Ray is started, that `deliver` can succeed. Raises UsageError if it would fail."""
    metrics.check_textfile(config.metrics_textfile)
    if config.exporter_port is not None and cluster.is_local(config):
        raise UsageError(
            f"--exporter-port {config.exporter_port}: a local Ray ends with the job, before anyone can scrape it; "
            "use --address, --metrics-textfile or --pushgateway-url"
        )
    result.check(config)


def deliver(outcome: Outcome, config: DeliverySettings, timeout: float) -> None:
    """Deliver the outcome to all places, with a timeout of `timeout` seconds for each.

    Raises DeliveryError if a delivery fails, after trying all places.
    """
    failures = []
    for place in _places(outcome, config, timeout):
        try:
            place()
        except JobError as error:
            failures.append(str(error))
    if failures:
        raise DeliveryError("; ".join(dict.fromkeys(failures)))  # two places may fail for the same reason


def _places(outcome: Outcome, config: DeliverySettings, timeout: float) -> Iterator[Callable[[], None]]:
    if (textfile := config.metrics_textfile) is not None:
        yield lambda: metrics.write_textfile(outcome, textfile)
    if (configmap := config.kubernetes_result) is not None:
        yield lambda: result.write_result(outcome, configmap, timeout)
    if (rayjob := config.kubernetes_rayjob) is not None:
        yield lambda: result.record_event(outcome, rayjob, timeout)
    if (url := config.pushgateway_url) is not None:
        yield lambda: metrics.push(outcome, url, timeout)
    if (port := config.exporter_port) is not None:
        yield lambda: _export(outcome, config, port, timeout)


def _export(outcome: Outcome, config: DeliverySettings, port: int, timeout: float) -> None:
    with cluster.connected(config):  # when a failure is delivered, the job has already left the cluster
        exporter.publish(outcome, port, timeout)
