"""Test two runs of one name on a store without locks: only one continues, but a killed run does not stop the next."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import fs

from mnist_job import bounds
from mnist_job.config.settings import JobConfig
from mnist_job.errors import UsageError
from mnist_job.results import earlier
from mnist_job.results.earlier import Record
from mnist_job.storage import files
from mnist_job.storage.folder import RECORD, RunFolder
from mnist_job.storage.lease import Lease
from tests.conftest import WAIT_SECONDS
from tests.store import LATER, RUN

MINE = Record.of(JobConfig(data="digits").model_dump(mode="json"), "ab")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Restore the default for Ctrl-C, because an earlier test of the command line may have changed it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Renew and check leases often. Their duration stays the same."""
    monkeypatch.setattr(bounds, "LEASE_RENEWAL_SECONDS", 0.02)
    monkeypatch.setattr(bounds, "LEASE_LOOK_SECONDS", 0.01)


@pytest.fixture(params=["s3", "disk"])
def output(request, tmp_path) -> str:
    """Return a place on a real S3 server, and on a disk that is treated as a store."""
    if request.param == "disk":
        return f"store://{tmp_path}/out"
    parameters, _ = request.getfixturevalue("bucket")
    return f"s3://bucket/{tmp_path.name}{parameters}"  # moto's servers in one process share their buckets


def begin(folder: RunFolder, run: str) -> None:
    earlier.settle(folder, MINE, run, force=False, dry_run=False)
    checkpoint = f"{folder.checkpoints}/0000001-{run}"
    folder.filesystem.create_dir(checkpoint, recursive=True)
    folder.write(f"checkpoints/0000001-{run}/model.keras", b"weights")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_second_run_is_refused_and_touches_nothing_of_the_first(output, dry_run):
    told: list[str] = []
    with RunFolder.opened(output, "job", RUN) as first:
        begin(first, RUN)
        with (
            pytest.raises(UsageError, match=rf"job: another run of this name \({RUN}\) is in progress; wait for"),
            RunFolder.opened(output, "job", LATER, dry_run=dry_run, replaces=True, tell=told.append),
        ):
            pass
        assert json.loads(first.read(f"{first.work}/{RECORD}") or b"")["run"] == RUN
        assert first.lease is not None
        first.lease.renew()
        assert first.has_checkpoints()
    assert len(told) == 1
    assert told[0].startswith(f"run {RUN} of this name has not ended; waiting up to 45 s")
    with RunFolder.opened(output, "job", LATER, dry_run=dry_run) as second:  # the first run has ended
        assert second.has_checkpoints()


def test_nothing_of_it_stays(output):
    filesystem, path = files.resolve(output)
    for dry_run in (True, False):
        with RunFolder.opened(output, "job", RUN, dry_run=dry_run):
            pass
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        assert found == []


def killed(output: str, keep: Path) -> None:
    """Create what a run leaves on a disk if it is killed after its first epoch."""
    with RunFolder.opened(output, "job", RUN) as folder:
        begin(folder, RUN)
        shutil.copytree(folder.work, keep)
    shutil.rmtree(folder.work)
    keep.rename(folder.work)


def test_a_run_goes_on_where_another_was_killed_when_that_ones_lease_is_over(tmp_path, monkeypatch):
    output = f"store://{tmp_path}/out"
    killed(output, tmp_path / "kept")
    monkeypatch.setattr(bounds, "LEASE_SECONDS", 0.1)
    with RunFolder.opened(output, "job", LATER) as folder:
        assert folder.has_checkpoints()
        assert [path.name for path in Path(folder.work, "lease").iterdir()] == [f"{LATER}.held"]


def test_a_lease_is_over_by_the_clock_of_its_store(tmp_path, monkeypatch):
    """The next run does not wait, and does not use the clock of its own machine."""
    output = f"store://{tmp_path}/out"
    killed(output, tmp_path / "kept")
    os.utime(tmp_path / f"out/.job/lease/{RUN}.held", (0, 0))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits for a lease that is over"))
    with RunFolder.opened(output, "job", LATER, dry_run=True):
        pass
    with RunFolder.opened(output, "job", LATER):
        pass


def test_a_run_that_was_taken_over_ends_with_a_sentence_and_removes_nothing(output):
    """The machine of the run slept. Now its lease is gone, and there is the lease of another run."""
    with (
        pytest.raises(UsageError, match=rf"\.job: another run of this name \({LATER}\) took over while this one"),
        RunFolder.opened(output, "job", RUN) as folder,
    ):
        begin(folder, RUN)
        with folder.filesystem.open_output_stream(f"{folder.work}/lease/{LATER}.held") as stream:
            stream.write(b"{}")
        for _ in range(10 * WAIT_SECONDS):  # a signal just before a wait is only noticed after the wait
            threading.Event().wait(0.1)
        pytest.fail("was not told")
    filesystem, path = files.resolve(output)
    names = [entry.base_name for entry in filesystem.get_file_info(fs.FileSelector(f"{path}/.job/lease"))]
    assert names == [f"{LATER}.held"]
    assert filesystem.get_file_info(f"{path}/.job/checkpoints").type == fs.FileType.Directory


def test_a_run_that_was_taken_over_publishes_nothing(output, monkeypatch):
    monkeypatch.setattr(bounds, "LEASE_RENEWAL_SECONDS", WAIT_SECONDS)  # it does not check its lease before
    with RunFolder.opened(output, "job", RUN) as folder, ExitStack() as stack:
        folder.filesystem.delete_file(f"{folder.work}/lease/{RUN}.held")
        stack.enter_context(pytest.raises(UsageError, match="took over while this one did not run"))
        folder.publish({"outcome.json": "{}"}, {})
    assert folder.read(f"{folder.final}/outcome.json") is None


def test_of_runs_that_start_at_once_only_one_goes_on(output):
    """Of several runs, the earliest one continues, and the others are refused."""
    filesystem, path = files.resolve(output)
    runs = [f"20260101T000000Z-000{number}" for number in range(3)]
    together, refused = threading.Barrier(len(runs)), threading.Semaphore(0)
    at_work: list[str] = []

    def start(run: str) -> str | None:
        together.wait()
        try:
            with Lease.taken(filesystem, f"{path}/.job", run, lambda _: None):
                at_work.append(run)
                assert at_work == [run]
                for _ in runs[1:]:
                    assert refused.acquire(timeout=WAIT_SECONDS)
        except UsageError:
            refused.release()
            return None
        return run

    with ThreadPoolExecutor(len(runs)) as pool:
        assert len([run for run in pool.map(start, runs) if run is not None]) == 1
