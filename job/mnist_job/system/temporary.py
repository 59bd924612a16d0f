"""A private temporary folder, removed at its end, and by a later run of the same user where its process was killed.

TensorFlow, Ray and others leave files in the temporary folder. While `private` is open, TMPDIR names a folder of its
own, for this process and those that it starts: what lies there can be removed whole. A folder is shown to be one of
these by its name, its owner and a marker, on which its process holds a lock: a file lock goes with the processes that
inherited it by fork, and is not passed on to other programs.
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

_opened: tuple[Path, str | None] | None = None  # this process's folder, and TMPDIR as it was before


@contextlib.contextmanager
def private(places: Sequence[str] = ()) -> Iterator[Path]:
    """The private folder of this process, made in the first of `places` that can be written; else where TMPDIR says.

    What former runs of this user left there is removed first. Inside another `private`, gives that one's folder.
    Raises OSError if no place can be written.
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
    """TMPDIR as it was before `private`: there `ray start` leaves the address that `auto` looks for."""
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
    tempfile.tempdir = None  # it remembers


def _made(*places: str) -> tuple[Path, int]:
    """A new folder, and the locked marker in it."""
    for place in places[:-1]:
        with contextlib.suppress(OSError):
            return _made(place)
    _clear(places[-1])
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=places[-1]))
    new = folder / f"{MARKER}.new"
    held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    new.rename(folder / MARKER)  # under its name it was never without the lock
    return folder, held


def _clear(place: str) -> None:
    """Remove the folders in `place` that this user's processes made and that none of them holds any more."""
    with os.scandir(place) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(PREFIX)]
    for path in left:
        with contextlib.suppress(OSError):  # it is another user's, in use, or not ours
            held = _abandoned(path)
            try:
                _remove(Path(path), held)
            finally:
                os.close(held)


def _abandoned(path: str) -> int:
    """The marker of such a folder, locked. Raises OSError if it is none, or in use."""
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
    """Of this user, and no link. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(folder).st_uid != os.geteuid():
        os.close(folder)
        raise PermissionError(path)
    return folder


def _remove(path: Path, held: int) -> None:
    """Remove a folder whose marker is `held`; the marker last, so that what cannot be removed yet is found again."""
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
