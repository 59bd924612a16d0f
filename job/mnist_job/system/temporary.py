"""A private temporary folder that is removed at the end. If the process was killed, a later run removes it.

TensorFlow, Ray and other libraries leave files in the temporary folder. Inside `private`, TMPDIR is a new folder, for
this process and those that it starts, so that all these files can be removed together. A later run recognizes such a
folder by its name, its owner and a marker file. A running process holds a lock on the marker, which the kernel releases
when the process and its forked children have ended.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PREFIX = "mnist-job-"
MARKER = "made-by-mnist-job"

_opened: tuple[Path, str | None] | None = None  # this process's folder, and the former TMPDIR


@contextlib.contextmanager
def private(places: Sequence[str] = ()) -> Iterator[Path]:
    """Make a private folder for this context, in the first of `places` that is writable, or else in TMPDIR.

    First remove the folders that killed runs of this user have left there. Inside another `private`, yield that one's
    folder. Raises OSError if no place is writable.
    """
    global _opened
    if _opened is not None:
        yield _opened[0]
        return
    former = os.environ.get("TMPDIR")
    folder, held = _made(*places, tempfile.gettempdir())
    _opened = folder, former
    _use(str(folder))
    try:
        yield folder
    finally:
        _opened = None
        _use(former)
        _remove(folder, held)
        os.close(held)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Restore the former TMPDIR in this context. `ray start` stores there the address that `auto` looks for."""
    if _opened is None:
        yield
        return
    folder, former = _opened
    _use(former)
    try:
        yield
    finally:
        _use(str(folder))


def _use(folder: str | None) -> None:
    if folder is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = folder
    tempfile.tempdir = None  # let tempfile read TMPDIR again


def _made(*places: str) -> tuple[Path, int]:
    """Make a new folder. Return it and the locked marker in it."""
    for place in places[:-1]:
        with contextlib.suppress(OSError):
            return _made(place)
    _clear(places[-1])
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=places[-1]))
    new = folder / f"{MARKER}.new"
    held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    new.rename(folder / MARKER)  # renamed after locking, so that another run never sees it unlocked
    return folder, held


def _clear(place: str) -> None:
    """Remove the folders in `place` that processes of this user made, if no process uses them any more."""
    with os.scandir(place) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(PREFIX)]
    for path in left:
        with contextlib.suppress(OSError):  # it is in use, or was made by another user or program
            held = _abandoned(path)
            try:
                _remove(Path(path), held)
            finally:
                os.close(held)


def _abandoned(path: str) -> int:
    """Lock the marker of an abandoned folder and return it. Raises OSError if this is no such folder, or is in use."""
    folder = _open_folder(path)
    try:
        marker = os.open(MARKER, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        found = os.fstat(marker)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(path)
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(marker)
        raise
    return marker


def _open_folder(path: str) -> int:
    """Open a folder of this user, without following a link. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(folder).st_uid != os.geteuid():
        os.close(folder)
        raise PermissionError(path)
    return folder


def _remove(path: Path, held: int) -> None:
    """Remove a folder whose marker is `held`. Remove the marker last, so that a later run can retry after a failure."""
    with contextlib.suppress(OSError):
        folder = _open_folder(str(path))
        try:
            if not os.path.samestat(os.stat(MARKER, dir_fd=folder, follow_symlinks=False), os.fstat(held)):
                return
            for name in _names(folder) - {MARKER}:
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
            if _names(folder) == {MARKER}:
                os.unlink(MARKER, dir_fd=folder)
                path.rmdir()
        finally:
            os.close(folder)


def _names(folder: int) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}
