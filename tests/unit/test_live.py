"""Test the metrics of a run in progress, without Ray. tests/ray/test_prometheus.py reads them from a real one."""

import queue
import threading

from mnist_job.results import live
from mnist_job.training.progress import Progress

PROGRESS = Progress(2, 5, 10, 0.5, 1000.0, 60.0)
SHOWN = {
    "mnist_job_live_epoch": 2,
    "mnist_job_live_step": 15,
    "mnist_job_live_progress_ratio": 0.375,
    "mnist_job_live_train_loss": 0.5,
    "mnist_job_live_images_per_second": 1000,
    "mnist_job_live_remaining_seconds": 60,
}


def test_the_last_values_are_set_again_while_nothing_moves(monkeypatch):
    """Ray removes metrics that are not set again, and an alert needs them to find a training without progress."""
    was_set = queue.Queue()

    class Gauge:
        def __init__(self, name, text, tags):
            self._name = name

        def set(self, value, tags):
            was_set.put((threading.current_thread(), self._name, value, tags))

    monkeypatch.setattr(live, "Gauge", Gauge)
    monkeypatch.setattr(live, "REPEAT_SECONDS", 0)
    again = []
    with live.Gauges.opened("nightly", 4) as gauges:
        gauges.show(PROGRESS)
        while len(again) < 2 * len(SHOWN):
            by, *what = was_set.get(timeout=60)
            if by is not threading.current_thread():
                again.append((by, *what))
    assert [what for _, *what in again] == 2 * [[name, value, {"name": "nightly"}] for name, value in SHOWN.items()]
    assert [by.name for by, *_ in again if by.is_alive()] == []


def test_a_loss_that_is_not_finite_is_absent():
    assert set(SHOWN) - set(live.values(PROGRESS._replace(train_loss=None), 4)) == {"mnist_job_live_train_loss"}
