"""Show the progress of a run: one line for each epoch, as Keras's `fit` does, and in a terminal also a progress bar."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich import progress
from rich.table import Column

from mnist_job import __version__
from mnist_job.data.described import Summary
from mnist_job.data.fits import shape_text
from mnist_job.data.split import MOST_NAMED, named
from mnist_job.log import Log
from mnist_job.phases import PHASES
from mnist_job.results.outcome import Outcome, TrainingRecord
from mnist_job.training.progress import Epoch, News, Progress, Restart, Start


class Display:
    """The display of a run: the lines of its log and, if the log goes to a terminal, a progress bar."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            progress.BarColumn(bar_width=10),
            progress.TimeRemainingColumn(),
            expand=True,
            console=log.console,
            transient=True,
            disable=not log.is_live,
        )

    def data(self, summary: Summary) -> None:
        """Show what the data set contains."""
        self._log.info(
            f"mnist-job {__version__}: {summary.name}: {_what(summary)}: {summary.train:,} for training, "
            f"{summary.validation:,} for validation, {summary.test:,} for the test",
            version=__version__,
            dataset=summary.name,
            classes=summary.classes,
            image_shape=summary.image_shape,
            train=summary.train,
            validation=summary.validation,
            test=summary.test,
        )
        if summary.absent:
            self._log.warning(
                f"there is no image of {named(summary.absent, summary.names or ())}",
                classes=summary.absent[:MOST_NAMED],
            )

    @contextmanager
    def stage(self, doing: str, epochs: int | None = None) -> Iterator["Stage"]:
        """Show a part of the job while this context is open: as a line in a log, or as a bar in a terminal.

        `epochs` is how many there are, if this part trains.
        """
        if not self._log.is_live:
            self._log.info(doing)
        task = self._bar.add_task(doing, total=epochs)
        with self._bar:
            try:
                yield Stage(self._log, self._bar, task, epochs or 0)
            finally:
                self._bar.remove_task(task)

    def training(self, record: TrainingRecord, epochs: int) -> None:
        """Show why training ended and which epoch is kept, unless all `epochs` were trained and the last is kept."""
        trained, kept = len(record.history), record.kept.epoch
        if kept < trained or trained < epochs:
            self._log.info(
                f"training ended after {trained} of {epochs} epochs: {record.ended}; the model of epoch {kept} is kept",
                epochs=trained,
                ended=record.ended,
                kept_epoch=kept,
            )

    def evaluation(self, outcome: Outcome) -> None:
        """Show the result of the evaluation."""
        found = outcome.evaluation
        assert found is not None
        measured = [] if found.accuracy is None else [f"test accuracy {found.accuracy:.4f}"]
        measured.append(f"test loss {found.loss:.4f}")
        kind = "samples" if found.accuracy is None else "images"
        self._log.result(
            f"{', '.join(measured)} ({found.samples:,} {kind})",
            name=outcome.identity.name,
            run=outcome.identity.run,
            accuracy=found.accuracy,
            loss=found.loss,
            samples=found.samples,
        )
        if missed := [label for label, recall in enumerate(found.recall) if recall == 0]:
            told = f"recall 0: not one test image of {named(missed, found.class_names)} is recognized"
            self._log.warning(told, classes=missed[:MOST_NAMED])

    def phases(self, seconds: Mapping[str, float]) -> None:
        """Show the seconds of each phase."""
        for phase in PHASES:
            if phase in seconds:
                text = f"{phase:<12} {seconds[phase]:>8.2f} s  {PHASES[phase]}"
                self._log.info(text, phase=phase, seconds=seconds[phase])


def _what(summary: Summary) -> str:
    shape = shape_text(summary.image_shape)
    return f"samples of {shape}" if summary.classes is None else f"{summary.classes} classes, images of {shape}"


class Stage:
    """The display of a stage that is in progress."""

    def __init__(self, log: Log, bar: progress.Progress, task: progress.TaskID, epochs: int) -> None:
        self._log, self._bar, self._task, self._epochs = log, bar, task, epochs

    def entry(self, entry: News) -> None:
        """Show an entry: the start of the workers, their progress, the end of an epoch, or a restart."""
        width = len(str(self._epochs))
        match entry:
            case Start(workers, damaged, epoch=epoch, step=step):
                for checkpoint in damaged:
                    self._log.warning(f"a damaged checkpoint was skipped: {checkpoint}", checkpoint=checkpoint)
                have = "has" if workers == 1 else "have"
                where = f", at epoch {epoch}" if (epoch, step) != (1, 0) else ""
                where += f", step {step + 1}" if step else ""
                place = {"from_epoch": epoch, "from_step": step + 1} if where else {}
                self._log.info(f"{counted(workers)} {have} started{where}", workers=workers, **place)
            case Restart(reason):
                self._log.warning(f"all workers restart from the last checkpoint: {reason}", reason=reason)
            case Progress():
                self._bar.update(
                    self._task,
                    description=f"epoch {entry.epoch:>{width}}/{self._epochs}  step {entry.step:,}/{entry.steps:,}  "
                    f"{_loss(entry)}  {entry.images_per_second:,.0f} images/s",
                    completed=entry.epoch - 1 + entry.step / entry.steps,
                )
            case Epoch():
                validated = "".join(f"  validation {name} {x:.4f}" for name, x in entry.measured("validation").items())
                self._log.info(
                    f"epoch {entry.epoch:>{width}}/{self._epochs}  {_loss(entry)}{validated}  {entry.seconds:.1f} s",
                    **entry.columns(),
                )


def counted(workers: int | str) -> str:
    """Return `1 worker`, `2 workers` or `1:2 workers`."""
    return "1 worker" if workers == 1 else f"{workers} workers"


def _loss(entry: Progress | Epoch) -> str:
    return "loss not finite" if entry.train_loss is None else f"loss {entry.train_loss:.4f}"
