"""Whatever the driver dies of, somebody says so: a sentence, a code, the metrics; and nothing of the run is left."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import (
    LONG,
    TINY,
    WAIT_SECONDS,
    command_line,
    descendants,
    start,
    wait_for,
)
from tests.unit.test_metrics import values


def named(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The first program of that name that the run starts, as soon as it is there."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for child in descendants(process):
            try:
                if child.name() == name:
                    return child
            except psutil.NoSuchProcess:
                continue
    raise AssertionError(f"no {name}")


class Left:
    """What a run has at a moment, of which nothing may be left at its end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.processes = descendants(process)
        self.folder = Path(named(process, "gcs_server").environ()["TMPDIR"])

    def assert_nothing(self) -> None:
        assert not [process for process in self.processes if process.is_running()]
        assert not self.folder.exists()


def assert_told(process: subprocess.Popen[str], sentence: str, textfile: Path) -> None:
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (4, 1), (stdout, stderr)
    assert sentence in stderr
    assert values(textfile.read_text())["mnist_job_last_run_succeeded"] == 0


@pytest.mark.parametrize(("name", "told"), [("raylet", "raylet"), ("gcs_server", "GCS")])
@pytest.mark.parametrize("phase", ["start", "training", "evaluation"])
def test_a_local_ray_that_is_killed(tmp_path, name, told, phase):
    run = LONG if phase == "training" else TINY
    process = start("run", *run, "--workers", "1", "--metrics-textfile", "job.prom", cwd=tmp_path)
    wait_for(
        process, "1 worker has started" if phase == "evaluation" else {"training": "epoch "}.get(phase, "starting")
    )
    if phase == "evaluation":  # which takes longer than the damage
        (evaluator,) = (child for child in descendants(process) if "_Process" in command_line(child))
        evaluator.suspend()
        wait_for(process, "evaluating on the test data")
    part = named(process, name)
    left = Left(process)
    part.kill()
    assert_told(process, f"the local Ray has ended: its {told} was killed by SIGKILL", tmp_path / "job.prom")
    left.assert_nothing()
