"""The folder that a run leaves, OUTPUT/NAME: it appears whole or not at all.

A run works in OUTPUT/.NAME, on the same file system, and renames the finished folder into its place. A run that ends
before leaves its checkpoints there, and the next run of that name goes on from them. An object store cannot rename a
folder: there `outcome.json` is removed first and written last, so where it is, all is. Both folders hold a marker; what
is in their way is refused (`mnist_job.storage.place`).
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
    """A run's place, while the run has it."""

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
        """The place of `run`, shown to be writable. At the end, work without a checkpoint is removed.

        A dry run only looks. `replaces` says that a result that is there will be replaced. `tell` is told what is
        waited for.

        Raises UsageError if it cannot be written, something is in the way that this program did not make, or another
        run of that name is in progress, or has taken over.
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
        """Whether there is something to go on from."""
        return owned.kind(self.filesystem, self.checkpoints) is not None

    def write(self, name: str, content: bytes) -> None:
        """Write a file into the work folder, whole or not at all. Raises OSError."""
        path = f"{self.work}/{name}"
        with self.filesystem.open_output_stream(f"{path}.new") as stream:
            stream.write(content)
        self.filesystem.move(f"{path}.new", path)

    def event_files(self, place: str) -> dict[str, files.File]:
        """TensorBoard's folder below `work` or `final`, as `publish` takes it; empty if nothing was recorded."""
        folder = files.File(self.filesystem, f"{place}/{TENSORBOARD}")
        return {TENSORBOARD: folder} if owned.kind(self.filesystem, folder.path) == "folder" else {}

    def clear(self) -> None:
        """Remove what a run would go on from. Raises OSError."""
        claim.clear(self)

    def publish(
        self, texts: dict[str, str], files: dict[str, files.File], checksums: Mapping[str, str | None] | None = None
    ) -> None:
        """Put `texts` and copies of `files` (or folders), by their names, into the final folder, for what was there.

        `checksums` gives the SHA-256 that copies must have, None where any will do.

        Raises DeliveryError; the former folder is then still there, or its new content lacks `outcome.json`. Raises
        UsageError if another run has taken over.
        """
        new = f"{self.work}/new"
        try:
            owned.remove(self.filesystem, new, owned.in_a_result)  # what a run was writing when it was killed
            self.filesystem.create_dir(new, recursive=True)
            for name, text in texts.items():
                self.write(f"new/{name}", text.encode())
            for name, file in files.items():
                file.copy_to(self.filesystem, f"{new}/{name}")
            self._check_copies(new, checksums or {})
            written = owned.entries(self.filesystem, new)
            assert all(map(owned.in_a_result, written)), written  # or they could not be removed later
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
                raise OSError(f"{name} is not the one that was evaluated: it was changed meanwhile")

    def _check_before_replacing(self) -> None:
        """Raises DeliveryError for what was put in the way while the run was in progress."""
        if self.lease is not None:
            self.lease.renew()
        try:
            self.check_replaceable()
        except UsageError as error:
            raise DeliveryError(f"{error}; the same command then goes on") from error

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
            # Whenever it is killed, all that is there is known.
            stream.write(replace(self.mark, files=sorted({*former, *written, MARKER})).to_json())
        owned.remove(self.filesystem, self.final, (former - {MARKER}).__contains__)
        names = dict.fromkeys(path.partition("/")[0] for path in written)
        for name in sorted(names, key=lambda name: name == OUTCOME):
            if name == OUTCOME:
                self._check_copies(self.final, checksums)
            copy = files.File(self.filesystem, f"{self.work}/new/{name}")
            copy.copy_to(self.filesystem, f"{self.final}/{name}")
