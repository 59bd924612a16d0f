"""Test the compiled epoch between processes, without Ray: two workers do what one does, and hold the same bits."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import free_port
from tests.several import BAD_STEP, BATCH, CASES, EPOCHS, EVEN

ROOT = Path(__file__).parents[2]


def trained(workers: int) -> list[dict]:
    """Train all cases. Return the results of each worker."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(workers)]

    def one(rank: int) -> dict:
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        process = subprocess.run(
            [sys.executable, "-m", "tests.several", *CASES],
            env=os.environ | ({"TF_CONFIG": json.dumps(config)} if workers > 1 else {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(one, range(workers)))


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.full)])
def workers(request) -> list[dict]:
    return trained(request.param)


@pytest.fixture(scope="module")
def alone() -> dict:
    (results,) = trained(1)
    return results


def test_all_workers_hold_the_same_bits(workers):
    """Also of the layers' states, after steps in which each has seen other images, and one of them none."""
    for name in CASES:
        assert len({one[name]["bits"] for one in workers}) == 1, name
        if name != "gone":
            assert np.isfinite([float(loss) for loss in workers[0][name]["losses"]]).all(), name
            assert all(np.isfinite(state).all() for state in workers[0][name]["states"]), name


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("synchronized", 1e-5), ("accumulating", 1e-5), ("float16", 1e-2)],
)
def test_they_do_what_one_worker_does(workers, alone, name, tolerance):
    """Losses, weights, moving statistics, and the scale of the loss."""
    theirs, mine = workers[0][name], alone[name]
    for part in ("losses", "scale"):
        assert [float(x) for x in theirs[part]] == pytest.approx([float(x) for x in mine[part]], rel=tolerance)
    for part in ("weights", "states"):
        for ours, expected in zip(theirs[part], mine[part], strict=True):
            assert ours == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert len(theirs["scale"]) == (name == "float16")


def test_statistics_by_worker_are_averaged(workers, alone):
    """Where the weights stay, the moving means are those of the whole batches, for a layer of one's own, too."""
    mean, variance, own, seen = workers[0]["still"]["states"]
    whole_mean, whole_variance, whole_own, _ = alone["still"]["states"]
    assert mean == pytest.approx(whole_mean, rel=1e-5)
    assert own == pytest.approx(whole_own, rel=1e-5, abs=1e-6)
    assert variance != pytest.approx(whole_variance, rel=1e-3)  # within the parts
    steps = EPOCHS * EVEN // BATCH
    assert seen == [steps, steps * -(-BATCH // len(workers))]  # a counter is the first worker's
    assert workers[0]["per-worker"]["losses"] != alone["per-worker"]["losses"]


def test_statistics_are_averaged_after_a_start_with_another_number_of_workers(workers, alone):
    """The first worker gets the sums of all, and its statistics count no more for that."""
    for found in (*workers, alone):
        for ours, expected in zip(found["joined"]["states"], found["still"]["states"], strict=True):
            assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)
        losses = [[float(loss) for loss in found[name]["losses"]] for name in ("joined", "still")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_first_bad_step_is_that_of_all_workers(workers, alone):
    """The loss of the first worker, which does not have the bad image, is finite for a step longer."""
    for found in (*workers, alone):
        assert found["gone"]["losses"][0] == "nan"
        assert found["gone"]["finite_steps"] == [BAD_STEP - 1, 0]


def test_an_epoch_that_is_left_and_continued_has_the_same_bits(workers, alone):
    """Also the statistics and the noise of each worker, and its part of the metrics."""
    for found in (*workers, alone):
        assert found["paused"] == found["noisy"]
