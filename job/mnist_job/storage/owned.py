"""The files and folders that the program owns. It replaces and removes no others.

Each folder that the program makes for a run contains a marker as long as the folder exists. The program recognizes its
own files in such a folder by their paths: the marker of a finished folder lists them, and those of work in progress
match patterns. All removals are done by this module, file by file: files of others stay, and so do the folders above
them. Symbolic links on a local disk are not followed. Folders of `make_folders` are removed only if they are empty.
"""

import ctypes
import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pyarrow import fs

MARKER = ".mnist-job"
RUN = r"\d{8}T\d{6}Z-[0-9a-f]{4}"
_PROGRAM = "mnist-job"
_YOUNG_SECONDS = 60

# Patterns of paths relative to the run's folder. The path of a folder ends with `/`.
_TENSORBOARD = r"tensorboard/((train|validation)/(events[^/]*)?)?"
_CHECKPOINT = rf"\d{{7}}(\.\d{{9,}})?-{RUN}"
_CHECKPOINT_FILE = (
    r"((model\.keras|(optimizer|middle)\.npz|(history|training|manifest)\.json|callbacks\.pickle)(\.new)?)?"
)
_RESULT = rf"(\.mnist-job|outcome\.json|metrics\.prom|report\.html|history\.csv|model\.keras)(\.new)?|{_TENSORBOARD}"
_WORK = (
    r"lock|(run\.json|\.mnist-job|probe)(\.new)?|"
    rf"lease/({RUN}\.(announced|held))?|"
    rf"checkpoints/({_CHECKPOINT}/{_CHECKPOINT_FILE})?|"
    rf"{_TENSORBOARD}|"
    rf"ray-{RUN}/.*|"  # Ray Train's own records: it chooses the names of the files
    rf"(new|old)/({_RESULT})?"
)
Ours = Callable[[str], object]
"""A function that returns whether the program wrote this path, which is relative to a folder."""

in_a_result: Ours = re.compile(_RESULT).fullmatch
in_work: Ours = re.compile(_WORK).fullmatch
in_a_checkpoint: Ours = re.compile(_CHECKPOINT_FILE).fullmatch
is_checkpoint: Ours = re.compile(_CHECKPOINT).fullmatch


@dataclass(frozen=True)
class Mark:
    """The content of a marker: the job's name, the run that owns the folder, and the files that it wrote there."""

    name: str
    run: str
    files: list[str] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Return the content of the marker file."""
        return json.dumps({"program": _PROGRAM, **asdict(self)}).encode()

    @classmethod
    def read(cls, filesystem: fs.FileSystem, folder: str, name: str) -> "Mark | None":
        """Read the marker of a folder of the job `name`. Return None if there is no valid one. Raises OSError."""
        path = f"{folder}/{MARKER}"
        if kind(filesystem, path) != "file":
            return None
        try:
            with filesystem.open_input_stream(path) as stream:
                said = json.loads(stream.read())
            files = said["files"]
            mark = cls(said["name"], said["run"], files)
            ours = said["program"] == _PROGRAM and mark.name == name and all(isinstance(file, str) for file in files)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return mark if ours else None


def kind(filesystem: fs.FileSystem, path: str) -> str | None:
    """Return `file`, `folder`, `other` (for example a local link), or None if nothing is there. Raises OSError."""
    if isinstance(filesystem, fs.LocalFileSystem):
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"
    names = {fs.FileType.NotFound: None, fs.FileType.File: "file", fs.FileType.Directory: "folder"}
    return names.get(filesystem.get_file_info(path).type, "other")


def entries(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Return all paths below a folder, relative to it. Folders end with `/`, links and devices with `@`."""
    if isinstance(filesystem, fs.LocalFileSystem):
        return list(_local_entries(folder, ""))
    found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    ends = {fs.FileType.File: "", fs.FileType.Directory: "/"}
    start = len(folder.strip("/")) + 1
    return [entry.path.strip("/")[start:] + ends.get(entry.type, "@") for entry in found]


def _local_entries(folder: str, prefix: str) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as found:  # another run may be removing it
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield f"{prefix}{entry.name}/"
                yield from _local_entries(entry.path, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}" + ("" if entry.is_file(follow_symlinks=False) else "@")


def foreign(filesystem: fs.FileSystem, folder: str, ours: Ours) -> str | None:
    """Return the first entry below a folder that the program does not own, or None.

    Folders on an object store are not counted: they exist only as parts of their files' names.
    """
    local = isinstance(filesystem, fs.LocalFileSystem)
    found = (entry for entry in entries(filesystem, folder) if local or not entry.endswith("/"))
    return next((entry.rstrip("@") for entry in found if not ours(entry)), None)


