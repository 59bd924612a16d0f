"""Compare this job with other ways to train: `make benchmark MNIST=/path/of/mnist.npz [QUICK=1] [ROWS="..."]`.

    python -m ops.benchmark run MNIST.npz [--quick] [--rows NAME...] [--output benchmark.json]
    python -m ops.benchmark tables benchmark.json [of-another-machine.json ...]

Each row is a whole process, from its start to its result, on the real MNIST. It trains 10 epochs (Ray's
TensorflowTrainer: 2, a user's CNN: 6) with a global batch of 32, unless its title says another number. All rows are run
one after another, and this is repeated three times (with --quick only once), so that a machine that gets slower affects
all rows. This job's seeds are 0, 1 and 2; the other ways draw theirs. `sweep`, the steps for each batch and network, is
measured once. `run` prints the tables of docs/performance.md, and `tables` prints them for several machines.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.benchmark import measure, rows, steps, tables

JOB = str(Path(sys.executable).with_name("mnist-job"))
# `make benchmark` installs packages that this job does not need there.
APART = str(Path(".venv-benchmark/bin/python").absolute())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and print the tables")
    run.add_argument("data", help="MNIST as an .npz file")
    run.add_argument("--quick", action="store_true", help="measure once instead of three times")
    names = [*rows.NAMES, rows.STEPS, rows.SWEEP]
    run.add_argument("--rows", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    run.add_argument("--output", default="benchmark.json")
    merge = commands.add_parser("tables", help="print the tables for measurements of one or several machines")
    merge.add_argument("files", nargs="+", metavar="benchmark.json")
    options = parser.parse_args()
    if options.command == "tables":
        print(tables.tables([json.loads(Path(file).read_text())["results"] for file in options.files]))
        return
    results = []
    for repetition in range(1 if options.quick else 3):
        for one in repeated(str(Path(options.data).resolve()), options.rows, repetition):
            results.append({"repetition": repetition, **one})
            print(results[-1], file=sys.stderr, flush=True)
    machine = {"processor": processor(), "python": platform.python_version()}
    Path(options.output).write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    print(tables.tables([results]))


def repeated(data: str, names: list[str], repetition: int) -> Iterator[dict[str, Any]]:
    """Measure each of these rows once, and yield the results. The repetition's number is the seed of this job."""
    for row in rows.ROWS:
        if row.name in names:
            yield {"row": row.name, **measured(row, data, seed=repetition)}
    settings = [*tables.FLOOR] if rows.STEPS in names else []
    if rows.SWEEP in names and repetition == 0:
        settings += [setting for setting in tables.SWEEP if setting not in settings]
    for workers in (1, 2) if settings else ():
        for step in steps.measured(data, [steps.Host()] * workers, settings):
            yield {"row": tables.STEP, **step}


def measured(row: rows.Row, data: str, *, seed: int) -> dict[str, Any]:
    """Run the row once, and return its costs and its result."""
    if row.module:
        module, *arguments = row.module
        python = APART if row.apart else sys.executable
        cost = measure.run([python, "-m", f"ops.benchmark.{module}", data, *arguments])
        said = json.loads(cost.stdout.splitlines()[-1])
    else:
        with tempfile.TemporaryDirectory() as output:
            places = ["--data", data, "--output", output]
            cost = measure.run([JOB, "run", *places, "--seed", str(seed), *row.flags])
            said = rows.of_outcome(json.loads(Path(output, "mnist-job/outcome.json").read_text()))
    return {"wall": cost.wall, "cpu": cost.cpu, "peak": cost.peak, **said}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}: {error.output}") from error
