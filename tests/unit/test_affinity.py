"""Test with real processes that each worker of a local Ray gets its own CPU."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mnist_job.distributed import affinity

CLAIM = """
import json, os, sys, threading
from mnist_job.distributed import affinity
given = affinity.keep_to_own_cpus(int(sys.argv[1]))
allowed = []
thread = threading.Thread(target=lambda: allowed.append(os.sched_getaffinity(0)))
thread.start(); thread.join()
print(json.dumps([given and sorted(given), sorted(allowed[0])]), flush=True)
sys.stdin.read()
"""
CPUS = sorted(os.sched_getaffinity(0))

hosts_only = pytest.mark.skipif(
    Path("/proc/self/ns/pid").stat().st_ino != affinity.HOST, reason="this is a container, where nothing is claimed"
)


@contextmanager
def claimed(count: int, *wrapper: str) -> Iterator[tuple[list[int] | None, list[int]]]:
    """Start a process that takes a CPU. Yield the CPUs it was given, and those that one of its threads may use."""
    command = [*wrapper, sys.executable, "-c", CLAIM, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield tuple(json.loads(process.stdout.readline()))
        process.communicate("")


@hosts_only
def test_workers_get_different_cpus_until_none_is_left():
    with ExitStack() as stack:
        given = []
        for _ in CPUS:
            mine, allowed = stack.enter_context(claimed(1))
            assert allowed == mine
            given += mine
        assert sorted(given) == CPUS
        none, allowed = stack.enter_context(claimed(1))
        assert none is None
        assert allowed == CPUS


@hosts_only
def test_a_worker_that_ended_leaves_its_cpus_and_too_few_are_none():
    with claimed(len(CPUS)) as (mine, _):
        assert mine == CPUS
    with claimed(len(CPUS) + 1) as (none, allowed), claimed(len(CPUS)) as (all_of_them, _):
        assert none is None
        assert allowed == CPUS
        assert all_of_them == CPUS


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare (util-linux)")
def test_a_container_claims_nothing():
    with claimed(1, "unshare", "--pid", "--fork") as (none, allowed):
        assert none is None
        assert allowed == CPUS
