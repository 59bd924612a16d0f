"""An Outcome as Prometheus metrics, a Pushgateway and a textfile.

A success replaces all metrics of the job. A failure changes only the status (when the job ended, and that it failed),
so the metrics of the last success stay. Alert on the age of `mnist_job_last_success_timestamp_seconds`.
"""

import os
import re
import stat
import urllib.error
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest, write_to_textfile
from prometheus_client.exposition import push_to_gateway, pushadd_to_gateway
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mnist_job.bounds import patiently
from mnist_job.errors import DeliveryError, UsageError
from mnist_job.results.outcome import Outcome

COMPLETION = "mnist_job_last_completion_timestamp_seconds"
SUCCEEDED = "mnist_job_last_run_succeeded"
MOST_CLASSES = 1000  # each class has a series; if there are more classes, none has, so that no series disappears


def text(outcome: Outcome) -> str:
    """Return the content of `metrics.prom`: all metrics of this run."""
    return generate_latest(measured(outcome)).decode()


def measured(outcome: Outcome) -> CollectorRegistry:
    """Return all metrics of an outcome in a new registry. (The default registry has those of this process.)"""
    registry = status(outcome)
    identity, dataset = outcome.identity, outcome.identity.dataset

    def gauge(name: str, help: str, value: float | None, **labels: str) -> None:
        if value is None:  # an unknown value has no series
            return
        metric = Gauge(f"mnist_job_{name}", help, list(labels), registry=registry)
        (metric.labels(**labels) if labels else metric).set(value)

    gauge(
        "info",
        "Identity of the run; always 1.",
        1,
        run=identity.run,
        version=identity.version,
        config_hash=identity.config_hash,
        model_sha256=outcome.model_sha256 or "",
        dataset=dataset,
    )
    phases = Gauge("mnist_job_phase_duration_seconds", "Time of a run's phase.", ["phase"], registry=registry)
    gauge("duration_seconds", "Time from the start of the run to its end.", outcome.finished - identity.started)
    for phase, seconds in outcome.phases.items():
        phases.labels(phase).set(seconds)
    if outcome.succeeded:
        gauge("last_success_timestamp_seconds", "When the last successful run ended.", outcome.finished)
    if (training := outcome.training) is not None:
        kept = training.kept
        gauge("train_loss", "Mean training loss of the kept epoch.", kept.train_loss, dataset=dataset)
        gauge("validation_loss", "Validation loss after the kept epoch.", kept.validation_loss, dataset=dataset)
        gauge(
            "validation_accuracy_ratio",
            "Validation accuracy after the kept epoch.",
            kept.validation_accuracy,
            dataset=dataset,
        )
        gauge("trained_epochs", "Epochs that were trained.", len(training.history))
        gauge("kept_epoch", "The epoch whose model was evaluated, from 1.", kept.epoch)
        gauge("training_duration_seconds", "Time from the start of the workers to their end.", training.seconds)
        gauge("workers", "Training processes.", training.workers)
        gauge("worker_restarts", "How often workers were lost and restarted.", training.restarts)
    if (evaluation := outcome.evaluation) is not None:
        gauge("test_accuracy_ratio", "Accuracy on the held-out test data.", evaluation.accuracy, dataset=dataset)
        gauge(
            "test_loss",
            "Loss on the held-out test data; the mean cross-entropy for a classifier.",
            evaluation.loss,
            dataset=dataset,
        )
        gauge("test_samples", "Images in the held-out test data.", evaluation.samples, dataset=dataset)
        gauge("evaluation_duration_seconds", "Duration of the evaluate task.", outcome.evaluation_seconds)
        gauge(
            "test_worst_class_recall_ratio",
            "The lowest recall of all classes.",
            evaluation.worst_class()[1] if evaluation.recall else None,
            dataset=dataset,
        )
        recalls = Gauge(
            "mnist_job_test_class_recall_ratio",
            f"Share of a class's test images that are classified correctly, for up to {MOST_CLASSES} classes.",
            ["dataset", "class"],
            registry=registry,
        )
        for label, recall in enumerate(evaluation.recall if len(evaluation.recall) <= MOST_CLASSES else []):
            if recall is not None:
                recalls.labels(dataset, evaluation.name(label)).set(recall)
        if evaluation.metrics:
            metrics = Gauge(
                "mnist_job_test_metric",
                "The loss and the metrics that the model was compiled with, on the held-out test data.",
                ["dataset", "metric"],
                registry=registry,
            )
            for metric, value in evaluation.metrics.items():
                metrics.labels(dataset, metric).set(value)
    return registry


