"""Files at a path or a URI, through one interface: pyarrow's file systems, and fsspec's for what pyarrow lacks."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs


def absolute(place: str) -> str:
    """A path made absolute, since workers run in folders of their own; a URI as it is."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def below(place: str, name: str) -> str:
    """The path or URI of what is called `name` below `place`, for people: without a URI's parameters."""
    return f"{place.partition('?')[0].rstrip('/')}/{name}"


def shown(place: str) -> str:
    """The path or URI for people: a URI without its parameters, and without the credentials before its host."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def resolve(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path on it.

    Raises OSError where the file system cannot be reached, ValueError where no file system knows the URI.
    """
    if "://" not in place:
        return fs.LocalFileSystem(), absolute(place)
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except pa.ArrowInvalid as refusal:
        import fsspec  # seldom needed, and slow to import
        from fsspec.implementations.local import LocalFileSystem

        try:
            other, path = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{refusal}; {error}") from error
        if type(other) is LocalFileSystem:  # with locks, and links that must not be followed
            return fs.LocalFileSystem(), path
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(other))
    return filesystem, path


@dataclass(frozen=True)
class File:
    """A file on a file system that `resolve` gave."""

    filesystem: fs.FileSystem
    path: str
    content: bytes | None = field(default=None, repr=False)  # where it was read already

    def exists(self) -> bool:
        """Whether it is there, and a file."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.File)

    def held(self) -> "File":
        """The same file with its content, which `read` then gives whatever becomes of the file. Raises OSError."""
        return replace(self, content=self.read())

    def read(self) -> bytes:
        """Its content. Raises OSError."""
        if self.content is not None:
            return self.content
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def is_folder(self) -> bool:
        """Whether it is there, and a folder."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def sha256(self) -> str:
        """The SHA-256 of its content, in hexadecimal. Raises OSError."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        with self.filesystem.open_input_stream(self.path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def copy_to(self, filesystem: fs.FileSystem, path: str) -> None:
        """Copy it, or all files below it where it is a folder, to another place. Raises OSError."""
        fs.copy_files(self.path, path, source_filesystem=self.filesystem, destination_filesystem=filesystem)
