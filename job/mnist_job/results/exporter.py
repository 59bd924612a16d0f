"""An HTTP exporter of the metrics: a detached actor on the Ray head that lives as long as the Ray cluster.

Prometheus can scrape it after the driver has ended. Each series has the label `job`, as on a Pushgateway, so that
several jobs can report on one cluster. Scrape it with `honor_labels: true`.
"""

from collections.abc import Iterable
from typing import Any

import ray
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mnist_job.bounds import EXPORTER_START_SECONDS
from mnist_job.errors import ClusterError, DeliveryError, last_line
from mnist_job.results import metrics
from mnist_job.results.outcome import Outcome

# A resource that only the head has. The actor takes a thousandth of it, so that Ray places it there.
ON_HEAD = {"node:__internal_head__": 0.001}


def start(port: int) -> None:
    """Start the exporter at `port` of the head, unless it already runs. Raises ClusterError if it cannot start."""
    try:
        ray.get(_actor(port).ready.remote(), timeout=EXPORTER_START_SECONDS)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"--exporter-port {port}: cannot be served on the Ray head: {last_line(error)}") from error


def publish(outcome: Outcome, port: int, timeout: float) -> None:
    """Serve this outcome instead of the job's earlier ones. Raises DeliveryError."""
    try:
        ray.get(_actor(port).update.remote(outcome), timeout=timeout)
    except ray.exceptions.RayError as error:
        raise DeliveryError(
            f"--exporter-port {port}: the metrics could not be sent to the exporter: {last_line(error)}"
        ) from error


def _actor(port: int) -> Any:
    exporter: Any = ray.remote(num_cpus=0, resources=ON_HEAD)(_Exporter)
    return exporter.options(name=f"exporter-{port}", get_if_exists=True, lifetime="detached").remote(port)


class _Exporter(Collector):
    def __init__(self, port: int) -> None:
        self._known: dict[str, str] = {}
        registry = CollectorRegistry()
        registry.register(self)
        start_http_server(port, registry=registry)

    def ready(self) -> None:
        """Return, so that a caller can wait for the end of the constructor."""

    def update(self, outcome: Outcome) -> None:
        name = outcome.identity.name
        self._known[name] = metrics.reported(outcome, self._known.get(name))

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, text in self._known.copy().items():  # a copy, because each scrape runs in another thread
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, {"job": name, **sample.labels}, sample.value)
        return families.values()
