"""The outcome of a run as data."""

import csv
import io
import json
import platform
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
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
    """The identity of a run. `run` is unique, and sorts by time. `started` is in Unix time.

    `versions` are those of Python and the libraries in the driver's environment. It is empty in old outcomes, which did
    not store them. `code` has the SHA-256 of each file of the user's code.
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
    code: dict[str, str] = field(default_factory=dict)

    def with_settings(self, config: Settings, data_sha256: str, code: dict[str, str]) -> "Identity":
        """Return the identity with the settings and checksums that are known after reading the data and the code."""
        settled = config.model_dump(mode="json")
        return replace(self, config=settled, config_hash=config.config_hash(), data_sha256=data_sha256, code=code)

    @classmethod
    def of(cls, config: Settings) -> "Identity":
        """Return the identity of a new run of `config` that starts now."""
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
    """Return the installed versions. They come from the packages' metadata, to avoid importing TensorFlow."""
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
    """The record of a training: the number of `workers` at its end, its `restarts`, its `seconds` and its history.

    `restarts` and `seconds` count from the last resume. They are None if this run only had to evaluate, and `workers`
    is None if the checkpoint does not say. `kept_epoch` is the epoch whose model was evaluated, and `ended` says why
    training ended. Both are None in old outcomes, which kept the last epoch.
    """

    workers: int | None
    restarts: int | None
    seconds: float | None
    history: list[Epoch]
    kept_epoch: int | None = None
    ended: str | None = None

    @property
    def kept(self) -> Epoch:
        """The row of the epoch whose model was evaluated."""
        return self.history[-1 if self.kept_epoch is None else self.kept_epoch - 1]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: `exit_code` 0 and no reason, or the exit code of its failure and a sentence as the reason.

    `phases` has the seconds of each phase (`mnist_job.phases.PHASES`) until the delivery. `training` is None if this
    run did not train a model, and `evaluation` is None if the run ended before it.
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
        """Return the content of `outcome.json`. Raises ValueError for NaN and infinity, to never publish them."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Outcome":
        """Read the content of `outcome.json`. Raises ValueError if it is not valid."""
        return TypeAdapter(cls).validate_json(content)

    def history_csv(self) -> str:
        """Return the content of `history.csv`: one row for each epoch."""
        text = io.StringIO()
        rows = [row.columns() for row in self.training.history] if self.training else []
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
