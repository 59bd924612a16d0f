"""The folder with the results of a run, OUTPUT/NAME. It is written completely or not at all.

A run works in OUTPUT/.NAME, on the same file system, and renames the finished folder to OUTPUT/NAME. If it ends before
that, its checkpoints stay in OUTPUT/.NAME, and the next run of the same name resumes from them. An object store cannot
rename a folder. There `outcome.json` is removed first and written last: if it exists, the folder is complete. Both
folders contain a marker. If another file or folder is in their place, the run is refused (`mnist_job.storage.place`).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from mnist_job.errors import DeliveryError, UsageError
from mnist_job.storage import claim, files, owned
from mnist_job.storage.claim import LOCK, Tell
from mnist_job.storage.lease import Lease
from mnist_job.storage.owned import MARKER, Mark
from mnist_job.storage.place import OUTCOME, RECORD, Place

__all__ = ["LOCK", "OUTCOME", "RECORD", "RunFolder"]
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class RunFolder(Place):
    """The folders of a run that is in progress."""

    lease: Lease | None = None

    @classmethod
    @contextmanager
    def opened(
        cls,
        output: str,
        name: str,
        run: str,
        *,
        dry_run: bool = False,
        replaces: bool = False,
        tell: Tell = lambda _: None,
    ) -> Iterator["RunFolder"]:
        """Open the folders of `run` in this context, after checking that they are writable.

        At the end, remove the work folder unless it has a checkpoint. With `dry_run`, only check. `replaces` says that
        this run will replace an earlier result. `tell` gets a sentence before a wait.

        Raises UsageError if the folders are not writable, if something is in the way that this program did not make,
        or if another run of the same name is in progress or takes over.
        """
        with ExitStack() as stack:
            try:
                filesystem, base = files.resolve(output)
                base = base.rstrip("/")
                folder = cls(filesystem, f"{base}/{name}", f"{base}/.{name}", Mark(name, run))
                folder.check_owner()
                if replaces:
                    folder.check_replaceable()
                if dry_run:
                    folder.check_work()
                    stack.enter_context(claim.looked_at(folder, base, tell))
                else:
                    folder = replace(folder, lease=stack.enter_context(claim.taken(folder, base, tell)))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise UsageError(f"--output {output}: cannot be written: {' '.join(str(error).split())}") from error
            try:
                yield folder
            except KeyboardInterrupt as stop:
                if folder.lease is not None and folder.lease.lost is not None:
                    raise folder.lease.lost from stop
                raise

    @property
    def checkpoints(self) -> str:
        """The folder of the checkpoints."""
        return f"{self.work}/checkpoints"

    @property
    def tensorboard(self) -> str:
        """The folder of TensorBoard's event files, while the run is in progress."""
        return f"{self.work}/{TENSORBOARD}"

    def has_checkpoints(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return owned.kind(self.filesystem, self.checkpoints) is not None

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the work folder, completely or not at all. Raises OSError."""
        files.File(self.filesystem, f"{self.work}/{name}").write(content)

    def event_files(self, place: str) -> dict[str, files.File]:
        """Return TensorBoard's folder in `work` or `final` as an argument for `publish`, empty if there is none."""
        folder = files.File(self.filesystem, f"{place}/{TENSORBOARD}")
        return {TENSORBOARD: folder} if owned.kind(self.filesystem, folder.path) == "folder" else {}

    def clear(self) -> None:
        """Remove everything that a run would resume from. Raises OSError."""
        claim.clear(self)

    def publish(
        self, texts: dict[str, str], files: dict[str, files.File], checksums: Mapping[str, str | None] | None = None
    ) -> None:
        """Replace the content of the final folder by `texts` and copies of `files` (or folders), given by name.

        `checksums` has the SHA-256 that a copy must have, or None if it is not checked.

        Raises DeliveryError. Then the earlier result is still there, or the folder has no `outcome.json`. Raises
        UsageError if another run has taken over.
        """
        new = f"{self.work}/new"
        try:
            owned.remove(self.filesystem, new, owned.in_a_result)  # left by a run that was killed while it was writing
            self.filesystem.create_dir(new, recursive=True)
            for name, text in texts.items():
                self.write(f"new/{name}", text.encode())
            for name, file in files.items():
                file.copy_to(self.filesystem, f"{new}/{name}")
            self._check_copies(new, checksums or {})
            written = owned.entries(self.filesystem, new)
            assert all(map(owned.in_a_result, written)), written  # other names could not be removed later
            self._check_before_replacing()
            if self.is_local:
                self._replace_by_rename(written)
            else:
                self._replace_by_copy(written, checksums or {})
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DeliveryError(f"{self.final}: the results cannot be written: {reason}") from error

    def _check_copies(self, place: str, checksums: Mapping[str, str | None]) -> None:
        for name, sha256 in checksums.items():
            if sha256 is not None and files.File(self.filesystem, f"{place}/{name}").sha256() != sha256:
                raise OSError(f"{name} is not the one that was evaluated: it has changed in the meantime")

    def _check_before_replacing(self) -> None:
        """Raise DeliveryError if something was put in the way while the run was in progress."""
        if self.lease is not None:
            self.lease.renew()
        try:
            self.check_replaceable()
        except UsageError as error:
            raise DeliveryError(f"{error}; then run the same command again to resume") from error

    def _replace_by_rename(self, written: list[str]) -> None:
        old, ours = f"{self.work}/old", self.in_result()
        self.write(f"new/{MARKER}", replace(self.mark, files=[*written, MARKER]).to_json())
        owned.remove(self.filesystem, old, owned.in_a_result)
        if owned.kind(self.filesystem, self.final) is not None:
            owned.rename_new(self.final, old)
        owned.rename_new(f"{self.work}/new", self.final)
        owned.remove(self.filesystem, old, ours)

    def _replace_by_copy(self, written: list[str], checksums: Mapping[str, str | None]) -> None:
        ours = self.in_result()
        former = {path for path in owned.entries(self.filesystem, self.final) if ours(path)}
        if OUTCOME in former:
            self.filesystem.delete_file(f"{self.final}/{OUTCOME}")
        owned.make_folders(self.filesystem, self.final)
        with self.filesystem.open_output_stream(f"{self.final}/{MARKER}") as stream:
            # Written before any other change: if the run is killed now, the marker lists every file of the folder.
            stream.write(replace(self.mark, files=sorted({*former, *written, MARKER})).to_json())
        owned.remove(self.filesystem, self.final, (former - {MARKER}).__contains__)
        names = dict.fromkeys(path.partition("/")[0] for path in written)
        for name in sorted(names, key=lambda name: name == OUTCOME):
            if name == OUTCOME:
                self._check_copies(self.final, checksums)
            copy = files.File(self.filesystem, f"{self.work}/new/{name}")
            copy.copy_to(self.filesystem, f"{self.final}/{name}")
