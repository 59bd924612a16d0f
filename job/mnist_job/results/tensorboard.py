"""TensorBoard's event files, in `tensorboard/` of the run's folder.

The runs `train` and `validation` and the tags have the same names as those of Keras's callback. Epochs count from 1, as
in `history.csv`. The driver writes the files with tensorboardX, which Ray Train requires: TensorFlow needs the package
tensorboard for it, and the driver does not import TensorFlow. An object store cannot append to a file. So the files
grow in a temporary folder and are copied to the run's folder, at intervals that keep the cost of copying low.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from mnist_job.log import Log
from mnist_job.storage import files
from mnist_job.storage.folder import RunFolder
from mnist_job.system.environment import without_needless
from mnist_job.training.progress import Epoch, News, Progress, Start

with without_needless():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

RUNS = ("train", "validation")
COPYING = 0.02  # the greatest share of the time that is spent on copying


class EventFiles:
    """The event files of a run in progress. If they cannot be written, log a warning and continue training."""

    @classmethod
    @contextmanager
    def opened(cls, folder: RunFolder, log: Log) -> Iterator["EventFiles"]:
        """Write event files in this context. At its end, also after an error, copy all of them to the run's folder."""
        with tempfile.TemporaryDirectory(prefix="tensorboard-") as local:
            files = cls(folder, log, local)
            try:
                yield files
            finally:
                with files._failure_is_told():
                    files._finish()

    def __init__(self, folder: RunFolder, log: Log, local: str) -> None:
        self._place = files.File(folder.filesystem, folder.tensorboard)
        self._log, self._local = log, files.File(fs.LocalFileSystem(), local)
        self._writers: dict[str, EventsWriter] = {}
        self._images_per_second = 0.0
        self._copy_due = 0.0
        self._warned = False

    def show(self, entry: News) -> None:
        """Write the values of an entry."""
        with self._failure_is_told():
            match entry:
                case Start():
                    self._finish()
                case Progress():
                    self._progress(entry)
                case Epoch() if self._writers:  # there are none if the files could not be created
                    self._epoch(entry)
            if self._writers and time.monotonic() >= self._copy_due:
                self._copy()

    def _progress(self, entry: Progress) -> None:
        before = (entry.epoch - 1) * entry.steps
        if not self._writers:
            self._begin(before + 1)
        self._images_per_second = entry.images_per_second
        values = {"batch_loss": entry.train_loss, "batch_images_per_second": entry.images_per_second}
        self._scalars("train", before + entry.step, values)

    def _epoch(self, entry: Epoch) -> None:
        values = {
            **{f"epoch_{name}": value for name, value in entry.measured("train").items()},
            "epoch_learning_rate": entry.learning_rate,
            "epoch_images_per_second": self._images_per_second,
        }
        self._scalars("train", entry.epoch, values)
        values = {f"epoch_{name}": value for name, value in entry.measured("validation").items()}
        self._scalars("validation", entry.epoch, values)

    def _begin(self, step: int) -> None:
        """Create a new file for each run. From `step` on, TensorBoard ignores the values of earlier files."""
        writers = {}
        for run in RUNS:
            folder = Path(self._local.path, run)
            folder.mkdir(exist_ok=True)
            writers[run] = EventsWriter(str(folder / "events"), f".{step}")
            start = SessionLog(status=SessionLog.START)
            writers[run].write_event(Event(wall_time=time.time(), step=step, session_log=start))
        self._writers = writers

    def _scalars(self, run: str, step: int, values: Mapping[str, float | None]) -> None:
        known = {tag: value for tag, value in values.items() if value is not None}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])
        self._writers[run].write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _copy(self) -> None:
        began = time.monotonic()
        try:
            for writer in self._writers.values():
                writer.flush()
            self._local.copy_to(self._place.filesystem, self._place.path)
        finally:
            now = time.monotonic()
            self._copy_due = now + (now - began) / COPYING

    def _finish(self) -> None:
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()
        if writers:
            self._copy()

    @contextmanager
    def _failure_is_told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if not self._warned:
                self._warned = True
                self._log.warning(f"TensorBoard's files are not up to date: {' '.join(str(error).split())}")
