"""Run the training loop on all workers with Ray Train, and retry it when workers are lost."""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from mnist_job.bounds import RESIZE_SECONDS, worth_a_restart
from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset
from mnist_job.distributed import affinity, cluster
from mnist_job.distributed.journal import Journal
from mnist_job.distributed.ray_train import SWITCHES, TensorFlowBackendConfig, Trainer, refusal
from mnist_job.errors import JobError, TrainingError, last_line
from mnist_job.phases import Clock
from mnist_job.storage.folder import RunFolder
from mnist_job.system import environment, temporary
from mnist_job.system.lean import needless_hidden
from mnist_job.training.checkpoint import Checkpoint, Checkpoints
from mnist_job.training.progress import End, Epoch, News, Progress, Restart, Spent, Start


@dataclass(frozen=True)
class Trained:
    """The result of training: the last checkpoint, and how often the workers had to restart."""

    checkpoint: Checkpoint
    restarts: int


def train(
    config: JobConfig,
    checked: dataset.Facts,
    folder: RunFolder,
    checkpoints: Checkpoints,
    clock: Clock,
    on_entry: Callable[[News], None],
) -> Trained:
    """Train on the connected cluster, from the last intact checkpoint.

    `checked` describes the training data; each worker checks its data against it. `on_entry` is called with each entry
    while training runs.

    Raises TrainingError if there are more than `max_failures` failures, and ClusterError if the head is lost. Raises a
    worker's JobError without a retry.
    """
    os.environ |= SWITCHES | {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.start_timeout),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(config.worker_timeout),
    }
    journal = Journal()
    backend = TensorFlowBackendConfig()

    def on_loss(failure: WorkerGroupError, again: bool) -> None:
        cluster.check_head_answers()
        if again:
            journal.write(Restart(_first_cause(failure.worker_failures, backend.nodes, config.worker_timeout)))

    least, most = config.least_workers, config.most_workers
    trainer = Trainer(
        _worker,
        on_loss,
        train_loop_config={
            "config": config,
            "checked": checked,
            "checkpoints": checkpoints,
            "tell": journal.write,
            "own_cpus": cluster.is_local(config) and not config.use_gpu,
        },
        backend_config=backend,
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
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
        ),
    )

    follower = _Follower(journal, clock, on_entry)
    follower.start()
    failure = None
    try:
        trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        failure = error
    finally:
        journal.write(End())
        follower.join()  # before Ray is shut down: a later call to Ray would crash the process
        clock.ended("worker_stop")
    if failure is not None:
        if (refused := refusal(failure)) is not None:
            raise refused from failure
        cluster.check_head_answers()
        raise TrainingError(f"training failed: {_reason(failure, backend.nodes, config.worker_timeout)}") from failure
    last = checkpoints.newest()
    if last is None or len(last.history) != config.epochs:
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


def _worker(arguments: dict[str, Any]) -> None:
    """Run the loop on a worker. TensorFlow is imported here, after its environment variables are set."""
    config = arguments["config"]
    environment.pin()
    if not config.verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if arguments["own_cpus"]:
        affinity.keep_to_own_cpus(config.threads_per_worker)
    clock = Clock()
    with needless_hidden(), environment.keras_at_its_defaults():
        from mnist_job.training import loop

    clock.ended("imports")
    try:
        with temporary.private():
            loop.train(config, arguments["checked"], arguments["checkpoints"], arguments["tell"], clock)
    except JobError:
        raise
    except Exception as error:
        # As text: a TensorFlow exception would make the driver import TensorFlow to unpickle it.
        text = f"{type(error).__name__}: {_own_words(str(error))}"
        if worth_a_restart(error):
            raise WorkerError(text) from error
        raise TrainingError(f"training failed: {text} (--verbose shows where)") from error


def _own_words(message: str) -> str:
    """Return a TensorFlow error without the traceback at its start and the graph nodes at its end."""
    *_, words = re.split(r"^Node: '.*'$", message, flags=re.MULTILINE)
    return " ".join(words.partition("[[{{")[0].split())[:500]


class WorkerError(Exception):
    """An error of a worker's loop, as text. A restart of all workers may solve it."""


def _reason(error: Exception, nodes: list[str], worker_timeout: float) -> str:
    if isinstance(error, WorkerGroupError):
        return _first_cause(error.worker_failures, nodes, worker_timeout)
    return f"Ray Train's controller: {last_line(getattr(error, 'controller_failure', error))}"


_DEAD = "the process of {worker} died (killed, perhaps because it ran out of memory, or its node was lost)"
# Parts of Ray's messages about a lost worker, and the sentence for each. The first that fits is used.
_FATES = {
    "out of memory issue": "{worker} was killed because its node or pod ran out of memory; "
    "give it more memory, or use a smaller model, batch or data set",
    "worker process has died": _DEAD,
    "actor died": _DEAD,
    "health check has been hanging": "{worker} did not answer for {seconds:g} seconds (--worker-timeout)",
}


def _first_cause(failures: dict[int, Exception], nodes: list[str], worker_timeout: float) -> str:
    """Return the failure that caused the others: when a worker dies, the workers that wait for it fail too."""

    def worker(rank: int) -> str:
        return f"worker {rank} on node {nodes[rank]}" if rank < len(nodes) else f"worker {rank}"

    for told, sentence in _FATES.items():
        ranks = [rank for rank, error in failures.items() if told in str(error)]
        if ranks:
            return sentence.format(worker=worker(min(ranks)), seconds=worker_timeout)
    return f"{worker(min(failures))}: {last_line(failures[min(failures)])}"
