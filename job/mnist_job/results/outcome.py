"""What a run ends with, as data."""

import csv
import io
import json
import platform
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import TypeAdapter

from mnist_job import __version__
from mnist_job.config.settings import Settings
from mnist_job.data import sources
from mnist_job.evaluation.measures import Evaluation
from mnist_job.training.progress import Epoch


@dataclass(frozen=True)
class Identity:
    """Which run this is. `run` is unique, and sorts by time; `started` is Unix time.

    `versions` are those of what it ran on, where the driver runs; empty in outcomes of before they were kept.
    """

    name: str
    run: str
    version: str
    dataset: str
    config: dict[str, Any]
    config_hash: str
    started: float
    data_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def with_settings(self, config: Settings, data_sha256: str) -> "Identity":
        """The same run, with what was settled when its data were looked at."""
        settled = config.model_dump(mode="json")
        return replace(self, config=settled, config_hash=config.config_hash(), data_sha256=data_sha256)

    @classmethod
    def of(cls, config: Settings) -> "Identity":
        """A new run of `config`, starting now."""
        now = datetime.now(UTC)
        return cls(
            name=config.name,
            run=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}",
            version=__version__,
            dataset=sources.name(config.data),
            config=config.model_dump(mode="json"),
            config_hash=config.config_hash(),
            started=now.timestamp(),
            versions=_versions(),
        )


def _versions() -> dict[str, str]:
    """By what the packages say of themselves: the driver does not import TensorFlow."""
    found = {"Python": platform.python_version()}
    for title, package in (
        ("TensorFlow", "tensorflow"),
        ("TensorFlow", "tensorflow-cpu"),
        ("Keras", "keras"),
        ("Ray", "ray"),
    ):
        with suppress(PackageNotFoundError):
            found[title] = version(package)
    return found


@dataclass(frozen=True)
class TrainingRecord:
    """How training went: with how many `workers` at its end; `restarts` and `seconds` since the job was last resumed.

    Each is None where it is not known: where this run had only the evaluation left, or the checkpoint does not say.
    The last epoch's losses and accuracy are those of the model that was evaluated.
    """

    workers: int | None
    restarts: int | None
    seconds: float | None
    history: list[Epoch]


@dataclass(frozen=True)
class Outcome:
    """The end of a run, good or bad: `exit_code` 0 and no reason, or the code and the sentence of its failure.

    `phases` says where the time went until its delivery (`mnist_job.phases.PHASES`), in seconds.
    `training` is None where the model came from elsewhere, `evaluation` where the run ended before it.
    """

    identity: Identity
    finished: float
    exit_code: int
    reason: str | None = None
    training: TrainingRecord | None = None
    evaluation: Evaluation | None = None
    evaluation_seconds: float | None = None
    model_sha256: str | None = None
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    def to_json(self) -> str:
        """`outcome.json`. Refuses values that JSON has no words for (ValueError): NaN is never published."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Outcome":
        """What `to_json` wrote. Raises ValueError for anything else."""
        return TypeAdapter(cls).validate_json(content)

    def history_csv(self) -> str:
        """`history.csv`: a row an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [column.name for column in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        if self.training is not None:
            writer.writerows(asdict(row) for row in self.training.history)
        return text.getvalue()
