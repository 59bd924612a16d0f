"""The settings of each part of the program: the parts take these classes, and `JobConfig` inherits from all of them.

So every setting is declared once, with type, default, bounds and help, and the type checker holds each part to its own.
Those of the training loop are in `training.py`.
"""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from mnist_job.config.setting import Part, setting
from mnist_job.config.texts import worker_range
from mnist_job.config.training import LoopSettings


class LogSettings(Part):
    """What the program prints."""

    verbose: bool = setting(False, "show the logs of Ray and TensorFlow, and tracebacks", "what it prints")
    log_format: Literal["text", "json"] = setting(
        "text", "print each log line as a sentence, or as a JSON object", "what it prints"
    )


class RaySettings(LogSettings):
    """The Ray cluster."""

    address: str | None = setting(
        None,
        "Ray cluster to use: HOST:PORT or `auto` [default: $RAY_ADDRESS, or a local Ray]",
        "where it runs",
        min_length=1,
    )


class WorkersSettings(Part):
    """The number of workers, and how long the run waits for them."""

    workers: int | str = setting(
        2,
        "number of training processes; MIN:MAX adds more when there is room",
        "where it runs",
        affects_result=True,
    )
    max_failures: int = setting(
        3, "how often training may lose workers and resume from the last checkpoint", "bounds", ge=0, le=1000
    )
    start_timeout: float = setting(300, "seconds to wait for all workers to start", "bounds", gt=0, le=86_400)

    @field_validator("workers", mode="plain")
    @classmethod
    def _is_a_number_or_a_range(cls, value: object) -> int | str:
        match = re.fullmatch(r"\s*(\d{1,5})(?::(\d{1,5}))?\s*", str(value))
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most <= 10_000:
            raise ValueError("is not a number of workers from 1 to 10000, and not a range MIN:MAX of such numbers")
        return least if least == most else f"{least}:{most}"

    @property
    def least_workers(self) -> int:
        """The least number of workers. Training does not start with fewer."""
        return worker_range(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """The greatest number of workers."""
        return worker_range(self.workers)[1]


class TrainerSettings(LoopSettings, WorkersSettings, RaySettings):
    """Ray Train around the training loop."""


class EvaluatorSettings(LogSettings):
    """The evaluate task."""

    evaluate_on_gpu: bool = setting(False, "evaluate on a GPU", "where it runs")


class GateSettings(Part):
    """The least quality of the model."""

    min_accuracy: float | None = setting(
        None, "fail with exit code 7 if the test accuracy is below this", "bounds", ge=0, le=1
    )
    min_recall: float | None = setting(
        None, "fail with exit code 7 if the test recall of any class is below this", "bounds", ge=0, le=1
    )


class DeliverySettings(RaySettings):
    """The places that a result is delivered to."""

    pushgateway_url: str | None = setting(
        None, "push the metrics to this Pushgateway, for example http://host:9091", "where results go"
    )
    metrics_textfile: str | None = setting(
        None,
        "also write the metrics to this file, for node-exporter's textfile collector",
        "where results go",
        place="file",
        pattern=r".\.prom$",
    )
    exporter_port: int | None = setting(
        None,
        "serve the metrics at this port of the Ray head, as long as the cluster lives",
        "where results go",
        ge=1024,
        le=65535,
    )
    kubernetes_result: str | None = setting(
        None, "in a pod: write the result to this ConfigMap of the pod's namespace", "where results go", min_length=1
    )
    kubernetes_rayjob: str | None = setting(
        None,
        "in a pod: record the result as an Event on this RayJob of the pod's namespace",
        "where results go",
        min_length=1,
    )
    delivery_timeout: float = setting(
        30, "seconds to retry the delivery of the result to each place", "bounds", gt=0, le=3600
    )

    @field_validator("pushgateway_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is not an http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError("contains a password, which would be stored with the results; use a proxy that adds it")
        return value
