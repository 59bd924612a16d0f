"""The settings of the commands, made of the parts in `mnist_job.config.parts`.

Each is a flag `--batch-size`, a variable `MNIST_JOB_BATCH_SIZE` and a key `batch_size` of a file; the first wins.
"""

import hashlib
import json
from typing import Any

from pydantic import ValidationInfo, field_validator

from mnist_job.config.parts import DeliverySettings, EvaluatorSettings, GateSettings, RaySettings, TrainerSettings
from mnist_job.config.setting import Part, declared, setting
from mnist_job.config.texts import worker_range
from mnist_job.config.training import DataSettings, SplitSettings

FORMER_DEFAULTS: dict[str, Any] = {
    "validation_split": "tail",
    "model": None,
    "model_args": {},
    "patience": None,
    "keep": "last",
    "monitor": "validation_loss",
    "callbacks": None,
    "class_weight": None,
    "precision": "float32",
    "batch_norm": "synchronized",
    "test_fraction": None,
    "image_size": None,
    "label": None,
    "features": [],
    "data_arrays": {},
}
"""The values that were fixed before there was a setting for them. Old records and outcomes do not contain them."""


def _name(default: str) -> Any:
    return setting(
        default,
        "the job's name, for its folder and the metrics' label `job`",
        "where results go",
        pattern=r"^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$",
        max_length=63,
    )


class RunSettings(Part):
    """The run as a whole."""

    name: str = _name("mnist-job")
    output: str = setting(
        "runs",
        "path or URI of the folder in which the job's folder is created",
        "where results go",
        place="folder",
        min_length=1,
    )
    timeout: float | None = setting(
        None,
        "end the run after this many seconds, with the exit code of its current stage",
        "bounds",
        gt=0,
        le=31_536_000,
    )


class Settings(EvaluatorSettings, DataSettings, DeliverySettings, GateSettings, RunSettings):
    """The settings that `run` and `evaluate` have in common."""

    def affecting_result(self) -> dict[str, Any]:
        """Return the settings that can change the trained model, as values for JSON."""
        return self.model_dump(mode="json", include=self.fields_affecting_result())

    @classmethod
    def fields_affecting_result(cls) -> set[str]:
        """Return the names of the settings that can change the trained model."""
        return {name for name, field in cls.model_fields.items() if declared(field, "affects_result")}

    def config_hash(self) -> str:
        """Return the first 12 hex digits of the SHA-256 of `affecting_result()`. Equal hashes mean equal settings."""
        canonical = json.dumps(self.affecting_result(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class JobConfig(TrainerSettings, Settings):  # type: ignore[misc]  # the plugin gives both a `model_construct`
    """The settings of `mnist-job run`. The defaults are those of the reference notebook, plus cosine decay and a
    stratified split.
    """

    @field_validator("hidden_layers")
    @classmethod
    def _are_those_of_the_reference_network(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if info.data.get("model") is not None and value != cls.model_fields["hidden_layers"].default:
            raise ValueError("are those of the reference network; give your function arguments by --model-args")
        return value

    @field_validator("batch_size")
    @classmethod
    def _has_an_image_for_each_worker(cls, value: int, info: ValidationInfo) -> int:
        most = worker_range(info.data.get("workers", 1))[1]
        if value < most:
            raise ValueError(f"is less than one image for each of {most} workers")
        return value


class EvaluateConfig(Settings):
    """The settings of `mnist-job evaluate`."""

    name: str = _name("mnist-job-evaluation")
    model: str = setting(
        ..., "path or URI of a saved .keras model", "data", affects_result=True, place="file", min_length=1
    )


class PrepareConfig(SplitSettings, RaySettings):
    """The settings of `mnist-job prepare`."""

    destination: str = setting(..., "path or URI of the folder to write", "data", place="folder", min_length=1)
    shard_megabytes: float = setting(8, "size of a shard's inputs before compression", "data", gt=0, le=1024)
