"""The folder that a run leaves, OUTPUT/NAME: it appears whole or not at all.

A run works in OUTPUT/.NAME, on the same file system, and renames the finished folder into its place. A run that ends
before leaves its checkpoints there, and the next run of that name goes on from them. An object store cannot rename a
folder: there `outcome.json` is removed first and written last, so where it is, all is.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from job import storage
from job.errors import DeliveryError, UsageError

OUTCOME = "outcome.json"
TENSORBOARD = "tensorboard"
LOCK = "lock"


@dataclass(frozen=True)
class RunFolder:
    """A run's place: `filesystem`, the final folder's path on it, and the path of the work in progress."""

    filesystem: fs.FileSystem
    final: str
    work: str

    @classmethod
    @contextmanager
    def opened(cls, output: str, name: str) -> Iterator["RunFolder"]:
        """The run's place, shown by a probe to be writable. At the end, work without a checkpoint is removed.

        Raises UsageError if it cannot be written, or another run of that name is in progress there. (An object store
        has no locks: there two such runs would each leave a whole result, the last one's.)
        """
        try:
            filesystem, base = storage.resolve(output)
            base = base.rstrip("/")
            made = _topmost_missing(filesystem, base)
            folder = cls(filesystem, f"{base}/{name}", f"{base}/.{name}")
            lock = folder._lock()
            folder.write("probe", b"")
            filesystem.delete_file(f"{folder.work}/probe")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UsageError(f"--output {output}: cannot be written: {' '.join(str(error).split())}") from error
        try:
            yield folder
        finally:
            folder._tidy(made)
            if lock is not None:
                os.close(lock)

    @property
    def checkpoints(self) -> str:
        """The folder of the checkpoints."""
        return f"{self.work}/checkpoints"

    @property
    def tensorboard(self) -> str:
        """The folder of TensorBoard's event files, while the run is in progress."""
        return f"{self.work}/{TENSORBOARD}"

    def has_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        return self._exists(self.checkpoints)

    def read(self, path: str) -> bytes | None:
        """A file of the run, by its full path; None if there is none. Raises OSError."""
        if not self._exists(path):
            return None
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the work folder, whole or not at all. Raises OSError."""
        path = f"{self.work}/{name}"
        with self.filesystem.open_output_stream(f"{path}.new") as stream:
            stream.write(content)
        self.filesystem.move(f"{path}.new", path)

    def event_files(self, place: str) -> dict[str, storage.File]:
        """TensorBoard's folder below `work` or `final`, as `publish` takes it; empty if nothing was recorded."""
        folder = storage.File(self.filesystem, f"{place}/{TENSORBOARD}")
        return {TENSORBOARD: folder} if self._exists(folder.path) else {}

    def clear(self) -> None:
        """Remove what a run would go on from."""
        for entry in self.filesystem.get_file_info(fs.FileSelector(self.work)):
            if entry.type == fs.FileType.Directory:
                self.filesystem.delete_dir(entry.path)
            elif entry.base_name != LOCK:
                self.filesystem.delete_file(entry.path)

    def publish(self, texts: dict[str, str], files: dict[str, storage.File]) -> None:
        """Put `texts` and copies of `files` (or folders), by their names, into the final folder, for what was there.

        Raises DeliveryError; the former folder is then still there, or its new content lacks `outcome.json`.
        """
        try:
            if self._exists(f"{self.work}/new"):  # what a run was writing when it was killed
                self.filesystem.delete_dir(f"{self.work}/new")
            self.filesystem.create_dir(f"{self.work}/new", recursive=True)
            for name, text in texts.items():
                self.write(f"new/{name}", text.encode())
            for name, file in files.items():
                file.copy_to(self.filesystem, f"{self.work}/new/{name}")
            if isinstance(self.filesystem, fs.LocalFileSystem):
                self._replace_by_rename()
            else:
                self._replace_by_copy()
        except OSError as error:
            reason = " ".join(str(error).split())
            raise DeliveryError(f"{self.final}: the results cannot be written: {reason}") from error

    def _lock(self) -> int | None:
        """Make the work folder; nobody else has it until the file that is given is closed. Raises UsageError."""
        while True:
            self.filesystem.create_dir(self.work, recursive=True)
            if not isinstance(self.filesystem, fs.LocalFileSystem):
                return None
            path = Path(self.work, LOCK)
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:  # another run's end removed the folder
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
                    return file
            except BlockingIOError as error:
                os.close(file)
                raise UsageError(
                    f"{self.final}: another run of this name is in progress; wait for its end, or take another --name"
                ) from error
            os.close(file)

    def _tidy(self, made: str | None) -> None:
        if not self.has_checkpoints():
            self.filesystem.delete_dir(self.work)
        if made is not None and self._exists(made):
            below = self.filesystem.get_file_info(fs.FileSelector(made, recursive=True))
            if all(entry.type == fs.FileType.Directory for entry in below):
                self.filesystem.delete_dir(made)

    def _replace_by_rename(self) -> None:
        if self._exists(self.final):
            if self._exists(f"{self.work}/old"):
                self.filesystem.delete_dir(f"{self.work}/old")
            self.filesystem.move(self.final, f"{self.work}/old")
        self.filesystem.move(f"{self.work}/new", self.final)

    def _replace_by_copy(self) -> None:
        if self._exists(f"{self.final}/{OUTCOME}"):
            self.filesystem.delete_file(f"{self.final}/{OUTCOME}")
        entries = self.filesystem.get_file_info(fs.FileSelector(f"{self.work}/new"))
        self.filesystem.create_dir(self.final, recursive=True)
        for entry in sorted(entries, key=lambda entry: bool(entry.base_name == OUTCOME)):
            target = f"{self.final}/{entry.base_name}"
            if entry.type == fs.FileType.Directory and self._exists(target):
                self.filesystem.delete_dir(target)
            storage.File(self.filesystem, entry.path).copy_to(self.filesystem, target)

    def _exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _topmost_missing(filesystem: fs.FileSystem, path: str) -> str | None:
    """The first folder on the way to `path` that does not exist."""
    missing = None
    while path and filesystem.get_file_info(path).type == fs.FileType.NotFound:
        missing, path = path, path.rpartition("/")[0]
    return missing
