"""Measure an optimizer step without Ray: the job's compiled epoch, in the processes that TF_CONFIG names.

Each process runs `python -m ops.benchmark.steps MNIST.npz BATCH:HIDDEN ...`, for example with 32:128,64. The first one
prints a line of JSON for each setting: the seconds of a step and, with several processes, of an all-reduce of the same
gradients without a step. `measured` starts the processes.
"""

import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

IMAGES = 4096  # a call does at most one epoch of these images
NUMBERS = 2e7  # gradients that a call sums; determines the number of steps, or of all-reduces
LEAST = 5  # the least number of steps, or of all-reduces
LAPS = 3  # number of calls; their median is the result


@dataclass(frozen=True)
class Host:
    """The host of a process: the address at which the others reach it, and the first words of its command."""

    address: str = "127.0.0.1"
    command: tuple[str, ...] = ()


def measured(data: str, hosts: Sequence[Host], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Start a process with one thread on each host, and return the lines of the first one.

    Each process uses only one CPU, as the job's workers do. If there are more processes than CPUs, some share a CPU.
    """
    addresses = [f"{host.address}:{free_port()}" for host in hosts]
    cpus = sorted(os.sched_getaffinity(0))
    processes = []
    for rank, host in enumerate(hosts):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(task)}
        own_cpu = ("taskset", "--cpu-list", str(cpus[rank % len(cpus)]))
        command = [*own_cpu, *host.command, sys.executable, "-m", "ops.benchmark.steps", data, *settings]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a process of {len(hosts)} failed: {' '.join(command)}")
    return [json.loads(line) for line in outputs[0].splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def main(data: str, *settings: str) -> None:
    import tensorflow as tf

    from mnist_job.config.settings import JobConfig
    from mnist_job.data import sources
    from mnist_job.data.arrays import Split
    from mnist_job.data.dataset import load_training
    from mnist_job.models import reference
    from mnist_job.training import optimizer
    from mnist_job.training.batches import ResidentBatches, Share
    from mnist_job.training.compiled import Compiled
    from mnist_job.training.passes import Training
    from mnist_job.training.strategy import joined

    strategy = joined(JobConfig())
    task = json.loads(os.environ["TF_CONFIG"])
    share = Share(task["task"]["index"], len(task["cluster"]["worker"]))
    images = load_training(JobConfig(validation_split="tail"), sources.read(data)).train
    assert isinstance(images, Split)
    for setting in settings:
        batch, hidden = int(setting.partition(":")[0]), tuple(map(int, setting.partition(":")[2].split(",")))
        network = reference.build((28, 28), 10, 255, hidden)
        model = Compiled(network, 1e-3, images[:8])
        update = optimizer.update(model.optimizer, model.variables)
        parameters = network.count_params()
        times = max(LEAST, int(NUMBERS / parameters))
        few = slice(max(batch, min(IMAGES, batch * times)))
        batches = ResidentBatches(images[few], batch, share, seed=0)
        training, plan = Training(strategy, model, update, batches), batches.plan(0)
        row = {"workers": share.workers, "batch": batch, "hidden": hidden, "parameters": parameters}
        row["step"] = _median_lap(functools.partial(_steps, training, plan, batches.steps)) / batches.steps
        if share.workers > 1:
            row["all_reduce"] = _median_lap(_all_reduces(tf, strategy, network, times)) / times
        if share.rank == 0:
            print(json.dumps(row), flush=True)


def _steps(training: Any, plan: Any, steps: int) -> None:
    training.advance(plan, 0, steps)
    training.sums.numpy()  # waits for their end


def _all_reduces(tf: Any, strategy: Any, network: Any, times: int) -> Callable[[], Any]:
    """Return a function that does `times` all-reduces of tensors shaped like the gradients, one after another."""

    def halved(tensors: list[Any]) -> list[Any]:
        here = [tf.identity(tensor) for tensor in tensors]  # gives them a device, which all_reduce needs
        summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)
        return [tensor / strategy.num_replicas_in_sync for tensor in summed]

    @tf.function  # type: ignore[untyped-decorator]
    def loop() -> Any:
        tensors = [tf.ones(variable.shape) for variable in network.trainable_variables]
        for _ in tf.range(times):
            tensors = strategy.run(halved, args=(tensors,))
        return tensors[0][0]

    return lambda: loop().numpy()


def _median_lap(call: Callable[[], Any]) -> float:
    """Return the median seconds of a call, which waits for its end. All processes must make as many calls."""
    call()
    laps = []
    for _ in range(LAPS):
        started = time.perf_counter()
        call()
        laps.append(time.perf_counter() - started)
    return statistics.median(laps)


if __name__ == "__main__":
    main(*sys.argv[1:])