def remove(filesystem: fs.FileSystem, folder: str, ours: Ours) -> None:
    """Remove the entries of a folder that are `ours`, and the folder if nothing else is in it. Raises OSError."""
    if kind(filesystem, folder) != "folder":
        return
    if isinstance(filesystem, fs.LocalFileSystem):
        for at, folders, files, handle in os.fwalk(folder, topdown=False):  # does not follow links
            prefix = "" if at == folder else f"{os.path.relpath(at, folder)}/"
            for name in files:
                mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
                if stat.S_ISREG(mode) and ours(prefix + name):
                    os.unlink(name, dir_fd=handle)
            for name in folders:
                if ours(f"{prefix}{name}/"):
                    _rmdir(name, handle)
        _rmdir(folder)
        return
    found = entries(filesystem, folder)
    kept = [entry for entry in found if not ours(entry)]
    for entry in found:
        if entry not in kept and not entry.endswith("/"):
            with suppress(FileNotFoundError):
                filesystem.delete_file(f"{folder}/{entry}")
    below = sorted((entry for entry in found if entry.endswith("/")), key=len, reverse=True)
    for entry in (*below, ""):  # the folder itself last
        path = f"{folder}/{entry}".rstrip("/")
        if not any(other.startswith(entry) for other in kept) and kind(filesystem, path) == "folder":
            filesystem.delete_dir(path)


def _rmdir(folder: str, handle: int | None = None) -> None:
    """Remove a local folder if it exists, is a folder and is empty."""
    try:
        os.rmdir(folder, dir_fd=handle)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.EBUSY):
            raise


def make_folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Make a folder and the missing folders above it. Return those that were made, the topmost first. Raises OSError.

    On an object store, make nothing: it has no folders.
    """
    if filesystem.type_name in ("s3", "gcs", "abfs"):
        return []
    missing: list[str] = []
    while path and filesystem.get_file_info(path).type == fs.FileType.NotFound:
        missing.insert(0, path)
        path = path.rpartition("/")[0]
    made = []
    for folder in missing:
        if isinstance(filesystem, fs.LocalFileSystem):
            with suppress(FileExistsError):  # another run has just made it
                Path(folder).mkdir()
                made.append(folder)
        else:
            filesystem.create_dir(folder, recursive=False)
            made.append(folder)
    return made


def remove_empty(filesystem: fs.FileSystem, made: list[str]) -> None:
    """Remove folders that `make_folders` made, if they are empty. Raises OSError.

    On a file system that cannot remove only empty folders, they stay.
    """
    for folder in reversed(made):
        if isinstance(filesystem, fs.LocalFileSystem):
            _rmdir(folder)
        elif isinstance(filesystem, fs.PyFileSystem) and isinstance(filesystem.handler, fs.FSSpecHandler):
            with suppress(OSError):
                filesystem.handler.fs.rmdir(folder)


def make_marked(folder: str, mark: Mark) -> None:
    """Make a local folder that contains its marker from the start. Raises FileExistsError if the path exists."""
    temporary = Path(f"{folder}.{mark.run}.new")
    temporary.mkdir()
    try:
        (temporary / MARKER).write_bytes(mark.to_json())
        rename_new(str(temporary), folder)
    except BaseException:
        remove(fs.LocalFileSystem(), str(temporary), in_work)
        raise


def remove_marked(folder: str, mark: Mark) -> None:
    """Remove a local folder that has only its marker and its lock left. It never exists without its marker."""
    temporary = f"{folder}.{mark.run}.old"
    rename_new(folder, temporary)
    remove(fs.LocalFileSystem(), temporary, in_work)


def remove_left_over(folder: str, name: str) -> None:
    """Remove temporary folders that a killed `make_marked` or `remove_marked` left beside a folder. Raises OSError.

    Keep those of the last minute: another run may be using them.
    """
    local, beside = fs.LocalFileSystem(), Path(folder)
    pattern = re.compile(rf"{re.escape(beside.name)}\.{RUN}\.(new|old)")
    for path in [path for path in beside.parent.iterdir() if pattern.fullmatch(path.name)]:
        with suppress(FileNotFoundError):  # another run is also removing it
            if Mark.read(local, str(path), name) and time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                remove(local, str(path), in_work)


_RENAME_NOREPLACE, _AT_FDCWD = 1, -100  # linux/fs.h, fcntl.h


def rename_new(source: str, target: str) -> None:
    """Rename on a local disk. Raises FileExistsError if the target exists, even if it is an empty folder.

    (A plain rename replaces an empty folder.) If the system cannot check and rename in one step, an empty folder that
    is made between the two steps is replaced.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), target)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    Path(source).rename(target)
