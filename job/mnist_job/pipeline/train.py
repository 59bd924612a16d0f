"""Train on the cluster, show the progress, and find the checkpoint whose model is the result."""

import time

from mnist_job.bounds import HASTY_SECONDS
from mnist_job.config.settings import JobConfig
from mnist_job.data.described import Summary
from mnist_job.distributed import trainer
from mnist_job.errors import TrainingError
from mnist_job.evaluation.task import Evaluator
from mnist_job.kubernetes import result
from mnist_job.models.origin import Origin
from mnist_job.pipeline.display import counted
from mnist_job.pipeline.stages import Run
from mnist_job.results import live
from mnist_job.results.outcome import TrainingRecord
from mnist_job.results.tensorboard import EventFiles
from mnist_job.storage.folder import RunFolder
from mnist_job.training import stopping
from mnist_job.training.checkpoint import Checkpoint, Checkpoints
from mnist_job.training.progress import News, Progress, Start


def train(
    this: Run, config: JobConfig, origin: Origin, summary: Summary, folder: RunFolder, evaluator: Evaluator
) -> tuple[Checkpoint, TrainingRecord]:
    """Train, and return the checkpoint of the kept epoch and the record of the training.

    If training has ended in an earlier run, which did not finish the evaluation, train nothing.
    """
    started = time.time()
    checkpoints = Checkpoints(folder.filesystem, folder.checkpoints, this.identity.run)
    with this.stage("worker_start", TrainingError):
        last = checkpoints.newest()
        done = len(last.history) if last else 0
        if last is not None and stopping.ended(last.history, config) is not None:
            return kept(checkpoints, config, last, None, None)
    doing = f"training on {counted(config.workers)}" + (f", from epoch {done + 1}" if last else "")
    with (
        this.stage("worker_stop", TrainingError, doing, config.epochs) as shown,
        EventFiles.opened(folder, this.log) as event_files,
        live.Gauges.opened(config.name, config.epochs) as gauges,
    ):
        assert shown is not None

        def on_entry(entry: News) -> None:
            shown.entry(entry)
            event_files.show(entry)
            match entry:
                case Start(node=node):
                    evaluator.prepare(node)
                case Progress():
                    gauges.show(entry)

        try:
            trained = trainer.train(config, origin, summary.training_facts, folder, checkpoints, this.clock, on_entry)
        except TrainingError as error:
            raise result.explained(error, config.kubernetes_rayjob, HASTY_SECONDS) from error.__cause__
        return kept(checkpoints, config, trained.checkpoint, trained.restarts, time.time() - started)


def kept(
    checkpoints: Checkpoints, config: JobConfig, last: Checkpoint, restarts: int | None, seconds: float | None
) -> tuple[Checkpoint, TrainingRecord]:
    """Return the checkpoint of the kept epoch, and the record of a training that has ended. Raises TrainingError."""
    epoch = stopping.kept_epoch(last.history, config)
    checkpoint = last if epoch == len(last.history) else checkpoints.of_epoch(epoch, last.history)
    ended = stopping.ended(last.history, config)
    return checkpoint, TrainingRecord(last.workers, restarts, seconds, last.history, epoch, ended)
