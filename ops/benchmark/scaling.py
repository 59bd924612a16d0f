"""Fit a model of the time of a step to measurements, and compute the time on larger clusters with it.

    sudo .venv/bin/python -m ops.benchmark.scaling MNIST.npz [MEASUREMENTS.json]

Measures 1 to 4 workers, each in its own network namespace. A bridge connects them, and each link has a limited rate
(this needs root, `ip` and `tc`). Then it fits the model, and prints the tables of scaling.md. If the file of
measurements exists, it does not measure again.

The model: each worker computes for fixed + work * images * parameters seconds. Then a ring sums the gradients (S bytes)
over n workers, with 2 (n - 1) messages of S / n bytes, one after another. This takes
2 (n - 1) * alpha + 2 (n - 1) / n * S * (beta + 8 / rate) seconds: a byte takes its time on the link, and time of the
processors, which pack and add it. If the network is small, two workers exchange S in one message instead of two
(job/mnist_job/training/optimizer.py).
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ops.benchmark import steps

RATES = (1e9, 5e8)  # bits per second of each worker's link
WORKERS = (2, 3, 4)
HIDDEN = ("128,64", "512,512", "2048,2048")
BATCHES = (64, 512)
NEXT_TO_NOTHING = "64:1"  # a network that is so small that its all-reduce takes only the latency of its messages
MOST = 4
LARGER = (8, 64, 256, 1024)
FEW_BYTES = 1 << 19  # copied from job/mnist_job/training/optimizer.py, which would import TensorFlow
EFFICIENT = 0.5  # of the speed-up if messages took no time


def main(data: str, file: str = "scaling.json") -> None:
    if not Path(file).exists():
        Path(file).write_text(json.dumps(measured(data), indent=1) + "\n")
    rows = json.loads(Path(file).read_text())
    model = Model.fitted(rows)
    print(model)
    print(predictions(model, rows))
    print(extrapolation(model))


def measured(data: str) -> list[dict[str, Any]]:
    settings = [f"{batch}:{hidden}" for hidden in HIDDEN for batch in BATCHES]
    parts = sorted({f"{-(-batch // n)}:{hidden}" for hidden in HIDDEN for batch in BATCHES for n in (1, *WORKERS)})
    cpus = len(os.sched_getaffinity(0))
    rows = [{"rate": None, **row} for row in steps.measured(data, [steps.Host()], parts)]
    rows += [{"rate": None, **row} for row in steps.measured(data, [steps.Host()] * 2, [NEXT_TO_NOTHING])]
    for rate in RATES:
        with network(rate) as hosts:
            for workers in WORKERS:
                rows += [{"rate": rate, "cpus": cpus, **row} for row in steps.measured(data, hosts[:workers], settings)]
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


@contextmanager
def network(rate: float) -> Iterator[list[steps.Host]]:
    """Create network namespaces, each with a link to a bridge that has this rate in both directions."""
    with ExitStack() as stack:
        _run("ip link add mnist-bridge type bridge")
        stack.callback(_run, "ip link delete mnist-bridge")
        _run("ip link set mnist-bridge up")
        hosts = []
        for n in range(MOST):
            # Do not use `ip netns`: it would mount their names in a folder that container runtimes also use.
            holder = stack.enter_context(subprocess.Popen(["/usr/bin/unshare", "--net", "/usr/bin/sleep", "infinity"]))
            stack.callback(holder.kill)
            inside = ("nsenter", f"--target={holder.pid}", "--net")
            while Path(f"/proc/{holder.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
                pass  # it has not started yet
            _run(f"ip link add mnist-link{n} type veth peer name eth0 netns {holder.pid}")
            stack.callback(_run, f"ip link delete mnist-link{n}")  # the kernel would delete it only some time later
            _run(f"ip link set mnist-link{n} master mnist-bridge up")
            shape = f"root tbf rate {rate:.0f}bit burst 64kb latency 400ms"
            _run(f"tc qdisc add dev mnist-link{n} {shape}")
            for command in (
                f"ip address add {_address(n)}/24 dev eth0",
                "ip link set lo up",
                "ip link set eth0 up",
                f"tc qdisc add dev eth0 {shape}",
            ):
                _run(" ".join([*inside, command]))
            hosts.append(steps.Host(_address(n), inside))
        yield hosts


def _address(n: int) -> str:
    return f"10.213.77.{n + 1}"


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


@dataclass(frozen=True)
class Model:
    """Seconds: `fixed` per step, `work` per image and parameter, `alpha` per message, `beta` per byte (no link)."""

    fixed: float
    work: float
    alpha: float
    beta: float

    @classmethod
    def fitted(cls, rows: Sequence[dict[str, Any]]) -> "Model":
        """Take `alpha` from a measurement, and fit the others by least squares of the relative errors, none below 0."""
        alone = [row for row in rows if row["workers"] == 1]
        fixed, work = _fit([[1, row["batch"] * row["parameters"]] for row in alone], [row["step"] for row in alone])
        (latency,) = (row for row in rows if row["rate"] is None and row["workers"] == 2)
        alpha = latency["all_reduce"] / _messages(2)
        joined = [row for row in rows if row["rate"] is not None]
        terms, seconds = [], []
        for row in joined:
            moved, sharing = _moved(row["workers"], row["parameters"]), _sharing(row)
            terms.append([sharing * moved])
            seconds.append(row["all_reduce"] - moved * 8 / row["rate"] - sharing * _messages(row["workers"]) * alpha)
        (beta,) = _fit(terms, seconds, [row["all_reduce"] for row in joined])
        return cls(fixed, work, alpha, beta)

    def compute(self, images: float, parameters: int) -> float:
        """Return the seconds to compute a worker's part of a batch."""
        return self.fixed + self.work * images * parameters

    def all_reduce(self, workers: int, parameters: int, rate: float, sharing: float = 1) -> float:
        """Return the seconds to sum float32 gradients over links of `rate` bits per second.

        `sharing` is the number of workers on each CPU.
        """
        moved = _moved(workers, parameters)
        return sharing * (_messages(workers) * self.alpha + moved * self.beta) + moved * 8 / rate

    def step(self, images: float, workers: int, parameters: int, rate: float) -> float:
        """Return the seconds of a step, if each worker has its own CPU and this number of images."""
        fewer = self.alpha if workers == 2 and 4 * parameters <= FEW_BYTES else 0
        return self.compute(images, parameters) + self.all_reduce(workers, parameters, rate) - fewer


