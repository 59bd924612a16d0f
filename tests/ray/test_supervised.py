"""Test that any death of the driver is reported by a message, an exit code and metrics, and that nothing is left."""

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mnist_job.system.processes import RAYLET
from tests.conftest import (
    LONG,
    PROGRAM,
    TINY,
    WAIT_SECONDS,
    command_line,
    descendants,
    spawn,
    start,
    tool,
    wait_for,
)
from tests.ray.test_lost import end
from tests.unit.test_metrics import values


def named(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """Wait until the run has started a program with this name, and return the first one."""
    names = {name, "raylet"} if name == RAYLET else {name}  # it renames itself when it has started
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for child in descendants(process):
            try:
                if child.name() in names:
                    return child
            except psutil.NoSuchProcess:
                continue
    raise AssertionError(f"no {name}")


class Left:
    """The processes and the folder of a run, which must not exist after its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.processes = descendants(process)
        environment: dict[str, str] = {}
        deadline = time.monotonic() + WAIT_SECONDS
        while not environment:  # the kernel shows none while a program is being started
            assert time.monotonic() < deadline
            environment = named(process, "gcs_server").environ()
        self.folder = Path(environment["TMPDIR"])

    def assert_nothing(self) -> None:
        assert not [process for process in self.processes if process.is_running()]
        assert not self.folder.exists()


def assert_told(process: subprocess.Popen[str], sentence: str, textfile: Path) -> None:
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (4, 1), (stdout, stderr)
    assert sentence in stderr
    assert values(textfile.read_text())["mnist_job_last_run_succeeded"] == 0


@pytest.mark.parametrize(
    ("phase", "name", "told"),
    [
        ("start", "gcs_server", "GCS"),
        ("training", RAYLET, "raylet"),
        pytest.param("start", RAYLET, "raylet", marks=pytest.mark.full),
        pytest.param("training", "gcs_server", "GCS", marks=pytest.mark.full),
        pytest.param("evaluation", RAYLET, "raylet", marks=pytest.mark.full),
        pytest.param("evaluation", "gcs_server", "GCS", marks=pytest.mark.full),
    ],
)
def test_a_local_ray_that_is_killed(tmp_path, name, told, phase):
    run = LONG if phase == "training" else TINY
    process = start("run", *run, "--metrics-textfile", "job.prom", cwd=tmp_path)
    wait_for(
        process, "1 worker has started" if phase == "evaluation" else {"training": "epoch "}.get(phase, "starting")
    )
    if phase == "evaluation":  # suspend it, so that it does not end before the damage
        deadline = time.monotonic() + WAIT_SECONDS
        while not (evaluators := [child for child in descendants(process) if "_Process" in command_line(child)]):
            assert time.monotonic() < deadline
        evaluators[0].suspend()
        wait_for(process, "evaluating on the test data")
    part = named(process, name)
    left = Left(process)
    part.kill()
    assert_told(process, f"the local Ray has ended: its {told} was killed by SIGKILL", tmp_path / "job.prom")
    left.assert_nothing()


def test_a_driver_that_is_killed_in_place_of_its_workers(tmp_path, pushgateway):
    process = start("run", *LONG, "--metrics-textfile", "job.prom", "--pushgateway-url", pushgateway, cwd=tmp_path)
    wait_for(process, "epoch ")
    left = Left(process)
    (driver,) = psutil.Process(process.pid).children()
    driver.kill()
    assert_told(
        process, "the driver was killed by SIGKILL (137), perhaps because it ran out of memory", tmp_path / "job.prom"
    )
    left.assert_nothing()
    with urllib.request.urlopen(f"{pushgateway}/metrics") as answer:
        assert 'mnist_job_last_run_succeeded{instance="",job="mnist-job"} 0' in answer.read().decode()


def test_the_third_interrupt_ends_a_run_whose_ray_does_not_stop(tmp_path):
    process = start("run", *LONG, cwd=tmp_path)
    wait_for(process, "starting a local Ray")
    named(process, RAYLET).suspend()  # so Ray can neither finish its start nor its end
    left = Left(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    wait_for(process, "still stopping; a third signal ends it immediately")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert (
        stderr == "mnist-job: interrupted, and ended immediately; the same command resumes from the last checkpoint\n"
    )
    left.assert_nothing()


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    """Yield a folder that programs of `start_in` see as /tmp, because other programs write to the real one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        for part in ("tmp", "cwd"):
            (folder / part).mkdir()
        (folder / "tmp/mine").touch()
        probe = subprocess.run([tool("unshare"), "--mount", "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"a mount of its own takes root: {probe.stderr}")
        yield folder


def start_in(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    mount = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /tmp && exec "$@"', str(folder / "tmp")]
    return spawn(
        [*mount, PROGRAM, "run", *arguments],
        cwd=folder / "cwd",
        env={name: value for name, value in os.environ.items() if name != "TMPDIR"},
    )


@pytest.mark.full
def test_the_temporary_folder_is_left_as_it_was(own_tmp):
    """If a run was killed, the next one restores the folder."""
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (None, 0), (None, 3)):
        flags = TINY if code == 0 else ("--data", "none.npz") if code == 3 else LONG
        process = start_in(own_tmp, *flags, "--force")
        if number is not None:
            end(process, number, code)
        else:
            process.communicate(timeout=WAIT_SECONDS)
            assert process.returncode == code
        left = sorted(path.name for path in (own_tmp / "tmp").iterdir())
        if number == signal.SIGKILL:
            assert [name[:10] for name in left] == ["mine", "mnist-job-"]
        else:
            assert left == ["mine"]
