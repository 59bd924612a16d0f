"""The user's code, by value: the driver reads its files once, and every process that needs it gets these bytes.

So workers on other nodes need no copy of the files, and it does not matter which folder they run in. The SHA-256 of
each file is recorded with the run, because the code determines the result.
"""

import hashlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mnist_job.errors import UsageError, one_line

MOST_BYTES = 100 * 2**20
FOLDER = "mnist-job-code"  # marks the user's frames in a traceback: no other folder has this name
_LEFT_OUT = ("__pycache__",)


@dataclass(frozen=True)
class Code:
    """Files by their paths in the folder that is added to the import path."""

    files: Mapping[str, bytes] = field(default_factory=dict)

    def __or__(self, other: "Code") -> "Code":
        """Return the files of both. Raises UsageError if two different files have the same path."""
        if clash := [name for name, content in other.files.items() if self.files.get(name, content) != content]:
            raise UsageError(f"{clash[0]}: two different files have this name; give their folder by --code")
        return Code({**self.files, **other.files})

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file, in hexadecimal."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(self.files.items())}

    @property
    def registering(self) -> tuple[str, ...]:
        """The names of the modules that register classes with Keras, which finds them only after their import."""
        found = [name for name, content in self.files.items() if b"register_keras_serializable" in content]
        return tuple(name.removesuffix(".py").replace("/", ".") for name in sorted(found) if name.endswith(".py"))

    @contextmanager
    def importable(self, folder: Path) -> Iterator[None]:
        """Write the files below `folder`, and let Python import them in this context, before all other packages."""
        place = folder / FOLDER
        for name, content in self.files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        sys.path.insert(0, str(place))
        try:
            yield
        finally:
            sys.path.remove(str(place))


def read(folder: str | None, files: list[str]) -> Code:
    """Read the modules of `--code` (all files in it, except hidden ones) and these files, which are modules too.

    Raises UsageError if one cannot be read, or if all of them are larger than MOST_BYTES.
    """
    found: dict[str, Path] = {}
    if folder is not None:
        root = expanded(folder)
        if not root.is_dir():
            raise UsageError(f"--code {folder}: is not a folder; give the one that has your modules")
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and not any(part.startswith(".") or part in _LEFT_OUT for part in parts):
                found["/".join(parts)] = path
    for file in files:
        found.setdefault(Path(file).name, expanded(file))
    try:
        if sum(path.stat().st_size for path in found.values()) > MOST_BYTES:
            raise UsageError(
                f"--code {folder}: has more than {MOST_BYTES >> 20} MiB; put code there, and data elsewhere"
            )
        return Code({name: path.read_bytes() for name, path in found.items()})
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error


def expanded(path: str) -> Path:
    """Return the path with the home folder instead of `~`, or as it is if there is no such user."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def told(error: BaseException) -> str:
    """Return an exception of the user's code in one line, with the last file and line of that code."""
    text = one_line(f"{type(error).__name__}: {error}", 300)
    if isinstance(error, SyntaxError) and (file := _own(error.filename)):
        return f"{file}:{error.lineno}: {text}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file := _own(frame.filename):
            return f"{file}:{frame.lineno}: in {frame.name}(): {text}"
    return text


def _own(path: str | None) -> str:
    """Return the path of a file of the user's code as the user knows it, or an empty text for any other file."""
    return (path or "").partition(f"/{FOLDER}/")[2]
