"""The two folders of a run, and the checks of what is already there.

A run is refused, before it changes anything, if one of its folders was not made by this program or contains a file that
this program did not write. Such files are never replaced or removed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from pyarrow import fs

from mnist_job.errors import UsageError
from mnist_job.storage import owned
from mnist_job.storage.owned import Mark

OUTCOME = "outcome.json"
RECORD = "run.json"


@dataclass(frozen=True)
class Place:
    """The two folders of a run: `final` and `work`, paths on `filesystem`. `mark` is the content of their markers."""

    filesystem: fs.FileSystem
    final: str
    work: str
    mark: Mark

    @property
    def is_local(self) -> bool:
        """Whether the folders are on a disk of this machine, or on one that is mounted like a disk."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def read(self, path: str) -> bytes | None:
        """Read a file of the run by its full path. Return None if there is no such file. Raises OSError."""
        if owned.kind(self.filesystem, path) != "file":
            return None
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def check_owner(self) -> None:
        """Check that this program made both folders, if they exist. Raises UsageError if not."""
        self._check_owner(self.work, self._is_former_work)
        self._check_owner(self.final, self._is_former_result)

    def check_work(self) -> None:
        """Check that this program wrote everything in the work folder. Raises UsageError if not."""
        self._check_entries(self.work, owned.in_work)

    def check_replaceable(self) -> None:
        """Check that this program made the final folder and wrote everything in it. Raises UsageError if not."""
        self._check_owner(self.final, self._is_former_result)
        self._check_entries(self.final, self.in_result())

    def is_marked(self, path: str) -> bool:
        """Return whether the folder has a marker of this job."""
        return Mark.read(self.filesystem, path, self.mark.name) is not None

    def in_result(self) -> owned.Ours:
        """Return a function that says which paths in the final folder this program wrote."""
        mark = Mark.read(self.filesystem, self.final, self.mark.name)
        return owned.in_a_result if mark is None else frozenset(mark.files).__contains__

    def _check_owner(self, path: str, is_former: Callable[[], bool]) -> None:
        kind = owned.kind(self.filesystem, path)
        if kind is None or (kind == "folder" and (self.is_marked(path) or is_former())):
            return
        if kind == "folder" and not self.is_local:
            below = owned.entries(self.filesystem, path)
            if all(entry.endswith("/") for entry in below):  # no file at all: on a store, this is no folder
                return
        what = {"folder": "folder", "file": "file"}.get(kind, "link")
        raise UsageError(
            f"{path}: this {what} is in the way, and mnist-job did not make it; move it, or take another --name or "
            "--output"
        )

    def _check_entries(self, folder: str, ours: owned.Ours) -> None:
        if owned.kind(self.filesystem, folder) != "folder":
            return
        if (entry := owned.foreign(self.filesystem, folder, ours)) is not None:
            raise UsageError(
                f"{folder}/{entry}: mnist-job did not write this, and would remove it with the folder; move it, "
                "or take another --name"
            )

    # Old versions did not write markers. Their folders are recognized by their files.

    def _is_former_result(self) -> bool:
        try:
            said = json.loads(self.read(f"{self.final}/{OUTCOME}") or b"")
            whose, code = said["identity"]["name"], said["exit_code"]
        except (ValueError, KeyError, TypeError):
            return False
        return (
            isinstance(code, int)
            and whose == self.mark.name
            and owned.foreign(self.filesystem, self.final, owned.in_a_result) is None
        )

    def _is_former_work(self) -> bool:
        below = owned.entries(self.filesystem, self.work)
        if not all(map(owned.in_work, below)):
            return False
        if below and all(entry.startswith("lease/") for entry in below):
            return True  # on a store, left by a run that was killed before it wrote its marker or after it removed it
        try:
            said = json.loads(self.read(f"{self.work}/{RECORD}") or b"")
            return isinstance(said["run"], str) and isinstance(said["record"]["settings"], dict)
        except (ValueError, KeyError, TypeError):
            return False
