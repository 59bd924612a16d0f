"""How far training is, while it runs: the first worker tells the journal, and the driver shows it as Ray metrics.

An epoch is a single call of a compiled function, so a thread beside it reads the variable in which that keeps its sums.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnist_job.config.settings import JobConfig
from mnist_job.distributed.journal import Journal, Progress
from ray.util.metrics import Gauge

if TYPE_CHECKING:  # the driver does without TensorFlow
    from mnist_job.training.batches import ResidentBatches

REPORT_SECONDS = 1.0
REPEAT_SECONDS = 5.0  # Ray drops a value that was not set again within two of its reports, 20 s

# Ray puts `ray_` before each name: none is taken for a metric of the outcome.
GAUGES = {
    "mnist_job_live_epoch": "The epoch that training is in, from 1.",
    "mnist_job_live_step": "Steps of the optimizer since the beginning of training.",
    "mnist_job_live_progress_ratio": "Share of training that is done.",
    "mnist_job_live_train_loss": "Mean loss over the images of this epoch that the first worker has had.",
    "mnist_job_live_images_per_second": "Images that all workers trained on, by the second of this epoch.",
    "mnist_job_live_remaining_seconds": "Estimated time until the end of training.",
}


class Reporter:
    """In the first worker: tells the journal each second, and at each epoch's end, how far it is.

    `so_far` is a variable with this worker's sums over the epoch: loss, correct images, images. `done` of the `epochs`
    were trained before.
    """

    def __init__(self, journal: Journal, so_far: Any, batches: "ResidentBatches", epochs: int, *, done: int) -> None:
        self._journal, self._so_far, self._batches = journal, so_far, batches
        self._all_steps, self._steps_before = epochs * batches.steps, done * batches.steps
        self._began = time.perf_counter()

    @contextmanager
    def epoch(self, epoch: int) -> Iterator[None]:
        """While this is open, that epoch is trained. It is over at the end, if no exception says otherwise."""
        self._so_far.assign([0.0, 0.0, 0.0])
        began, ended = time.perf_counter(), threading.Event()
        reports = threading.Thread(target=self._report, args=(epoch, began, ended), name="live", daemon=True)
        reports.start()
        try:
            yield
        finally:
            ended.set()
            reports.join()
        self._tell(epoch, began)

    def _report(self, epoch: int, began: float, ended: threading.Event) -> None:
        while not ended.wait(REPORT_SECONDS):
            self._tell(epoch, began)

    def _tell(self, epoch: int, began: float) -> None:
        loss, _, seen = (float(x) for x in self._so_far.numpy())
        if not seen:  # the first step is not over
            return
        now = time.perf_counter()
        step, images = self._batches.reached(seen)
        steps = (epoch - 1) * self._batches.steps + step
        self._journal.write(
            Progress(
                epoch,
                step,
                self._batches.steps,
                train_loss=loss / seen,
                images_per_second=images / (now - began),
                remaining_seconds=(now - self._began) / (steps - self._steps_before) * (self._all_steps - steps),
            )
        )


class Gauges:
    """In the driver, connected to Ray: the metrics of a job."""

    @classmethod
    @contextmanager
    def opened(cls, config: JobConfig) -> Iterator["Gauges"]:
        """While this is open the last values stay, also when nothing moves: an alert looks for that."""
        gauges, ended = cls(config), threading.Event()
        repeats = threading.Thread(target=gauges._repeat, args=(ended,), name="gauges", daemon=True)
        repeats.start()
        try:
            yield gauges
        finally:
            ended.set()
            repeats.join()

    def __init__(self, config: JobConfig) -> None:
        self._tags, self._epochs = {"name": config.name}, config.epochs
        self._gauges = {name: Gauge(name, text, ("name",)) for name, text in GAUGES.items()}
        self._values: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        """Set them all."""
        self._values = values(progress, self._epochs)
        self._set()

    def _set(self) -> None:
        for name, value in self._values.items():
            self._gauges[name].set(value, self._tags)

    def _repeat(self, ended: threading.Event) -> None:
        while not ended.wait(REPEAT_SECONDS):
            self._set()


def values(progress: Progress, epochs: int) -> dict[str, float]:
    """The metrics by their names, of so many epochs in all."""
    steps = (progress.epoch - 1) * progress.steps + progress.step
    return {
        "mnist_job_live_epoch": progress.epoch,
        "mnist_job_live_step": steps,
        "mnist_job_live_progress_ratio": steps / (epochs * progress.steps),
        "mnist_job_live_train_loss": progress.train_loss,
        "mnist_job_live_images_per_second": progress.images_per_second,
        "mnist_job_live_remaining_seconds": progress.remaining_seconds,
    }
