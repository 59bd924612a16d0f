"""Test that little is lost when workers, the driver, a checkpoint or the disk are lost. Each test does the damage."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROGRAM, WAIT_SECONDS, descendants, job, start, tool, wait_for, workers
from tests.unit.test_metrics import values

# An epoch takes one or two seconds, so that there is time for the damage.
RUN = ("run", "--data", "digits", "--epochs", "4", "--batch-size", "4", "--name", "lost")
PROGRAM_OF_PUBLIC_RAY = """
from mnist_job.distributed import fitting
from mnist_job.distributed.shortcuts import local_ray
fitting.quick_trainer = lambda: None
for part in ("services", "utils", "Node", "GlobalState"):
    setattr(local_ray, part, None)
from mnist_job.cli.main import main
raise SystemExit(main())
"""
PUBLIC_RAY = (sys.executable, "-c", PROGRAM_OF_PUBLIC_RAY)
"""The program with a Ray whose private parts are removed, so that it uses only the public interface."""


def outcome(folder: Path) -> dict:
    return json.loads((folder / "runs/lost/outcome.json").read_text())


def checksums(folder: Path) -> dict[str, str]:
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert job(*RUN, cwd=folder).returncode == 0
    return folder


def assert_ends_like(folder: Path, undisturbed: Path) -> None:
    ours, theirs = outcome(folder), outcome(undisturbed)
    assert ours["evaluation"]["loss"] == pytest.approx(theirs["evaluation"]["loss"], abs=1e-6)
    assert [row["epoch"] for row in ours["training"]["history"]] == [1, 2, 3, 4]
    assert [path.name for path in (folder / "runs").iterdir()] == ["lost"]


@pytest.mark.parametrize(
    ("line", "program"),
    [
        pytest.param("2 workers have started", (PROGRAM,), marks=pytest.mark.full, id="first"),
        pytest.param("epoch 2/4", (PROGRAM,), id="middle"),
        pytest.param("epoch 2/4", PUBLIC_RAY, marks=pytest.mark.full, id="public Ray"),
        pytest.param("epoch 3/4", (PROGRAM,), marks=pytest.mark.full, id="last"),
    ],
)
def test_a_killed_worker_costs_what_came_after_the_last_checkpoint(tmp_path, undisturbed, line, program):
    within = line == "epoch 2/4"
    process = start(*RUN, *(("--checkpoint-minutes", "0.002") if within else ()), cwd=tmp_path, program=program)
    wait_for(process, line)  # now the run is in the middle of the next epoch
    while within and not list((tmp_path / "runs/.lost/checkpoints").glob("0000002.*/manifest.json")):
        assert process.poll() is None
    workers(process)[1].kill()
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.count("all workers restart") == 1
    assert ("workers have started, at epoch 3, step " in stdout) == within
    epochs = [text for text in stdout.splitlines() if text.startswith("epoch ")]
    assert len(epochs) == {"2": 4, "epoch 2/4": 2, "epoch 3/4": 1}[line if line.startswith("epoch") else "2"]
    assert values((tmp_path / "runs/lost/metrics.prom").read_text())["mnist_job_worker_restarts"] == 1
    assert_ends_like(tmp_path, undisturbed)


def end(process: subprocess.Popen[str], number: signal.Signals, code: int, after: str = "epoch ") -> None:
    """Send a signal to a run that trains, `after` it has said this. Check that it ends with this code, and that all
    processes it started end.
    """
    wait_for(process, after)
    orphans = descendants(process)
    process.send_signal(number)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == code
    wait_for_the_end_of(orphans)


def wait_for_the_end_of(orphans: list[psutil.Process]) -> None:
    """Wait until these processes have ended. A zombie has ended, even if nothing reaps it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while alive := [orphan for orphan in orphans if orphan.is_running() and status(orphan) != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        psutil.wait_procs(alive, timeout=0.5)


def status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


@pytest.mark.full
def test_an_interrupted_job_goes_on_and_so_does_a_killed_one(tmp_path):
    run = (*RUN, "--epochs", "24")  # a run may finish one or two more epochs before it ends
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert job(*run, cwd=undisturbed).returncode == 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        end(start(*run, cwd=tmp_path), number, code)
        assert not (tmp_path / "runs/lost").exists()
    result = job(*run, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    first = next(line for line in result.stdout.splitlines() if line.startswith("epoch "))
    assert int(first.split()[1].partition("/")[0]) > 2  # the two runs have finished at least one epoch each
    ours, theirs = outcome(tmp_path), outcome(undisturbed)
    assert ours["evaluation"]["loss"] == pytest.approx(theirs["evaluation"]["loss"], abs=1e-6)
    assert len(ours["training"]["history"]) == 24


@pytest.mark.full
def test_a_job_that_was_killed_in_its_evaluation_evaluates(tmp_path, undisturbed):
    process = start(*RUN, cwd=tmp_path)
    wait_for(process, "evaluating on the test data")
    process.kill()
    process.communicate(timeout=WAIT_SECONDS)
    result = job(*RUN, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "training on" not in result.stdout
    assert_ends_like(tmp_path, undisturbed)
    training = outcome(tmp_path)["training"]
    assert (training["workers"], training["restarts"], training["seconds"]) == (2, None, None)  # they were not recorded


def test_a_finished_job_is_not_done_twice(undisturbed, pushgateway):
    before = checksums(undisturbed)
    result = job(*RUN, "--pushgateway-url", pushgateway, cwd=undisturbed)
    assert (result.returncode, result.stderr) == (0, "")
    run = outcome(undisturbed)["identity"]["run"]
    assert f"run {run} has already done this; --force repeats it" in result.stdout
    assert "starting a local Ray" not in result.stdout
    assert checksums(undisturbed) == before


def test_a_finished_job_is_judged_by_the_accuracy_that_is_wanted_now(tmp_path, undisturbed):
    subprocess.run(["cp", "-r", undisturbed / "runs", tmp_path], check=True)
    for _ in range(2):
        result = job(*RUN, "--min-accuracy", "1", cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (7, 1)
        assert outcome(tmp_path)["exit_code"] == 7
    assert job(*RUN, cwd=tmp_path).returncode == 0
    assert outcome(tmp_path)["exit_code"] == 0


def test_a_changed_job_is_refused_unless_forced(tmp_path, undisturbed):
    subprocess.run(["cp", "-r", undisturbed / "runs", tmp_path], check=True)
    before = checksums(tmp_path)
    changed = (*RUN, "--epochs", "1", "--seed", "5")
    result = job(*changed, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    for difference in ("--epochs is 1, was 4", "--seed is 5, was 0"):
        assert difference in result.stderr
    assert checksums(tmp_path) == before
    assert job(*changed, "--force", cwd=tmp_path).returncode == 0
    assert len(outcome(tmp_path)["training"]["history"]) == 1


@pytest.mark.full
def test_a_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    """The change does not change the file's length."""
    process = start(*RUN, cwd=tmp_path)
    wait_for(process, "epoch 3/4")
    process.terminate()
    process.communicate(timeout=WAIT_SECONDS)
    _, last = sorted((tmp_path / "runs/.lost/checkpoints").iterdir())
    content = bytearray((last / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (last / "model.keras").write_bytes(content)
    result = job(*RUN, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        f"a damaged checkpoint was skipped: {last.name}: model.keras has changed since it was written" in result.stdout
    )
    assert_ends_like(tmp_path, undisturbed)


@pytest.fixture
def disk(tmp_path):
    """Yield a separate file system of 20 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run([tool("mount"), "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here, which takes root: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def empty(disk: Path) -> None:
    (disk / "filler").unlink()


def read_only(disk: Path) -> None:
    """Make only the checkpoints' folder read-only. The whole disk cannot be made so, because the run's lock is open."""
    folder = disk / "runs/.lost/checkpoints"
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def writable(disk: Path) -> None:
    subprocess.run(["umount", "--lazy", disk / "runs/.lost/checkpoints"], check=True)


@pytest.mark.full
@pytest.mark.parametrize(
    ("damage", "repair", "sentence"),
    [
        pytest.param(fill, empty, "No space left on device", id="full"),
        pytest.param(read_only, writable, "Read-only file system", id="read-only"),
    ],
)
def test_a_disk_that_takes_no_more_ends_the_run_which_goes_on_later(disk, undisturbed, damage, repair, sentence):
    process = start(*RUN, "--max-failures", "0", cwd=disk)
    wait_for(process, "epoch 2/4")
    damage(disk)
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (5, 1), (stdout, stderr)
    assert sentence in stderr
    repair(disk)
    result = job(*RUN, cwd=disk)
    assert (result.returncode, result.stderr) == (0, "")
    assert ", from epoch 3" in result.stdout
    assert_ends_like(disk, undisturbed)
