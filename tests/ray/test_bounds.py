"""Test that nothing hangs, and that permanent faults are not retried. Each end has its exit code and a time limit."""

import socket
import subprocess
import time

import psutil
import pytest

from tests.conftest import (
    LONG,
    TINY,
    TOKEN,
    WAIT_SECONDS,
    command_line,
    job,
    kill,
    ray_head,
    start,
    wait_for,
    workers,
)
from tests.unit.test_metrics import values


def assert_ends(result, code: int, sentence: str) -> None:
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert sentence in result.stderr


def test_a_run_ends_by_its_timeout(tmp_path):
    process = start("run", *LONG, "--timeout", "60", cwd=tmp_path)
    wait_for(process, "epoch ")
    workers(process)[0].suspend()  # or it would take the CPU from other tests
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    result = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert_ends(result, 5, "--timeout 60: the run took longer")


@pytest.mark.parametrize("flag", ["--data", pytest.param("--output", marks=pytest.mark.full)])
def test_an_object_store_that_never_answers(tmp_path, flag):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"s3://bucket/x.npz?scheme=http&endpoint_override=127.0.0.1:{silent.getsockname()[1]}&region=here"
        keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        result = job("run", *TINY, flag, place, "--timeout", "5", cwd=tmp_path, **keys)
    assert_ends(result, 3 if flag == "--data" else 2, "--timeout 5: the run took longer")


def test_a_fault_of_the_model_is_not_tried_again(tmp_path):
    """Two layers with a million units each need more memory than the machine has."""
    result = job("run", *TINY, "--hidden-layers", "1000000,1000000", cwd=tmp_path)
    assert_ends(result, 5, "training failed: ResourceExhaustedError")
    assert "all workers restart" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_workers_that_die_at_birth_are_started_again_a_bounded_number_of_times(tmp_path):
    process = start("run", *TINY, "--max-failures", "1", cwd=tmp_path)
    killed: set[int] = set()
    while process.poll() is None:
        for worker in workers(process):
            killed.add(worker.pid)
            worker.kill()
    _, stderr = process.communicate()
    assert (process.returncode, len(stderr.splitlines())) == (5, 1), stderr
    assert len(killed) >= 2
    assert not (tmp_path / "runs").exists()


def evaluators_of(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    there = psutil.Process(head.pid).children(recursive=True)
    return [child for child in there if "_Process" in command_line(child)]


@pytest.mark.parametrize("phase", ["training", pytest.param("evaluation", marks=pytest.mark.full)])
def test_a_ray_head_that_goes_away(tmp_path, phase):
    with ray_head(tmp_path, "--num-cpus=2") as head:
        run = LONG if phase == "training" else TINY
        flags = ("--address", head.address, "--metrics-textfile", "job.prom")
        process = start("run", *run, *flags, cwd=tmp_path, **TOKEN)
        wait_for(process, "epoch " if phase == "training" else "1 worker has started")
        if phase == "evaluation":  # suspend it, so that it does not end before the damage
            deadline = time.monotonic() + WAIT_SECONDS
            while not (evaluators := evaluators_of(head.process)):
                assert time.monotonic() < deadline
            evaluators[0].suspend()
            wait_for(process, "evaluating on the test data")
        kill(head.process)
        stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 4, (stdout, stderr)
    assert len(stderr.splitlines()) == 1, stderr
    assert values((tmp_path / "job.prom").read_text())["mnist_job_last_run_succeeded"] == 0
