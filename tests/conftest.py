"""Fixtures and helpers of all tests: the program as a process, and the external tools that some tests need."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import mnist_job

PROGRAM = str(Path(sys.executable).with_name("mnist-job"))
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
WAIT_SECONDS = 240
LONG = ("--data", "digits", "--epochs", "100000", "--workers", "1")  # a run that does not end by itself
PARTS = ["job", *sorted(path.stem for path in Path(mnist_job.__file__).parent.iterdir() if path.name[0] != "_")]
"""Names that a user's own files may have: those of the package's parts, and of the folder that it lies in."""

TINY = ("--data", "digits", "--epochs", "1", "--workers", "1")  # the shortest real run
PAIR = ("--workers", "2")  # added to one of these: two workers

for _name in [name for name in os.environ if name.startswith("MNIST_JOB_")]:
    del os.environ[_name]  # remove a developer's own settings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@pytest.fixture(scope="session", autouse=True)
def folder_of_the_session(tmp_path_factory) -> None:
    """Make pytest's temporary folder first: inside `temporary.private` it would be made in one that is removed."""
    tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module", autouse=True)
def variables_of_the_module() -> Iterator[None]:
    """Restore the variables after a module. One that starts Ray in this process sets the token of that Ray, and the
    programs that the next module starts would present it to their clusters.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Kill every process that a test has started and not ended, because a run that continues slows the next tests."""
    before = len(_started)
    yield
    for process in _started[before:]:
        if process.poll() is None:
            for part in [*descendants(process), psutil.Process(process.pid)]:
                with suppress(psutil.NoSuchProcess):
                    part.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    del _started[before:]


def start(
    *arguments: object, cwd: Path, program: Sequence[str] = (PROGRAM,), **environment: str
) -> subprocess.Popen[str]:
    """Start the program as a process, with its output piped."""
    return spawn([*program, *map(str, arguments)], cwd=cwd, env=os.environ | environment, start_new_session=True)


def spawn(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that ends with the test, with its output piped."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    _started.append(process)
    return process


def job(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    process = start(*arguments, cwd=cwd, **environment)
    stdout, stderr = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in descendants(process) if "RayTrainWorker" in command_line(child)]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Wait until the program has printed a line with this beginning."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended before {beginning!r}: {process.communicate()[1]}")


@dataclass
class Head:
    """A Ray head of a single test, which needs TOKEN: the addresses of its cluster and its Jobs API, and its folder."""

    address: str
    jobs: str
    folder: Path
    process: subprocess.Popen[bytes]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a `ray start --block` and everything that it has started, as if the node lost its power."""
    for part in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            part.kill()
    process.wait()


@contextmanager
def ray_head(folder: Path, *flags: str, port: int | None = None, **environment: str) -> Iterator[Head]:
    """Start a Ray head with `ray start --head`, and wait until it accepts jobs."""
    port, dashboard = port or free_port(), free_port()
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", *flags]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # two clusters on a machine cannot use the same port
    # Its own folder, with a short name because of sockets. In Ray's folder, every `ray.init()` would find its address.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temporary,
        (folder / "head.log").open("w") as output,
    ):
        command += [f"--temp-dir={temporary}"]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | TOKEN | environment)
        head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", Path(temporary), process)
        check = [RAY, "job", "list", "--address", head.jobs]
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            while subprocess.run(check, capture_output=True, env=os.environ | TOKEN).returncode != 0:
                assert time.monotonic() < deadline, (folder / "head.log").read_text()
            yield head
        finally:
            if process.poll() is None:
                kill(process)


def tool(name: str) -> str:
    """Return the path of an external program, or skip the test if it is not installed (in CI, a skip is a failure)."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(
            f"{name} is not installed (Debian: apt-get install prometheus prometheus-pushgateway bsdutils zsh tcsh)"
        )
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Return a small valid data set: 3 classes of images with 4x5 pixels."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (100, 4, 5), dtype=np.uint8),
        "y_train": np.arange(100, dtype=np.uint8) % 3,
        "x_test": random.integers(0, 256, (30, 4, 5), dtype=np.uint8),
        "y_test": np.arange(30, dtype=np.uint8) % 3,
    }


@pytest.fixture
def npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Return a function that writes that data set with some arrays replaced, or left out if they are None."""

    def write(**changes: np.ndarray | None) -> Path:
        path = tmp_path / "data.npz"
        np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
        return path

    return write


@pytest.fixture
def bucket(monkeypatch) -> Iterator[tuple[str, object]]:
    """Yield a bucket on a server with the real S3 protocol: the parameters after `?` in pyarrow's URI, and a client."""
    import boto3  # slow to import, and only a few tests need it
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1", client
    finally:
        server.stop()


def pushgateway_command(address: str) -> list[str]:
    """Return the command of a real Pushgateway that stores nothing on disk (by default, Debian's uses /var/lib)."""
    return [tool("prometheus-pushgateway"), f"--web.listen-address={address}", "--persistence.file="]


@pytest.fixture
def pushgateway(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a real Pushgateway."""
    url = f"127.0.0.1:{free_port()}"
    with (tmp_path / "pushgateway.log").open("w") as log:
        process = subprocess.Popen(pushgateway_command(url), stderr=log)
        try:
            yield f"http://{url}"
        finally:
            process.terminate()
            process.wait()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail in CI if a test was skipped, because a tool that it needs was not installed.

    Succeed if `make test PYTEST="-k ..."` selects no test in one of its steps.
    """
    if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption("keyword"):
        session.exitstatus = pytest.ExitCode.OK
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
