"""TensorBoard's event files, `tensorboard/` in the run's folder. Its runs, `train` and `validation`, and its tags are
called as by Keras's callback; epochs count from 1, as in `history.csv`.

The driver writes them, by the writer of tensorboardX, which Ray Train brings: TensorFlow writes scalars only where the
package tensorboard is, and the driver does without TensorFlow. An object store cannot append to a file. So they grow in
a temporary folder, and are copied to the run's as often as a copy costs little, on a disk as on a store.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from mnist_job.log import Log
from mnist_job.storage import files
from mnist_job.storage.folder import RunFolder
from mnist_job.system.lean import needless_hidden
from mnist_job.training.progress import Epoch, News, Progress, Start

with needless_hidden():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

RUNS = ("train", "validation")
COPYING = 0.02  # of the time, at most


class EventFiles:
    """The event files of a run in progress. Where they cannot be written, a warning says so, and training goes on."""

    @classmethod
    @contextmanager
    def opened(cls, folder: RunFolder, log: Log) -> Iterator["EventFiles"]:
        """At the end, whatever the end, all of them are in the run's folder."""
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
        """Write what an entry says."""
        with self._failure_is_told():
            match entry:
                case Start():
                    self._finish()
                case Progress():
                    self._progress(entry)
                case Epoch() if self._writers:  # none where they could not be begun
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
        assert entry.train_accuracy is not None  # but in old histories
        values = {
            "epoch_loss": entry.train_loss,
            "epoch_accuracy": entry.train_accuracy,
            "epoch_learning_rate": entry.learning_rate,
            "epoch_images_per_second": self._images_per_second,
        }
        self._scalars("train", entry.epoch, values)
        values = {"epoch_loss": entry.validation_loss, "epoch_accuracy": entry.validation_accuracy}
        self._scalars("validation", entry.epoch, values)

    def _begin(self, step: int) -> None:
        """A new file for each run, which makes TensorBoard forget what a former one says from that step on."""
        writers = {}
        for run in RUNS:
            folder = Path(self._local.path, run)
            folder.mkdir(exist_ok=True)
            writers[run] = EventsWriter(str(folder / "events"), f".{step}")
            start = SessionLog(status=SessionLog.START)
            writers[run].write_event(Event(wall_time=time.time(), step=step, session_log=start))
        self._writers = writers

    def _scalars(self, run: str, step: int, values: dict[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
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
