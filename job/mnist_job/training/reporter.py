"""Reports of the first worker's progress within an epoch.

An epoch is a few calls of a compiled function. So another thread reads the variable in which it keeps its sums.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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
    def epoch(self, epoch: int, first: int = 0) -> Iterator[None]:
        """Report the progress of this epoch while the context is open, and at its end if no error is raised.

        `first` steps of the epoch were taken before.
        """
        started = _Started(epoch, first, self._seen(), time.perf_counter())
        ended = threading.Event()
        reports = threading.Thread(target=self._report, args=(started, ended), name="live", daemon=True)
        reports.start()
        try:
            yield
        finally:
            ended.set()
            reports.join()
        self._tell(started)

    def _seen(self) -> float:
        return float(self._so_far.numpy()[1])

    def _report(self, started: "_Started", ended: threading.Event) -> None:
        while not ended.wait(REPORT_SECONDS):
            self._tell(started)

    def _tell(self, started: "_Started") -> None:
        loss, seen, _ = (float(x) for x in self._so_far.numpy())
        if seen == started.seen:  # the first step has not ended yet
            return
        now = time.perf_counter()
        step, images = self._batches.reached(seen - started.seen, started.step)
        steps = (started.epoch - 1) * self._batches.steps + step
        self._report_to(
            Progress(
                started.epoch,
                step,
                self._batches.steps,
                train_loss=finite(loss / seen),
                images_per_second=images / (now - started.time),
                remaining_seconds=(now - self._began) / (steps - self._steps_before) * (self._all_steps - steps),
            )
        )


class _Started(NamedTuple):
    """Where this start of the workers has begun an epoch: `seen` is what the sums had of its images then.

    After a start with another number of workers, the first one's sums have the images of all former workers.
    """

    epoch: int
    step: int
    seen: float
    time: float
