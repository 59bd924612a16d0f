"""What is told of a training in progress: the first worker tells the driver, which shows and keeps it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Epoch:
    """A line of the history. Losses are means over all images; the learning rate is that of the epoch's first step.

    Training is measured while the weights change, each batch before its update. (`train_accuracy` is None in histories
    of before it was measured.)
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None = field(default=None, kw_only=True)
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


class Progress(NamedTuple):
    """How far training is, within an epoch: after `step` of its `steps`, counted from 1 like `epoch`.

    `train_loss` is the mean over the images of this epoch that the first worker has had: its part of each batch.
    `images_per_second` is all workers' in this epoch. `remaining_seconds` lead to the end of training.
    """

    epoch: int
    step: int
    steps: int
    train_loss: float
    images_per_second: float
    remaining_seconds: float


class Start(NamedTuple):
    """So many workers begin to train, after passing over checkpoints that were damaged.

    `node` is the first one's, `phases` are the seconds that it has spent until now.
    """

    workers: int
    damaged: list[str]
    node: str
    phases: dict[str, float]


class Spent(NamedTuple):
    """The seconds, by phase, that the first worker has spent since its last entry of this kind, or its start."""

    phases: dict[str, float]


class Restart(NamedTuple):
    """Workers were lost; all start again from the last checkpoint, if failures are left."""

    reason: str


class End(NamedTuple):
    """Ray Train has returned."""


News = Start | Progress | Epoch | Restart
"""What is shown of a run in progress."""

Entry = News | Spent | End

Tell = Callable[[Entry], object]
"""Whom the workers tell."""
