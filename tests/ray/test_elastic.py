"""Test `--workers MIN:MAX`: it trains with the nodes that are there, and adapts when nodes join or leave."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import RAY, TOKEN, WAIT_SECONDS, Head, free_port, job, kill, ray_head, start, wait_for

RUN = ("run", "--data", "digits", "--batch-size", "2", "--epochs", "400", "--workers", "1:2")
# The run waits this long for a node that has left, because Ray still counts on it.
WAIT = ("--start-timeout", "30")


@contextmanager
def node_of(head: Head, folder: Path) -> Iterator[None]:
    """Start a second node with one CPU, and kill it at the end."""
    command = [RAY, "start", f"--address={head.address}", "--num-cpus=1", "--block"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with (folder / "node.log").open("w") as log:
        node = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | TOKEN)
        try:
            yield
        finally:
            kill(node)


def ray(*arguments: str) -> str:
    return subprocess.run(
        [RAY, *arguments],
        env=os.environ | TOKEN,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


def grows_and_shrinks(process: subprocess.Popen[str], head: Head, folder: Path) -> None:
    """A second node joins the run and is killed. The run continues without it to its end."""
    wait_for(process, "1 worker has started")
    with node_of(head, folder):
        wait_for(process, "2 workers have started")
        wait_for(process, "epoch ")
    wait_for(process, "1 worker has started")
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stderr) == (0, "")


@pytest.mark.full
def test_a_run_grows_and_shrinks_with_its_cluster_and_trains_the_same(tmp_path):
    with ray_head(tmp_path, "--num-cpus=1") as head:
        process = start(*RUN, *WAIT, "--address", head.address, cwd=tmp_path, **TOKEN)
        grows_and_shrinks(process, head, tmp_path)
    elastic = json.loads((tmp_path / "runs/mnist-job/outcome.json").read_text())
    assert len(elastic["training"]["history"]) == 400
    fixed = job(*RUN[:-1], "1", "--name", "fixed", cwd=tmp_path)
    assert fixed.returncode == 0
    expected = json.loads((tmp_path / "runs/fixed/outcome.json").read_text())
    assert elastic["training"]["restarts"] == 1
    # The order of sums differs. After 230,000 steps, the losses may differ as much as those of two seeds.
    assert elastic["evaluation"]["loss"] == pytest.approx(expected["evaluation"]["loss"], rel=0.15)


@pytest.mark.full
def test_a_node_that_will_be_taken_away_makes_a_checkpoint_due(tmp_path):
    with ray_head(tmp_path, "--num-cpus=1") as head, node_of(head, tmp_path):
        flags = ("--checkpoint-minutes", "1000", "--address", head.address)
        process = start(*RUN, *flags, cwd=tmp_path, **TOKEN)
        wait_for(process, "2 workers have started")
        wait_for(process, "epoch ")
        within = (tmp_path / "runs/.mnist-job/checkpoints").glob
        assert list(within("*.*/manifest.json")) == []
        nodes = json.loads(ray("list", "nodes", "--format", "json", "--address", head.address))
        (leaving,) = (node["node_id"] for node in nodes if not node["is_head_node"])
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test")
        ray(
            "drain-node",
            "--address",
            head.address,
            "--node-id",
            leaving,
            *reason,
            "--deadline-remaining-seconds",
            "600",
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while not list(within("*.*/manifest.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.terminate()
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 130
