"""What the tests share: the program as a process, and the external tools that some need."""

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
LONG = ("--data", "digits", "--epochs", "100000", "--workers", "1")  # it does not end by itself
PARTS = ["job", *sorted(path.stem for path in Path(mnist_job.__file__).parent.iterdir() if path.name[0] != "_")]
"""Names that a user's own files may have: those of the package's parts, and of the folder that it lies in."""

TINY = ("--data", "digits", "--epochs", "1", "--workers", "1")  # the shortest real run
PAIR = ("--workers", "2")  # after one of these: with another worker

for _name in [name for name in os.environ if name.startswith("MNIST_JOB_")]:
    del os.environ[_name]  # a developer's own settings are no part of a test
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """What a test has started ends with it, however the test ends: a run that trains on would slow all that follow."""
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
    """The program as a process, its output piped."""
    return spawn([*program, *map(str, arguments)], cwd=cwd, env=os.environ | environment, start_new_session=True)


def spawn(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """A process that does not outlive the test, its output piped."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    _started.append(process)
    return process


def job(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program run to its end."""
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
    except psutil.Error:  # it has ended meanwhile
        return ""


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Returns when the program has printed a line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended before {beginning!r}: {process.communicate()[1]}")


@dataclass
class Head:
    """A Ray head of a test's own, which demands TOKEN: the addresses of its cluster and of its Jobs API, its folder."""

    address: str
    jobs: str
    folder: Path
    process: subprocess.Popen[bytes]


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a `ray start --block` and what it has started, as where a node loses its power."""
    for part in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            part.kill()
    process.wait()


@contextmanager
def ray_head(folder: Path, *flags: str, port: int | None = None, **environment: str) -> Iterator[Head]:
    """A Ray head as `ray start --head` makes it, ready to take jobs."""
    port, dashboard = port or free_port(), free_port()
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", *flags]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # or two clusters on a machine get in each other's way
    # A folder of its own, with a short name for sockets: in Ray's it would leave its address to every `ray.init()`.
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
    """The path of an external program; the test is skipped where it is not installed (and CI tolerates no skip)."""
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
    """A small data set that nothing is wrong with: 3 classes of 4x5 images."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (100, 4, 5), dtype=np.uint8),
        "y_train": np.arange(100, dtype=np.uint8) % 3,
        "x_test": random.integers(0, 256, (30, 4, 5), dtype=np.uint8),
        "y_test": np.arange(30, dtype=np.uint8) % 3,
    }


@pytest.fixture
def npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Write that data set with some arrays replaced, or left out where None."""

    def write(**changes: np.ndarray | None) -> Path:
        path = tmp_path / "data.npz"
        np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
        return path

    return write


@pytest.fixture
def bucket(monkeypatch) -> Iterator[tuple[str, object]]:
    """A bucket of a real S3 protocol server, as the parameters after `?` in pyarrow's URI, and its client."""
    import boto3  # slow to import, and seldom needed
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
    """A real Pushgateway that forgets (Debian's keeps what it got in /var/lib)."""
    return [tool("prometheus-pushgateway"), f"--web.listen-address={address}", "--persistence.file="]


@pytest.fixture
def pushgateway(tmp_path: Path) -> Iterator[str]:
    """The URL of a real Pushgateway."""
    url = f"127.0.0.1:{free_port()}"
    with (tmp_path / "pushgateway.log").open("w") as log:
        process = subprocess.Popen(pushgateway_command(url), stderr=log)
        try:
            yield f"http://{url}"
        finally:
            process.terminate()
            process.wait()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure: what it needs was not installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
