"""How many steps the workers take without a pause, and after which of them a checkpoint is saved within an epoch.

A compiled function cannot be left, and workers that wait for each other must take the same steps. So the first worker
decides at each pause, by its clock, and the others follow. Nothing in the mathematics depends on where the pauses are.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from mnist_job.training.batches import Batches
from mnist_job.training.passes import Training

PAUSE_SECONDS = 10  # a pause takes some 10 ms, a thousandth of it
FIRST_STEPS = 32  # as long as nothing was measured


class Pace:
    """The next pause, and the time of the next checkpoint.

    Attributes:
        pause: the step, over all epochs, of the next pause.

    """

    def __init__(
        self,
        step: int,
        minutes: float,
        agree: Callable[[Any], Any],
        is_leaving: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at a step, with a checkpoint after `minutes`.

        `agree` gives all workers what the first one has. `is_leaving` says to all whether a node will be taken away.
        """
        self._minutes, self._agree, self._is_leaving, self._clock = minutes, agree, is_leaving, clock
        self._saved = self._began = clock()
        self._from, self.pause = step, step + FIRST_STEPS

    def is_due(self) -> bool:
        """Return whether a checkpoint is due at this pause, and choose the next pause. All workers must call it.

        If a node will be taken away, one is due at each pause.
        """
        now = self._clock()
        steps_a_second = (self.pause - self._from) / max(now - self._began, 1e-3)
        seconds = min(PAUSE_SECONDS, self._minutes * 60)
        mine = (max(int(steps_a_second * seconds), 1), now - self._saved >= self._minutes * 60)
        steps, due = self._agree(mine)
        self._from, self._began = self.pause, now
        self.pause += steps
        return bool(due) or self._is_leaving()

    def saved(self) -> None:
        """Start the time to the next checkpoint again: one was saved."""
        self._saved = self._clock()


def taken(training: Training, batches: Batches, epoch: int, first: int, pace: Pace) -> Iterator[int]:
    """Take the steps of an epoch from `first` on. Yield each step within the epoch at which a checkpoint is due."""
    step, before = first, epoch * batches.steps
    for piece in batches.pieces(epoch, first):
        while step < piece.last:
            stop = min(pace.pause - before, piece.last)
            training.advance(piece.plan, step - piece.first, stop - piece.first)
            step = stop
            if before + step == pace.pause and pace.is_due() and step < batches.steps:
                yield step
