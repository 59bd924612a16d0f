"""Test a run with a Ray whose private parts are removed, so that only the public interface is used."""

import signal
import sys
from functools import partial

import pytest

from tests import conftest
from tests.conftest import TOKEN, WAIT_SECONDS, job, ray_head, wait_for, workers
from tests.ray.test_elastic import RUN as ELASTIC
from tests.ray.test_elastic import WAIT, grows_and_shrinks
from tests.ray.test_lost import RUN, assert_ends_like, outcome

PROGRAM = """
from mnist_job.distributed import fitting
from mnist_job.distributed.shortcuts import local_ray
fitting.quick_trainer = lambda: None
for part in ("services", "utils", "Node", "GlobalState"):
    setattr(local_ray, part, None)
from mnist_job.cli.main import main
raise SystemExit(main())
"""


start = partial(conftest.start, program=(sys.executable, "-c", PROGRAM))


def test_a_killed_worker_costs_its_epoch(tmp_path):
    process = start(*RUN, cwd=tmp_path)
    wait_for(process, "epoch 2/4")
    workers(process)[1].kill()
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.count("all workers restart") == 1
    assert outcome(tmp_path)["training"]["restarts"] == 1
    usual = tmp_path / "usual"
    usual.mkdir()
    assert job(*RUN, cwd=usual).returncode == 0
    assert_ends_like(tmp_path, usual)


@pytest.mark.full
def test_an_interrupt_ends_it_and_a_loss_too_many_is_told(tmp_path):
    process = start(*RUN, "--epochs", "100000", "--max-failures", "0", cwd=tmp_path)
    wait_for(process, "epoch ")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    process = start(*RUN, "--epochs", "100000", "--max-failures", "0", cwd=tmp_path)
    wait_for(process, "epoch ")
    workers(process)[0].kill()
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stderr.count("\n")) == (5, 1), stderr
    assert stderr.startswith("mnist-job: training failed: the process of worker 0"), stderr


@pytest.mark.full
def test_it_grows_and_shrinks(tmp_path):
    with ray_head(tmp_path, "--num-cpus=1") as head:
        process = start(*ELASTIC, *WAIT, "--address", head.address, cwd=tmp_path, **TOKEN)
        grows_and_shrinks(process, head, tmp_path)
