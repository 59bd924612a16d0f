"""Exclusive use of a run's folder while the run is in progress: by a lock on a disk, by a lease on an object store."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from mnist_job.errors import UsageError
from mnist_job.storage import owned
from mnist_job.storage.lease import Lease
from mnist_job.storage.owned import MARKER
from mnist_job.storage.place import Place

LOCK = "lock"
_TRIES = 100  # other runs may make and remove the same folders at the same time
_KEPT = (LOCK, MARKER, "lease/")  # not removed while the run is in progress

Tell = Callable[[str], object]


@contextmanager
def taken(place: Place, output: str, tell: Tell) -> Iterator[Lease | None]:
    """Make the work folder and keep other runs out of it in this context. Yield the lease, or None on a disk.

    At the end, remove the folder, unless it has checkpoints or files of others. Raises UsageError if another run is in
    progress, or if there is a file or folder in the way that this program did not make. Raises OSError if the place is
    not writable.
    """
    made: list[str] = []
    try:
        with (
            _locked_folder(place, output, made)
            if place.is_local
            else _leased_folder(place, output, made, tell) as lease
        ):
            place.check_work()
            yield lease
    finally:
        with suppress(OSError, pa.ArrowException):
            owned.remove_empty(place.filesystem, made)


@contextmanager
def looked_at(place: Place, output: str, tell: Tell) -> Iterator[None]:
    """Check that no other run is in progress and that the place is writable. Leave nothing there.

    Raises the same errors as `taken`.
    """
    lock = None
    if place.is_local:
        with suppress(FileNotFoundError):
            lock = _locked(place, os.O_RDWR)
    try:
        if place.is_local:
            there = place.work
            while not os.path.lexists(there):
                there = there.rpartition("/")[0] or "/"
            with tempfile.TemporaryFile(dir=there):
                pass
        else:
            Lease(place.filesystem, place.work, place.mark.run).look(_probed(place, output), tell)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _probed(place: Place, output: str) -> datetime | None:
    """Write a file and remove it. Return its time by the store's clock."""
    made = owned.make_folders(place.filesystem, output)
    try:
        probe = f"{place.work}.{place.mark.run}.probe"
        with place.filesystem.open_output_stream(probe) as stream:
            stream.write(b"")
        now: datetime | None = place.filesystem.get_file_info(probe).mtime
        place.filesystem.delete_file(probe)
    finally:
        owned.remove_empty(place.filesystem, made)
    return now


def clear(place: Place) -> None:
    """Remove what this program wrote into the work folder, except lock, marker and lease. Raises OSError."""
    owned.remove(
        place.filesystem, place.work, lambda path: not path.startswith(_KEPT) and owned.in_work(path) is not None
    )


@contextmanager
def _locked_folder(place: Place, output: str, made: list[str]) -> Iterator[None]:
    lock = _made_and_locked(place, output, made)
    try:
        with suppress(OSError):  # left-overs do no harm
            owned.remove_left_over(place.work, place.mark.name)
        if not place.is_marked(place.work):  # made by an old version, which had no markers
            _write_marker(place)
        with tempfile.TemporaryFile(dir=place.work):
            pass
        yield
    finally:
        with suppress(OSError):  # the next run removes what cannot be removed now
            if _is_done(place):
                owned.remove_marked(place.work, place.mark)
        os.close(lock)


@contextmanager
def _leased_folder(place: Place, output: str, made: list[str], tell: Tell) -> Iterator[Lease]:
    made += owned.make_folders(place.filesystem, output)
    try:
        with Lease.taken(place.filesystem, place.work, place.mark.run, tell) as lease:
            place.check_owner()
            if not place.is_marked(place.work):
                _write_marker(place)
            try:
                yield lease
            finally:
                with suppress(OSError, pa.ArrowException):
                    if lease.lost is None and _is_done(place):
                        lease.stop()
                        place.filesystem.delete_file(f"{place.work}/{MARKER}")
                        if place.filesystem.type_name == "s3":  # pyarrow writes an empty object for a folder
                            place.filesystem.delete_dir(place.work)  # what another writes there at this moment goes too
    finally:
        with suppress(OSError, pa.ArrowException):
            owned.remove_empty(place.filesystem, [place.work, f"{place.work}/lease"])


def _is_done(place: Place) -> bool:
    """If there is no checkpoint, remove the other files of the run. Return whether the work folder is empty then."""
    if owned.kind(place.filesystem, f"{place.work}/checkpoints") is not None:
        return False
    clear(place)
    return all(entry.startswith(_KEPT) for entry in owned.entries(place.filesystem, place.work))


def _write_marker(place: Place) -> None:
    with place.filesystem.open_output_stream(f"{place.work}/{MARKER}") as stream:
        stream.write(place.mark.to_json())


def _made_and_locked(place: Place, output: str, made: list[str]) -> int:
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # another run has just ended and removed a folder: try again
            made += owned.make_folders(place.filesystem, output)
            if not os.path.lexists(place.work):
                with suppress(FileExistsError):
                    owned.make_marked(place.work, place.mark)
            place.check_owner()
            return _locked(place, os.O_RDWR | os.O_CREAT)
    raise FileNotFoundError(f"{output} cannot be created, or another process keeps removing it")


def _locked(place: Place, flags: int) -> int:
    """Open the lock file and lock it. Closing the returned file unlocks it.

    The package filelock notices a lock file that was deleted, but not one whose folder was renamed, as it is before it
    is removed here. It also creates the file in a dry run (filelock 4.2).

    Raises UsageError if another run has the lock, and FileNotFoundError if the file was removed.
    """
    path = Path(place.work, LOCK)
    file = os.open(path, flags | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_same(path, file)
    except BlockingIOError as error:
        os.close(file)
        raise UsageError(
            f"{place.final}: another run of this name is in progress; wait for its end, or take another --name"
        ) from error
    except BaseException:
        os.close(file)
        raise
    return file


def _check_same(path: Path, file: int) -> None:
    if path.stat().st_ino != os.fstat(file).st_ino:
        raise FileNotFoundError(f"{path}: was removed while it was locked")
