"""This job beside what people would otherwise use: `make benchmark MNIST=/path/of/mnist.npz [QUICK=1]`.

Each row is a whole process, from its start to its result, on the real MNIST: 10 epochs (Ray's own way: 2), and a global
batch of 32 where nothing else is said. Rows are repeated three times, interleaved (once with QUICK), so that a machine
that gets slower does so for all of them. Writes `benchmark.json`, and prints the README's tables.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.benchmark import measure, steps, tables

JOB = str(Path(sys.executable).with_name("mnist-job"))
RECOMMENDED = ("--batch-size", "256", "--learning-rate", "0.004")  # for 2 workers: the README says why


@dataclass(frozen=True)
class Row:
    """A way to train; `flags` are those of `mnist-job run`, where it is this job."""

    name: str
    module: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


ROWS = (
    Row(tables.NOTEBOOK, module=("ops.benchmark.notebook",)),
    Row(tables.RAY, module=("ops.benchmark.ray_way", "1")),
    Row(tables.RAY_100, module=("ops.benchmark.ray_way", "100")),
    Row(tables.ONE, flags=("--workers", "1")),
    Row(tables.TWO, flags=("--workers", "2")),
    Row(tables.RECOMMENDED, flags=("--workers", "2", *RECOMMENDED)),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", default="benchmark.json")
    options = parser.parse_args()
    data, results = str(Path(options.data).resolve()), []
    for repetition in range(1 if options.quick else 3):
        for one in repeated(data):
            results.append({"repetition": repetition, **one})
            print(results[-1], file=sys.stderr, flush=True)
    machine = {"processor": processor(), "python": platform.python_version()}
    Path(options.output).write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    print(tables.tables(results))


def repeated(data: str) -> Iterator[dict[str, Any]]:
    """Every row once."""
    for row in ROWS:
        yield {"row": row.name, **measured(row, data)}
    yield {"row": tables.IMPORTS, **imports()}
    for workers in (1, 2):
        for step in steps.measured(data, [steps.Host()] * workers, [tables.HALF, *tables.SWEEP]):
            yield {"row": tables.STEP, **step}


def measured(row: Row, data: str) -> dict[str, Any]:
    """Run it once."""
    if row.module:
        module, *arguments = row.module
        cost = measure.run([sys.executable, "-m", module, data, *arguments])
        said = json.loads(cost.stdout.splitlines()[-1])
        return {"wall": cost.wall, "cpu": cost.cpu, "peak": cost.peak, **said}
    with tempfile.TemporaryDirectory() as output:
        cost = measure.run([JOB, "run", "--data", data, "--output", output, *row.flags], until=" started")
        outcome = json.loads(Path(output, "mnist-job/outcome.json").read_text())
    history = outcome["training"]["history"]
    return {
        "wall": cost.wall,
        "cpu": cost.cpu,
        # Every worker traces, which takes one thread.
        "cpu_until_first_step": cost.cpu_until + outcome["training"]["workers"] * outcome["phases"]["tracing"],
        "peak": cost.peak,
        "training": sum(epoch["seconds"] for epoch in history),
        "accuracy": outcome["evaluation"]["accuracy"],
        "loss": outcome["evaluation"]["loss"],
        "phases": outcome["phases"],
    }


def imports() -> dict[str, Any]:
    """CPU seconds of importing TensorFlow and Keras in one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import tensorflow, keras"], check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}: {error.output}") from error
