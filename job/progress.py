"""What a person sees meanwhile: a line an epoch, as from Keras's `fit`, and in a terminal a live bar below it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from job import __version__
from job.config import JobConfig
from job.data import Summary, shape_text
from job.evaluation import Evaluation
from job.journal import Epoch, Restart, Start
from job.phases import PHASES


class Display:
    """Prints to what is standard output now; the bar is drawn only where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def line(self, text: str) -> None:
        """One line, above the bar."""
        self._bar.console.print(text)

    def data(self, summary: Summary) -> None:
        """What was found in the data set."""
        self.line(
            f"mnist-job {__version__}: {summary.name}: {summary.classes} classes, images of "
            f"{shape_text(summary.image_shape)}: {summary.train:,} for training, {summary.validation:,} for "
            f"validation, {summary.test:,} for the test"
        )

    @contextmanager
    def stage(self, doing: str, total: int | None = None) -> Iterator["Stage"]:
        """A part of the job that takes a while: named by a line in a log, by a bar in a terminal."""
        if not self._console.is_terminal:
            self.line(doing)
        task = self._bar.add_task(doing, total=total)
        with self._bar:
            try:
                yield Stage(self, self._bar, task)
            finally:
                self._bar.remove_task(task)

    def evaluation(self, evaluation: Evaluation) -> None:
        """The result."""
        self.line(
            f"test accuracy {evaluation.accuracy:.4f}, test loss {evaluation.loss:.4f} ({evaluation.samples:,} images)"
        )

    def phases(self, seconds: Mapping[str, float]) -> None:
        """Where the time went."""
        table = Table("phase", Column("seconds", justify="right"), "", box=None)
        for phase in PHASES:
            if phase in seconds:
                table.add_row(phase, f"{seconds[phase]:.2f}", PHASES[phase])
        self._console.print(table)


class Stage:
    """A stage in progress."""

    def __init__(self, display: Display, bar: Progress, task: TaskID) -> None:
        self._display, self._bar, self._task = display, bar, task

    def entry(self, entry: Start | Epoch | Restart, config: JobConfig) -> None:
        """Workers that have started, an epoch that ended, or workers that were lost."""
        match entry:
            case Start(workers, damaged):
                for checkpoint in damaged:
                    self._display.line(f"a damaged checkpoint was passed over: {checkpoint}")
                self._display.line(f"{workers} workers have started")
            case Restart(reason):
                self._display.line(f"workers are started again from the last epoch: {reason}")
            case Epoch():
                width = len(str(config.epochs))
                self._display.line(
                    f"epoch {entry.epoch:>{width}}/{config.epochs}  loss {entry.train_loss:.4f}  "
                    f"validation loss {entry.validation_loss:.4f}  "
                    f"validation accuracy {entry.validation_accuracy:.4f}  {entry.seconds:.1f} s"
                )
                self._bar.update(self._task, completed=entry.epoch)
