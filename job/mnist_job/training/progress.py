"""The messages that the first worker sends to the driver during training. The driver displays and stores them.

A value that is not finite is None in them: nothing that is published has a NaN or an infinity.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple


def finite(value: float) -> float | None:
    """Return the value, or None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Epoch:
    """A line of the history. Losses are means over all images. `learning_rate` is that of the epoch's first step.

    The training loss and metrics are measured during the epoch, each batch before its update. An accuracy is None if
    the model was compiled without it. (Old histories have no `train_accuracy`.) `train_metrics` and
    `validation_metrics` have the other metrics that the model was compiled with, by their names. Losses and metrics
    that are not finite are None. `stopped_by` is the class of the callback that ended training after this epoch.
    """

    epoch: int
    train_loss: float | None
    train_accuracy: float | None = field(default=None, kw_only=True)
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    train_metrics: dict[str, float | None] = field(default_factory=dict)
    validation_metrics: dict[str, float | None] = field(default_factory=dict)
    stopped_by: str | None = None

    def measured(self, part: Literal["train", "validation"]) -> dict[str, float]:
        """Return the loss, the accuracy and the other metrics of this part, by their names: those that are not None."""
        values: dict[str, float | None] = {"loss": getattr(self, f"{part}_loss")}
        values |= {"accuracy": getattr(self, f"{part}_accuracy")} | getattr(self, f"{part}_metrics")
        return {name: value for name, value in values.items() if value is not None}

    def columns(self) -> dict[str, Any]:
        """Return it as a flat mapping, with a column for each metric, like `train_auc` and `validation_auc`."""
        columns = asdict(self)
        del columns["stopped_by"]
        for part in ("train", "validation"):
            columns |= {f"{part}_{name}": value for name, value in columns.pop(f"{part}_metrics").items()}
        return columns


class Progress(NamedTuple):
    """The progress within an epoch: `step` of `steps` are done. `step` and `epoch` count from 1.

    `train_loss` is the mean over the images that the first worker has trained on in this epoch, or None if it is not
    finite. `images_per_second` is the sum of all workers in this epoch. `remaining_seconds` is the estimated time to
    the end of training.
    """

    epoch: int
    step: int
    steps: int
    train_loss: float | None
    images_per_second: float
    remaining_seconds: float


class Start(NamedTuple):
    """The start of training on this many workers. `damaged` describes checkpoints that were skipped.

    `node` is the first worker's node, and `phases` are the seconds that this worker has spent so far. Training goes on
    in `epoch`, from 1, of which `step` steps are done.
    """

    workers: int
    damaged: list[str]
    node: str
    phases: dict[str, float]
    epoch: int = 1
    step: int = 0


class Spent(NamedTuple):
    """The seconds of each phase that the first worker has spent since its last `Spent` or its `Start`."""

    phases: dict[str, float]


class Restart(NamedTuple):
    """The loss of workers. All workers restart from the last checkpoint."""

    reason: str


class End(NamedTuple):
    """The end of training: Ray Train has returned."""


News = Start | Progress | Epoch | Restart
"""The entries that are displayed."""

Entry = News | Spent | End

Tell = Callable[[Entry], object]
"""A function that the workers call with each entry."""
