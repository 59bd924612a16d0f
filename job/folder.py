"""The folder that a run leaves, OUTPUT/NAME: it appears whole or not at all.

A run works in OUTPUT/.NAME-RUN, on the same file system, and renames the finished folder into its place. An object
store cannot rename a folder: there `outcome.json` is removed first and written last, so where it is, all is.
"""

from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from job import storage
from job.errors import DeliveryError, UsageError

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class RunFolder:
    """A run's place: `filesystem`, the final folder's path on it, and the path of the work in progress."""

    filesystem: fs.FileSystem
    final: str
    work: str
    made: str | None  # the topmost folder that did not exist before: a failed run removes it again

    @classmethod
    def create(cls, output: str, name: str, run: str) -> "RunFolder":
        """Make the work folder, and show by a probe that files can be written there. Raises UsageError."""
        try:
            filesystem, base = storage.resolve(output)
            base = base.rstrip("/")
            made = _topmost_missing(filesystem, base)
            folder = cls(filesystem, f"{base}/{name}", f"{base}/.{name}-{run}", made)
            try:
                filesystem.create_dir(folder.work, recursive=True)
                folder._write("probe", b"")
                filesystem.delete_file(f"{folder.work}/probe")
            except BaseException:
                folder.discard()
                raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UsageError(f"--output {output}: cannot be written: {' '.join(str(error).split())}") from error
        return folder

    def publish(self, texts: dict[str, str], files: dict[str, storage.File]) -> None:
        """Put `texts` and copies of `files`, by their names, into the final folder, in place of what was there.

        Raises DeliveryError; the former folder is then still there, or its new content lacks `outcome.json`.
        """
        try:
            self.filesystem.create_dir(f"{self.work}/new", recursive=True)
            for name, text in texts.items():
                self._write(f"new/{name}", text.encode())
            for name, file in files.items():
                file.copy_to(self.filesystem, f"{self.work}/new/{name}")
            if isinstance(self.filesystem, fs.LocalFileSystem):
                self._replace_by_rename()
            else:
                self._replace_by_copy()
        except OSError as error:
            reason = " ".join(str(error).split())
            raise DeliveryError(f"{self.final}: the results cannot be written: {reason}") from error

    def discard(self) -> None:
        """Remove the work folder, and the folders made for it if nothing else is in them."""
        if self._exists(self.work):
            self.filesystem.delete_dir(self.work)
        if self.made is not None and self._exists(self.made):
            below = self.filesystem.get_file_info(fs.FileSelector(self.made, recursive=True))
            if all(entry.type == fs.FileType.Directory for entry in below):
                self.filesystem.delete_dir(self.made)

    def _replace_by_rename(self) -> None:
        if self._exists(self.final):
            self.filesystem.move(self.final, f"{self.work}/old")
        self.filesystem.move(f"{self.work}/new", self.final)

    def _replace_by_copy(self) -> None:
        if self._exists(f"{self.final}/{OUTCOME}"):
            self.filesystem.delete_file(f"{self.final}/{OUTCOME}")
        names = [entry.base_name for entry in self.filesystem.get_file_info(fs.FileSelector(f"{self.work}/new"))]
        self.filesystem.create_dir(self.final, recursive=True)
        for name in sorted(names, key=lambda name: name == OUTCOME):
            self.filesystem.copy_file(f"{self.work}/new/{name}", f"{self.final}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.work}/{name}") as stream:
            stream.write(content)

    def _exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _topmost_missing(filesystem: fs.FileSystem, path: str) -> str | None:
    """The first folder on the way to `path` that does not exist."""
    missing = None
    while path and filesystem.get_file_info(path).type == fs.FileType.NotFound:
        missing, path = path, path.rpartition("/")[0]
    return missing
