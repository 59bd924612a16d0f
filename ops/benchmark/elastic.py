"""Compare elastic runs on a cluster that grows and shrinks with fixed runs: `python -m ops.benchmark.elastic`.

For each of three seeds, start a Ray head with one CPU and a run with `--workers 1:2`, and let a second node join and
leave. Then run the same with one worker on a local Ray. Prints the test losses as a table, in about ten minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.benchmark.steps import free_port

PROGRAMS = Path(sys.executable).parent
RUN = [str(PROGRAMS / "mnist-job"), "run", "--data", "digits", "--batch-size", "8", "--epochs", "1200"]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


def main() -> None:
    print("| seed | 1:2 workers, growing and shrinking | 1 worker |\n| --- | --- | --- |")
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--seed", str(seed), "--output", folder]
            fixed = [*RUN, *flags, "--name", "fixed", "--workers", "1"]
            subprocess.run(fixed, check=True, stdout=subprocess.DEVNULL)
            port = free_port()
            with node("--head", f"--port={port}"):
                elastic = [*RUN, *flags, "--name", "elastic", "--workers", "1:2", "--start-timeout", "30"]
                grow_and_shrink(elastic, f"127.0.0.1:{port}")
            losses = [loss(Path(folder, name)) for name in ("elastic", "fixed")]
            print(f"| {seed} | {losses[0]:.4f} | {losses[1]:.4f} |", flush=True)


def grow_and_shrink(command: list[str], address: str) -> None:
    environment = os.environ | TOKEN
    check = [str(PROGRAMS / "ray"), "health-check", "--address", address]
    while subprocess.run(check, env=environment, stderr=subprocess.DEVNULL).returncode:
        pass  # the head has not started yet
    with subprocess.Popen([*command, "--address", address], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        wait_for(run.stdout, "1 worker has started")
        with node(f"--address={address}"):
            wait_for(run.stdout, "2 workers have started")
            wait_for(run.stdout, "epoch ")
        wait_for(run.stdout, "1 worker has started")
        run.stdout.read()
    if run.returncode:
        raise SystemExit(f"the elastic run ended with {run.returncode}")


@contextmanager
def node(*flags: str) -> Iterator[None]:
    agent = f"--dashboard-agent-listen-port={free_port()}"  # two nodes on a machine cannot use the same port
    command = [str(PROGRAMS / "ray"), "start", "--block", "--num-cpus=1", agent, *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | TOKEN) as one:
        try:
            yield
        finally:
            one.terminate()


def wait_for(lines: Iterator[str], beginning: str) -> None:
    if not any(line.startswith(beginning) for line in lines):
        raise SystemExit(f"the run ended before it printed: {beginning}")


def loss(folder: Path) -> float:
    return float(json.loads((folder / "outcome.json").read_text())["evaluation"]["loss"])


if __name__ == "__main__":
    main()