# Assumed, not measured: 6 operations per image and parameter at 20 TFLOP/s, 0.1 ms to launch the kernels of a step, and
# 10 microseconds per message of NCCL.
GPU = Model(fixed=1e-4, work=6 / 20e12, alpha=1e-5, beta=0)


def _messages(workers: int) -> int:
    return 2 * (workers - 1)


def _sharing(row: dict[str, Any]) -> float:
    """Return the number of workers on each CPU. Its messages take that many times longer."""
    return float(max(1.0, row["workers"] / row["cpus"]))


def _moved(workers: int, parameters: int) -> float:
    """Return the number of bytes that each worker sends."""
    return _messages(workers) / workers * 4 * parameters


def _fit(terms: list[list[float]], seconds: list[float], weights: list[float] | None = None) -> list[float]:
    scale = 1 / np.asarray(weights or seconds)
    coefficients, _ = nnls(np.asarray(terms, float) * scale[:, None], np.asarray(seconds) * scale)
    return [float(coefficient) for coefficient in coefficients]


def predictions(model: Model, rows: Sequence[dict[str, Any]]) -> str:
    """Compare every measured all-reduce with the model, and every step if each worker had its own CPU."""
    lines = [
        "| link | parameters | global batch | workers | all-reduce, ms | model | error | step, ms | model | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    errors: dict[str, list[float]] = {"all-reduce": [], "step": []}
    for row in rows:
        if row["rate"] is None:
            continue
        workers, parameters = row["workers"], row["parameters"]
        exchange = model.all_reduce(workers, parameters, row["rate"], _sharing(row))
        cells = _compared(row["all_reduce"], exchange, errors["all-reduce"])
        if workers <= row["cpus"]:
            part = -(-row["batch"] // workers)
            cells += _compared(row["step"], model.step(part, workers, parameters, row["rate"]), errors["step"])
        else:
            cells += [f"{row['step'] * 1e3:.2f}", "shared CPUs", ""]
        named = [f"{row['rate'] / 1e9:g} Gbit/s", f"{parameters:,}", str(row["batch"]), str(workers)]
        lines.append(f"| {' | '.join(named + cells)} |")
    for what, found in errors.items():
        size = np.abs(found)
        lines.append(f"\n{what}: mean error {size.mean():.0%}, largest {size.max():.0%}, of {len(found)}")
    return "\n".join(lines)


def _compared(measured: float, computed: float, errors: list[float]) -> list[str]:
    errors.append(computed / measured - 1)
    return [f"{measured * 1e3:.2f}", f"{computed * 1e3:.2f}", f"{errors[-1]:+.0%}"]


def extrapolation(model: Model) -> str:
    """Return a table of the speed-ups that the model computes for clusters that were not measured."""
    settings = itertools.product(
        {"1 CPU, as here": model, "a GPU": GPU}.items(), (109_386, 5_824_522), (1024, 32_768), (10, 25, 100)
    )
    lines = [
        "| worker | parameters | global batch | link | "
        + " | ".join(f"{n} workers" for n in LARGER)
        + " | efficient up to |",
        "| --- | --- | --- | --- |" + " --- |" * (len(LARGER) + 1),
    ]
    for (worker, computes), parameters, batch, gigabits in settings:
        speedups = {n: _speedup(computes, n, batch, parameters, gigabits * 1e9) for n in range(1, max(LARGER) + 1)}
        efficient = max(n for n, speedup in speedups.items() if speedup / n >= EFFICIENT)
        cells = " | ".join(f"{speedups[n]:.1f}" for n in LARGER)
        lines.append(f"| {worker} | {parameters:,} | {batch:,} | {gigabits} Gbit/s | {cells} | {efficient} |")
    return "\n".join(lines)


def _speedup(model: Model, workers: int, batch: int, parameters: int, rate: float) -> float:
    alone = model.compute(batch, parameters)
    return alone / model.step(-(-batch // workers), workers, parameters, rate)


if __name__ == "__main__":
    if len(sys.argv) < 2 or (os.geteuid() and not Path(sys.argv[-1]).exists()):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
