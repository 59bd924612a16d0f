"""Run the training loop on all workers with Ray Train, and retry it when workers are lost."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import ray
import ray.train
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

from mnist_job.bounds import RESIZE_SECONDS
from mnist_job.config.parts import TrainerSettings
from mnist_job.data.described import Facts
from mnist_job.distributed import cluster, failures, fitting, worker
from mnist_job.distributed.backend import TensorFlowBackendConfig
from mnist_job.distributed.journal import Journal
from mnist_job.errors import TrainingError
from mnist_job.models.origin import Origin
from mnist_job.phases import Clock
from mnist_job.storage.folder import RunFolder
from mnist_job.training import stopping
from mnist_job.training.checkpoint import Checkpoint, Checkpoints
from mnist_job.training.progress import End, Epoch, News, Progress, Restart, Spent, Start

# Environment variables that Ray Train's controller reads.
SWITCHES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the end of a run, Ray Train waits for its next poll
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # all paths are absolute
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # it would change the logging of this process
}


@dataclass(frozen=True)
class Trained:
    """The result of training: the last checkpoint, and how often the workers had to restart."""

    checkpoint: Checkpoint
    restarts: int


def train(
    config: TrainerSettings,
    origin: Origin,
    checked: Facts,
    folder: RunFolder,
    checkpoints: Checkpoints,
    clock: Clock,
    on_entry: Callable[[News], None],
) -> Trained:
    """Train on the connected cluster, from the last intact checkpoint.

    `origin` is where the network and the data come from. `checked` describes the training data; each worker checks its
    data against it. `on_entry` is called with each entry while training runs.

    Raises TrainingError if there are more than `max_failures` failures, and ClusterError if the head is lost. Raises a
    worker's JobError without a retry.
    """
    os.environ |= SWITCHES | {
        # A process that asks the cluster which nodes it will take away. A local Ray has one node, which stays.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0" if cluster.is_local(config) else "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.start_timeout),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(config.worker_timeout),
    }
    journal = Journal()
    backend = TensorFlowBackendConfig()

    def on_loss(lost: dict[int, Exception], again: bool) -> None:
        if again:
            journal.write(Restart(failures.first_cause(lost, backend.nodes, config.worker_timeout)))

    least, most = config.least_workers, config.most_workers
    loop = {
        "config": config,
        "origin": origin,
        "checked": checked,
        "checkpoints": checkpoints,
        "tell": journal.write,
        "own_cpus": cluster.is_local(config) and not config.use_gpu,
    }
    scaling = ScalingConfig(
        num_workers=least if least == most else (least, most),
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        use_gpu=config.use_gpu,
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
    )
    run = RunConfig(
        # For Ray's own records. Each run has another name, so that Ray restores nothing from an earlier run.
        name=f"ray-{checkpoints.run}",
        storage_path=folder.work,
        storage_filesystem=folder.filesystem,
        failure_config=FailureConfig(
            max_failures=config.max_failures,
            controller_failure_limit=config.max_failures,
            max_preemption_failures=config.max_failures,
        ),
        logging_config=LoggingConfig(log_level="INFO" if config.verbose else "CRITICAL"),
    )

    follower = _Follower(journal, clock, on_entry)
    follower.start()
    failure = None
    try:
        fitting.fit(worker.work, on_loss, run, train_loop_config=loop, scaling_config=scaling, backend_config=backend)
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        failure = error
    finally:
        journal.write(End())
        follower.join()  # before Ray is shut down: a later call to Ray would crash the process
        clock.ended("worker_stop")
    if failure is not None:
        if (refused := failures.refusal(failure)) is not None:
            raise refused from failure
        cluster.check_head_answers()
        reason = failures.reason(failure, backend.nodes, config.worker_timeout)
        raise TrainingError(f"training failed: {reason}") from failure
    last = checkpoints.newest()
    if last is None or stopping.ended(last.history, config) is None:
        raise TrainingError(f"training ended after {len(last.history) if last else 0} of {config.epochs} epochs")
    return Trained(last, follower.restarts)


class _Follower(threading.Thread):
    """A thread that reads the journal while `fit` runs, which itself reports nothing until its end."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        on_entry: Callable[[News], None],
    ) -> None:
        super().__init__(name="journal", daemon=True)
        self._journal, self._clock, self._on_entry = journal, clock, on_entry
        self._workers = 0
        self.restarts = 0

    def run(self) -> None:
        """Read entries until the journal ends, or until the cluster is lost; `fit` reports the latter."""
        with contextlib.suppress(ray.exceptions.RayError):
            for entry in self._journal.read():
                match entry:
                    case Start(workers, phases=phases):
                        self._clock.ended("worker_start", phases)
                        # More workers than before: an elastic run has grown, and none was lost.
                        self.restarts += int(0 < workers <= self._workers)
                        self._workers = workers
                        self._on_entry(entry)
                    case Spent(phases):
                        self._clock.ended("training", phases)
                    case Progress() | Epoch() | Restart():
                        self._on_entry(entry)
