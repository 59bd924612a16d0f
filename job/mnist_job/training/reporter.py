"""Reports of the first worker's progress within an epoch.

An epoch is a few calls of a compiled function. So another thread reads the variable in which it keeps its sums.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mnist_job.training.batches import Batches
from mnist_job.training.progress import Progress, Tell, finite

REPORT_SECONDS = 1.0


class Reporter:
    """A reporter in the first worker: it sends a Progress each second and at each epoch's end.

    `so_far` is a variable with this worker's sums over the epoch: the loss, the images, and the hits. `done` is
    the number of steps, over all epochs, that were taken before this start.
    """

    def __init__(self, tell: Tell, so_far: Any, batches: Batches, epochs: int, *, done: int) -> None:
        self._report_to, self._so_far, self._batches = tell, so_far, batches
        self._all_steps, self._steps_before = epochs * batches.steps, done
        self._began = time.perf_counter()

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[None]:
        """Report the progress of this epoch while the context is open, and at its end if no error is raised."""
        began, before, ended = time.perf_counter(), self._seen(), threading.Event()
        reports = threading.Thread(target=self._report, args=(epoch, began, before, ended), name="live", daemon=True)
        reports.start()
        try:
            yield
        finally:
            ended.set()
            reports.join()
        self._tell(epoch, began, before)

    def _seen(self) -> float:
        return float(self._so_far.numpy()[1])

    def _report(self, epoch: int, began: float, before: float, ended: threading.Event) -> None:
        while not ended.wait(REPORT_SECONDS):
            self._tell(epoch, began, before)

    def _tell(self, epoch: int, began: float, before: float) -> None:
        loss, seen, _ = (float(x) for x in self._so_far.numpy())
        if seen == before:  # the first step has not ended yet
            return
        now = time.perf_counter()
        step, images = self._batches.reached(seen)
        images -= self._batches.reached(before)[1]
        steps = (epoch - 1) * self._batches.steps + step
        self._report_to(
            Progress(
                epoch,
                step,
                self._batches.steps,
                train_loss=finite(loss / seen),
                images_per_second=images / (now - began),
                remaining_seconds=(now - self._began) / (steps - self._steps_before) * (self._all_steps - steps),
            )
        )
