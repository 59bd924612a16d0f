"""When training ends, and which epoch's model is kept: functions of the history and the settings, and of nothing else.

So all workers decide the same, because they have the same history, and so does a run that resumes.
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mnist_job.bounds import CHECKPOINTS_TO_KEEP
from mnist_job.config.training import LoopSettings
from mnist_job.errors import UsageError
from mnist_job.training.progress import Epoch

PARTS = ("train", "validation")
OF_THE_REFERENCE = ("loss", "accuracy")  # what the loop measures of the reference network
DIRECTIONS = ("min", "max")
# Words in the names of losses and metrics, between underscores. They cover Keras's own.
_LESS = "loss|error|crossentropy|hinge|divergence|logcosh|poisson|perplexity|mae|mse|rmse|mape|msle"
_MORE = "accuracy|acc|auc|precision|recall|f1|fbeta|iou|io_u|r2|similarity|correlation|sensitivity|specificity"


class Monitor(NamedTuple):
    """A column of the history, and whether its greatest value is the best, or its least."""

    column: str
    greatest: bool

    def value(self, row: Epoch) -> float:
        """Return the value of an epoch, the greater the better. One that is not finite is worse than all others."""
        part, _, name = self.column.partition("_")
        value = row.measured("train" if part == "train" else "validation").get(name)
        return -math.inf if value is None else value if self.greatest else -value


def monitor(text: str) -> Monitor:
    """Read the value of `--monitor`. Raises UsageError if it is no column, or if its name says no direction."""
    column, _, direction = text.partition(":")
    if not column.startswith(tuple(f"{part}_" for part in PARTS)) or (":" in text and direction not in DIRECTIONS):
        raise UsageError(
            f"--monitor {text}: is not NAME, NAME:min or NAME:max, with a NAME like validation_loss or train_accuracy"
        )
    found = [greatest for words, greatest in ((_LESS, False), (_MORE, True)) if _has(words, column)]
    if direction:
        found = [direction == "max"]
    if len(found) != 1:
        raise UsageError(
            f"--monitor {text}: is the least value of {column} the best, or the greatest? Give {column}:min or "
            f"{column}:max"
        )
    return Monitor(column, found[0])


def check(config: LoopSettings, measured: Collection[str]) -> None:
    """Check `--monitor` for a model that measures these values, by their names. Raises UsageError."""
    part, _, name = monitor(config.monitor).column.partition("_")
    if name not in measured:
        there = ", ".join(f"{part}_{name}" for name in measured)
        raise UsageError(f"--monitor {config.monitor}: the model does not measure it; it measures {there}")


def best_epoch(history: Sequence[Epoch], config: LoopSettings) -> int:
    """Return the number of the best epoch, from 1: the first one of those with the best value."""
    by = monitor(config.monitor)
    return max(history, key=by.value).epoch


def kept_epoch(history: Sequence[Epoch], config: LoopSettings) -> int:
    """Return the number of the epoch whose model is the result if training ends with this history."""
    return best_epoch(history, config) if config.keep == "best" else len(history)


def epochs_to_keep(history: Sequence[Epoch], config: LoopSettings) -> set[int]:
    """Return the epochs whose checkpoints stay in the folder besides the newest CHECKPOINTS_TO_KEEP.

    If the newest checkpoint gets damaged, a run resumes from an older one, and needs the best epoch as of that one.
    """
    if config.keep == "last":
        return set()
    lengths = range(max(len(history) - CHECKPOINTS_TO_KEEP, 0) + 1, len(history) + 1)
    return {best_epoch(history[:length], config) for length in lengths}


def ended(history: Sequence[Epoch], config: LoopSettings) -> str | None:
    """Return in a sentence why training has ended with this history, or None if it goes on."""
    if not history:
        return None
    if (callback := history[-1].stopped_by) is not None:
        return f"the callback {callback} stopped it"
    if len(history) >= config.epochs:
        return "all epochs are trained"
    if config.patience is not None and len(history) - best_epoch(history, config) >= config.patience:
        epochs = "epoch" if config.patience == 1 else "epochs"
        return f"{monitor(config.monitor).column} has not improved for {config.patience} {epochs}"
    return None


def _has(words: str, column: str) -> bool:
    return re.search(rf"(_|^)({words})(?![a-z])", column) is not None
