"""Test threads with low priority, which is raised when others wait for them. The tests ask the scheduler."""

import os
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from mnist_job.config.settings import EvaluateConfig
from mnist_job.data import dataset, sources
from mnist_job.errors import EvaluationError
from mnist_job.evaluation import task
from mnist_job.storage.files import File
from mnist_job.system import priority
from mnist_job.usercode.files import Code

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads that yield")
# Whether the user who runs the tests may raise a thread's priority again (sched(7)).
ALLOWED = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20
PATIENCE_SECONDS = 60


def scheduler(thread: int) -> int:
    return os.sched_getscheduler(thread)


@pytest.fixture
def yielding():
    """Yield the ids of a thread with low priority, and of a thread that it has started."""
    ids, end = [], threading.Event()

    def child() -> None:
        ids.append(threading.get_native_id())
        end.wait()

    def parent() -> None:
        started = threading.Thread(target=child)
        started.start()
        ids.append(threading.get_native_id())
        started.join()

    pool = ThreadPoolExecutor(1, initializer=priority.yield_to_others)
    done = pool.submit(parent)
    while len(ids) < 2:
        assert not done.done()
        time.sleep(0.001)
    yield ids
    end.set()
    pool.shutdown()


def test_a_thread_and_what_it_started_take_their_share_again(yielding):
    assert {scheduler(thread) for thread in yielding} == {os.SCHED_IDLE}
    assert priority.take_full_share() == ALLOWED
    assert {scheduler(thread) for thread in yielding} == {os.SCHED_OTHER if ALLOWED else os.SCHED_IDLE}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_where_it_is_not_allowed_that_is_said():
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from mnist_job.system import priority; "
        "os.setresuid(65534, 65534, 65534); "
        "priority.yield_to_others(); print(priority.take_full_share(), os.sched_getscheduler(0) == os.SCHED_IDLE)"
    )
    command = [sys.executable, "-c", script, str(Path("job").absolute())]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
    assert told.split() == ["False", "True"]


def test_nothing_has_to_be_allowed_where_nothing_yields():
    assert priority.take_full_share()


@pytest.mark.skipif(not ALLOWED, reason="this user may not let a thread stop yielding")
def test_the_early_import_takes_its_share_when_the_evaluation_is_asked_for(npz, monkeypatch):
    seen = []

    def slow_import() -> None:
        seen.append(scheduler(0))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while scheduler(0) == os.SCHED_IDLE and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(scheduler(0))

    monkeypatch.setattr(task, "_import_keras", slow_import)
    config = EvaluateConfig(data=str(npz()), model="none.keras", verbose=True)
    process = task._Process(config, Code(), early=True)
    data = sources.read(config.data)
    with pytest.raises(EvaluationError, match=r"^none\.keras: cannot be read"):
        process.evaluate(
            task.Candidate(File(fs.LocalFileSystem(), "/none.keras"), "none.keras"), data, dataset.check_test(data)[0]
        )
    assert seen == [os.SCHED_IDLE, os.SCHED_OTHER]
