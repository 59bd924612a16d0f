"""Test which process evaluates: the one that was started early, or another one if the first gets no CPU."""

import threading

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import sources
from mnist_job.distributed import cluster
from mnist_job.evaluation import task
from mnist_job.evaluation.task import Candidate, Evaluator
from mnist_job.storage.files import File
from mnist_job.usercode.files import Code


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.connected(JobConfig()):
        yield


def process(*, may_hurry: bool, early_is_done: bool):
    class Process:
        """Stands for the process of the evaluation. Its import ends, or never does."""

        def __init__(self, _config, _code, *, early: bool) -> None:
            self._early = early

        def hurry(self) -> bool:
            return may_hurry

        def wait_for_import(self) -> None:
            if self._early and not early_is_done:
                threading.Event().wait()

        def evaluate(self, _candidate, _data, _checked) -> str:
            return "early" if self._early else "other"

    return Process


@pytest.mark.parametrize(
    ("may_hurry", "early_is_done", "winner"), [(False, False, "other"), (False, True, "early"), (True, True, "early")]
)
def test_an_early_process_that_may_not_hurry_is_not_waited_for_alone(monkeypatch, may_hurry, early_is_done, winner):
    monkeypatch.setattr(task, "_Process", process(may_hurry=may_hurry, early_is_done=early_is_done))
    monkeypatch.setattr(task, "HEAD_START_SECONDS", 30.0 if early_is_done else 0.01)
    evaluator = Evaluator(JobConfig(), Code())
    evaluator.prepare(cluster.this_node())
    assert evaluator.evaluate(Candidate(File(None, "model.keras"), "model.keras"), sources.read("digits"), {}) == winner
