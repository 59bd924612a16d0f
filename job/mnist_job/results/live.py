"""The progress of training as Ray metrics, which Prometheus scrapes from the cluster."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.metrics import Gauge

from mnist_job.training.progress import Progress

REPEAT_SECONDS = 5.0  # Ray drops a value that was not set again for two of its reports, 20 s

# Ray adds the prefix `ray_` to each name.
GAUGES = {
    "mnist_job_live_epoch": "The epoch that training is in, from 1.",
    "mnist_job_live_step": "Steps of the optimizer since the beginning of training.",
    "mnist_job_live_progress_ratio": "Share of training that is done.",
    "mnist_job_live_train_loss": "Mean loss over the images of this epoch that the first worker has trained on.",
    "mnist_job_live_images_per_second": "Images per second of all workers together, in this epoch.",
    "mnist_job_live_remaining_seconds": "Estimated time until the end of training.",
}


class Gauges:
    """The metrics of the job `name`, which trains `epochs` epochs. Use them in the driver, connected to Ray."""

    @classmethod
    @contextmanager
    def opened(cls, name: str, epochs: int) -> Iterator["Gauges"]:
        """Publish metrics in this context. Keep the last values even without progress: an alert checks for that."""
        gauges, ended = cls(name, epochs), threading.Event()
        repeats = threading.Thread(target=gauges._repeat, args=(ended,), name="gauges", daemon=True)
        repeats.start()
        try:
            yield gauges
        finally:
            ended.set()
            repeats.join()

    def __init__(self, name: str, epochs: int) -> None:
        self._tags, self._epochs = {"name": name}, epochs
        self._gauges = {name: Gauge(name, text, ("name",)) for name, text in GAUGES.items()}
        self._values: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        """Set all metrics."""
        self._values = values(progress, self._epochs)
        self._set()

    def _set(self) -> None:
        for name, value in self._values.items():
            self._gauges[name].set(value, self._tags)

    def _repeat(self, ended: threading.Event) -> None:
        while not ended.wait(REPEAT_SECONDS):
            self._set()


def values(progress: Progress, epochs: int) -> dict[str, float]:
    """Return the value of each metric by its name. `epochs` is the number of epochs of the whole training.

    A loss that is not finite has no value. Ray then drops the last one.
    """
    steps = (progress.epoch - 1) * progress.steps + progress.step
    known = {
        "mnist_job_live_epoch": progress.epoch,
        "mnist_job_live_step": steps,
        "mnist_job_live_progress_ratio": steps / (epochs * progress.steps),
        "mnist_job_live_train_loss": progress.train_loss,
        "mnist_job_live_images_per_second": progress.images_per_second,
        "mnist_job_live_remaining_seconds": progress.remaining_seconds,
    }
    return {name: value for name, value in known.items() if value is not None}