def status(outcome: Outcome) -> CollectorRegistry:
    """Return the metrics that a failure overwrites: when the job ended, and whether it succeeded."""
    registry = CollectorRegistry()
    Gauge(COMPLETION, "When the last run ended, successfully or not.", registry=registry).set(outcome.finished)
    Gauge(SUCCEEDED, "1 if the last run succeeded, else 0.", registry=registry).set(int(outcome.succeeded))
    return registry


def check_textfile(path: str | None) -> None:
    """Check that `write_textfile` can succeed. Raises UsageError if it would fail."""
    if path is None:
        return
    if not os.access(Path(path).absolute().parent, os.W_OK):
        raise UsageError(f"--metrics-textfile {path}: its folder does not exist or cannot be written")
    try:
        _known(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--metrics-textfile {path}: {error}") from error


def _known(path: str) -> str | None:
    """Return the content of the textfile, or None if there is none.

    Raises ValueError if this program did not write it.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError("is not a file, and would be replaced; give another path")
        content = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ValueError(_NOT_OURS) from error
    if not all(map(_OURS.fullmatch, content.splitlines())):
        raise ValueError(_NOT_OURS)
    return content


_OURS = re.compile(r"((# (HELP|TYPE) )?mnist_job_.*)?")
_NOT_OURS = "holds more than this program's metrics, and would be replaced; move it, or give another path"


def push(outcome: Outcome, url: str, timeout: float) -> None:
    """PUT a success to a Pushgateway, or POST the status of a failure. Retry for `timeout` seconds.

    Raises DeliveryError.
    """
    send = push_to_gateway if outcome.succeeded else pushadd_to_gateway
    registry = _reported(outcome, None)
    try:
        patiently(
            lambda left: send(url, job=outcome.identity.name, registry=registry, timeout=left),
            timeout,
            (OSError, HTTPException),
        )
    except (OSError, HTTPException) as error:
        answer = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
        raise DeliveryError(
            f"--pushgateway-url {url}: the metrics could not be pushed within {timeout:g} s: {error} {answer}".rstrip()
        ) from error


def write_textfile(outcome: Outcome, path: str) -> None:
    """Write the metrics for node-exporter, atomically. A failure keeps the metrics of the last success.

    Raises DeliveryError.
    """
    try:
        write_to_textfile(path, _reported(outcome, _known(path)))
    except (OSError, ValueError) as error:
        raise DeliveryError(f"--metrics-textfile {path}: {error}") from error


def reported(outcome: Outcome, known: str | None) -> str:
    """Return the metrics after this outcome, in Prometheus's text format. `known` are those from before it."""
    return generate_latest(_reported(outcome, known)).decode()


def _reported(outcome: Outcome, known: str | None) -> CollectorRegistry:
    """Return all metrics of a success, or the status of a failure together with the known ones of the last success."""
    if outcome.succeeded:
        return measured(outcome)
    registry = status(outcome)
    if known is not None:
        registry.register(_Kept(known))
    return registry


class _Kept(Collector):
    """A collector of the metrics in a text, without those of the status."""

    def __init__(self, content: str) -> None:
        self._families = [
            family for family in text_string_to_metric_families(content) if family.name not in (COMPLETION, SUCCEEDED)
        ]

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
