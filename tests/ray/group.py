"""A group of workers that trains many models, one after another: Ray and TensorFlow start once for all of them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset
from mnist_job.distributed import cluster, fitting, trainer
from mnist_job.distributed.backend import TensorFlowBackendConfig
from mnist_job.models import origin
from mnist_job.training.checkpoint import Checkpoints
from tests.store import RUN


def trained(workers: int, runs: Mapping[str, JobConfig], folder: Path) -> dict[str, Any]:
    """Train each of these runs on the same workers. Return its last checkpoint, or the text of its error.

    Each worker calls the loop once for each run, as it does in a run of the program.
    """
    saved = {name: Checkpoints(fs.LocalFileSystem(), str(folder / name), RUN) for name in runs}
    from_ = {name: origin.read(config) for name, config in runs.items()}
    arguments: dict[str, dict[str, Any]] = {
        name: {
            "config": config,
            "origin": from_[name],
            "checked": dataset.check(config, from_[name].data).training_facts,
            "checkpoints": saved[name],
            "tell": lambda entry: None,
            "own_cpus": False,
        }
        for name, config in runs.items()
    }

    def work(_: dict[str, Any]) -> None:
        import functools
        import sys

        from mnist_job.distributed import worker
        from mnist_job.errors import JobError
        from mnist_job.system import environment

        environment.pin_for_tensorflow(verbose=False)
        with environment.importing_keras():
            from mnist_job.training import loop
        joined = functools.cache(lambda: loop_joined(runs[next(iter(runs))]))
        loop_joined, loop.joined = loop.joined, lambda config: joined()  # a process can join a group only once
        for name, one in arguments.items():
            if (function := one["origin"].model.function) is not None:
                sys.modules.pop(function.module, None)  # its file was removed at the end of the former run
            try:
                worker.work(one)
            except JobError as error:  # on all workers alike: the next run can start
                (folder / f"{name}.error").write_text(str(error))

    os.environ |= trainer.SWITCHES
    with cluster.connected(JobConfig()):
        fitting.fit(
            work,
            lambda lost, again: None,
            RunConfig(name="group", storage_path=str(folder), logging_config=LoggingConfig(log_level="CRITICAL")),
            train_loop_config={},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
            backend_config=TensorFlowBackendConfig(),
        )
    failures = {path.stem: path.read_text() for path in folder.glob("*.error")}
    return {name: failures.get(name) or checkpoints.newest() for name, checkpoints in saved.items()}
