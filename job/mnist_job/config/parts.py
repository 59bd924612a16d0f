"""The settings of each part of the program: the parts take these classes, and `JobConfig` inherits from all of them.

So every setting is declared once, with type, default, bounds and help, and the type checker holds each part to its own.
"""

import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from mnist_job.config.setting import setting
from mnist_job.config.texts import class_weights, split_commas, split_pairs, worker_range

ClassNumber = Annotated[int, Field(ge=0, lt=1_000_000)]


class Part(BaseModel):
    """Settings, which never change. Unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


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


class CodeSettings(Part):
    """The user's code."""

    code: str | None = setting(
        None,
        "folder of your modules, which every process of the run gets",
        "training",
        place="folder",
        min_length=1,
    )


class ModelSettings(CodeSettings):
    """The network."""

    model: str | None = setting(
        None,
        "your network: FILE.py:FUNCTION, MODULE:FUNCTION or a .keras file",
        "training",
        affects_result=True,
        place="file",
        min_length=1,
    )
    model_args: Annotated[dict[str, bool | int | float | str | None], BeforeValidator(split_pairs)] = setting(
        {}, "arguments of that function: width=64,depth=3", "training", affects_result=True
    )


class EndSettings(Part):
    """When training ends, which epoch's model is kept, and what is called after each epoch."""

    epochs: int = setting(10, "passes over the training data", "training", affects_result=True, ge=1, le=1_000_000)
    patience: int | None = setting(
        None,
        "end training after so many epochs that were not better than the best one",
        "training",
        affects_result=True,
        ge=1,
        le=1_000_000,
    )
    keep: Literal["last", "best"] = setting(
        "last", "the epoch whose model is evaluated and published", "training", affects_result=True
    )
    monitor: str = setting(
        "validation_loss",
        "column of the history that ranks the epochs: NAME[:min|max]",
        "training",
        affects_result=True,
        min_length=1,
    )
    callbacks: str | None = setting(
        None,
        "your Keras callbacks: FILE.py:FUNCTION or MODULE:FUNCTION that returns a list",
        "training",
        affects_result=True,
        place="file",
        min_length=1,
    )


class DataSettings(CodeSettings):
    """The data set."""

    data: str = setting(
        "mnist",
        "`mnist` (downloaded once), `digits` (offline), an .npz by path or URI, or a function like --model's",
        "data",
        affects_result=True,
        place="data set",
        min_length=1,
    )


class TrainingDataSettings(DataSettings):
    """The training data: the validation part, the batches and their order."""

    # These two are None until the data were read, because a file may have its own validation part.
    validation_fraction: float | None = setting(
        None,
        "share of the training data for validation, unless the file has x_val",
        "data",
        affects_result=True,
        in_effect=0.2,
        gt=0,
        lt=1,
    )
    validation_split: Literal["stratified", "tail"] | None = setting(
        None,
        "`stratified` draws from each class; `tail` takes the end, as Keras does",
        "data",
        affects_result=True,
        in_effect="stratified",
    )
    class_weight: Annotated[
        Literal["balanced"] | dict[ClassNumber, Annotated[float, Field(ge=0, le=1_000_000)]] | None,
        BeforeValidator(class_weights),
    ] = setting(
        None,
        "weights of the classes in the training loss: `balanced`, 0=1,7=2.5, or a YAML file",
        "training",
        affects_result=True,
        place="file",
    )
    batch_size: int = setting(
        32, "images per optimizer step, over all workers together", "training", affects_result=True, ge=1, le=1_000_000
    )
    seed: int = setting(
        0,
        "random seed of the initial weights, the data's split and order",
        "training",
        affects_result=True,
        ge=0,
        lt=2**32,
    )


class LoopSettings(EndSettings, TrainingDataSettings, ModelSettings):
    """The training loop, and what it may use of its worker's node."""

    learning_rate: float = setting(1e-3, "Adam's learning rate", "training", affects_result=True, gt=0, le=100)
    learning_rate_schedule: Literal["cosine", "constant"] = setting(
        "cosine",
        "`cosine` lowers the learning rate to 0 during the run; `constant` keeps it",
        "training",
        affects_result=True,
    )
    hidden_layers: Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], BeforeValidator(split_commas)] = (
        setting(
            (128, 64),
            "units of each hidden layer, separated by commas",
            "training",
            affects_result=True,
            max_length=100,
        )
    )
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32",
        "numbers that layers compute with; weights stay float32",
        "training",
        affects_result=True,
    )
    batch_norm: Literal["synchronized", "per-worker"] = setting(
        "synchronized",
        "BatchNormalization by the whole batch, or by each worker's part",
        "training",
        affects_result=True,
    )
    # It does not affect the result: a run whose losses are finite has the same digits either way.
    on_nan: Literal["stop", "ignore"] = setting(
        "stop", "`stop` ends the run if the loss is not finite; `ignore` trains on", "training"
    )
    use_gpu: bool = setting(False, "train on GPUs, one for each worker", "where it runs", affects_result=True)
    cpus_per_worker: float = setting(
        1, "CPUs that Ray reserves for each worker; TensorFlow uses as many threads", "where it runs", gt=0, le=1024
    )
    worker_timeout: float = setting(
        120, "seconds after which a worker that does not answer counts as lost", "bounds", gt=0, le=86_400
    )

    @property
    def threads_per_worker(self) -> int:
        """The number of threads that TensorFlow may use in a worker: the CPUs of the worker, at least one."""
        return max(1, math.floor(self.cpus_per_worker))


class WorkersSettings(Part):
    """The number of workers, and how long the run waits for them."""

    workers: int | str = setting(
        2,
        "number of training processes; MIN:MAX adds more when there is room",
        "where it runs",
        affects_result=True,
    )
    max_failures: int = setting(
        3, "how often training may lose workers and resume from the last epoch", "bounds", ge=0, le=1000
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
