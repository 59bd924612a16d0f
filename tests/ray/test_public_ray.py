"""Test more of a run with a Ray whose private parts are removed. `test_lost.py` kills a worker of one."""

import signal
from functools import partial

import pytest

from tests import conftest
from tests.conftest import TOKEN, WAIT_SECONDS, ray_head, wait_for, workers
from tests.ray.test_elastic import RUN as ELASTIC
from tests.ray.test_elastic import WAIT, grows_and_shrinks
from tests.ray.test_lost import PUBLIC_RAY, RUN

start = partial(conftest.start, program=PUBLIC_RAY)


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
