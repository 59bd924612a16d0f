"""Test which Ray is used and, if it cannot be used, an error with the name under which the user set its address."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from ray._private import services

from tests.conftest import (
    LONG,
    TINY,
    TOKEN,
    WAIT_SECONDS,
    Head,
    command_line,
    descendants,
    job,
    ray_head,
    start,
    wait_for,
)


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head"), "--num-cpus=1") as head:
        yield head


def refused(result: subprocess.CompletedProcess[str], code: int, *sentences: str) -> None:
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    for sentence in sentences:
        assert sentence in result.stderr


NO_TOKEN = "the cluster demands a token, and none was given; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"
NO_FILE = "the file that RAY_AUTH_TOKEN_PATH names (/nowhere/token) cannot be read or is empty"


@pytest.mark.parametrize(
    ("name", "token", "sentence"),
    [
        ("--address", {}, NO_TOKEN),
        ("RAY_ADDRESS", {"RAY_AUTH_MODE": "token"}, NO_TOKEN),
        (
            "--address",
            TOKEN | {"RAY_AUTH_TOKEN": "0" * 64},
            "the cluster refuses the token that it was given; set RAY_",
        ),
        ("RAY_ADDRESS", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, NO_FILE),
    ],
    ids=["no mode", "no token", "another", "no file"],
)
def test_a_head_that_demands_a_token(head, tmp_path, name, token, sentence):
    flags, variables = (("--address", head.address), {}) if name == "--address" else ((), {name: head.address})
    result = job("run", *TINY, *flags, cwd=tmp_path, HOME=str(tmp_path), **variables, **token)
    refused(result, 4, f"mnist-job: {name} {head.address}: {sentence}")
    assert not (tmp_path / "runs").exists()


OTHER_VERSION = """
import ray
ray.__version__ = "2.1.0"
from mnist_job.cli.main import main
raise SystemExit(main())
"""


def test_a_cluster_of_another_version(head, tmp_path):
    command = [sys.executable, "-c", OTHER_VERSION, "run", *TINY, "--address", head.address]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | TOKEN, capture_output=True, text=True)
    python = ".".join(map(str, sys.version_info[:3]))
    expected = (
        rf"the cluster runs Ray 2\.\d+\.\d+ and Python {python}, but this program runs Ray 2.1.0 and Python {python}; "
    )
    refused(result, 4)
    assert re.search(expected, result.stderr), result.stderr


@pytest.mark.full
def test_the_port_of_the_dashboard(head, tmp_path):
    address = head.jobs.removeprefix("http://")
    result = job("run", *TINY, "--address", address, cwd=tmp_path, **TOKEN)
    refused(result, 4, f"--address {address}: something listens there, but it does not answer as a Ray head; give the ")


@pytest.mark.full
def test_auto_never_means_the_ray_of_a_run_in_progress(tmp_path):
    """It ignores the file in which `ray start` has stored its address: that cluster belongs to others, or is gone."""
    first = start("run", *LONG, cwd=tmp_path)
    wait_for(first, "1 worker has started")
    addresses = {
        address
        for process in descendants(first)
        for address in re.findall(r"--gcs-address=(\S+)", command_line(process))
    }
    assert len(addresses) == 1
    services.find_gcs_addresses.cache_clear()
    assert not addresses & services.find_gcs_addresses()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")
    for flags, variables, left_over in (("--address", "auto"), {}, "."), ((), {"RAY_ADDRESS": "auto"}, "none"):
        place = str(tmp_path / left_over)
        result = job("run", *TINY, "--name", "second", *flags, cwd=tmp_path, RAY_TMPDIR=place, **variables)
        refused(result, 4, f"{next(iter(variables), '--address')} auto: ")
    assert first.poll() is None
    first.terminate()
    first.communicate(timeout=WAIT_SECONDS)
    assert first.returncode == 130


@pytest.mark.full
def test_a_ray_of_its_own_needs_no_home(tmp_path):
    """It also does not need to create one."""
    result = job("run", *TINY, cwd=tmp_path, HOME="/dev/null/home", RAY_AUTH_MODE="disabled")
    assert (result.returncode, result.stderr) == (0, "")
