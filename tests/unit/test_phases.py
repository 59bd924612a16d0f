import pytest

from mnist_job import phases
from mnist_job.phases import Clock


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """A clock whose time the test sets."""
    at = [100.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: at[0])
    return at


def test_every_second_goes_to_a_phase(now):
    clock = Clock()
    now[0] += 2
    clock.ended("data")
    now[0] += 5
    clock.ended("worker_start", {"imports": 3.0, "setup": 0.5})
    now[0] += 1
    clock.ended("data")
    assert clock.seconds == {"data": 3, "worker_start": 1.5, "imports": 3, "setup": 0.5}


def test_a_phase_measured_elsewhere_may_name_the_rest(now):
    clock = Clock()
    now[0] += 4
    clock.ended("training", {"training": 3.0, "checkpoint": 0.5})
    assert clock.seconds == {"training": 3.5, "checkpoint": 0.5}


def test_what_another_clock_measured_stays_and_all_seconds_are_counted_once(now):
    clock = Clock()
    now[0] += 1
    clock.ended("training", {"training": 1.25})
    assert clock.seconds == {"training": 1.25}
    now[0] += 1
    clock.ended("worker_stop")
    assert clock.seconds == {"training": 1.25, "worker_stop": 0.75}


def test_what_was_handed_over_is_not_counted_again(now):
    clock = Clock()
    now[0] += 1
    clock.ended("imports")
    assert clock.handed_over() == {"imports": 1}
    assert clock.seconds == {}
