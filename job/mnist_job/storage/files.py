"""Files at a path or a URI: with pyarrow's file systems, and with fsspec for the schemes that pyarrow does not know."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs


def absolute(place: str) -> str:
    """Return an absolute path, because workers run in other folders. Return a URI unchanged."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def below(place: str, name: str) -> str:
    """Return the path or URI of `name` in the folder `place`, for messages: without a URI's parameters."""
    return f"{place.partition('?')[0].rstrip('/')}/{name}"


def shown(place: str) -> str:
    """Return the path or URI for messages: a URI without its parameters and its credentials."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def resolve(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path on it.

    Raises OSError if the file system cannot be reached, and ValueError if no file system knows the URI.
    """
    if "://" not in place:
        return fs.LocalFileSystem(), absolute(place)
    if "AWS_ACCESS_KEY_ID" in os.environ:
        # Without it, each client of S3 asks the instance's metadata for more, for 4 s where nothing answers.
        os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except pa.ArrowInvalid as refusal:
        import fsspec  # imported here because it is slow to import and rarely needed
        from fsspec.implementations.local import LocalFileSystem

        try:
            other, path = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{refusal}; {error}") from error
        if type(other) is LocalFileSystem:  # pyarrow's own: this program locks local files and does not follow links
            return fs.LocalFileSystem(), path
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(other))
    return filesystem, path


def listed(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """Return what is in a folder, by name, without hidden files. Raises OSError."""
    found = filesystem.get_file_info(fs.FileSelector(folder))
    return sorted((entry for entry in found if not entry.base_name.startswith(".")), key=lambda entry: entry.base_name)


def identity(filesystem: fs.FileSystem, paths: Sequence[str]) -> str:
    """Return the paths of these files, with their sizes and the times of their last change. Raises OSError."""
    return "\n".join(f"{one.path} {one.size} {one.mtime_ns}" for one in filesystem.get_file_info(list(paths)))


@dataclass(frozen=True)
class File:
    """A file or folder on a file system. `content` is the file's content, if it was already read."""

    filesystem: fs.FileSystem
    path: str
    content: bytes | None = field(default=None, repr=False)

    def exists(self) -> bool:
        """Return whether it exists and is a file."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.File)

    def held(self) -> "File":
        """Read the file and return it with its content, which later changes do not affect. Raises OSError."""
        return replace(self, content=self.read())

    def read(self) -> bytes:
        """Return its content. Raises OSError."""
        if self.content is not None:
            return self.content
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:  # or pyarrow unpacks a .gz
            return bytes(stream.read())

    def write(self, content: bytes) -> None:
        """Write the file, and replace it if it exists. It appears whole, or not at all. Raises OSError."""
        with self.filesystem.open_output_stream(f"{self.path}.new") as stream:
            stream.write(content)
        self.filesystem.move(f"{self.path}.new", self.path)

    def is_folder(self) -> bool:
        """Return whether it exists and is a folder."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def sha256(self) -> str:
        """Return the SHA-256 of its content, in hexadecimal. Raises OSError."""
        if self.content is not None:
            return hashlib.sha256(self.content).hexdigest()
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:  # or pyarrow unpacks a .gz
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def copy_to(self, filesystem: fs.FileSystem, path: str) -> None:
        """Copy the file, or the folder with all files in it, to another place. Raises OSError."""
        fs.copy_files(self.path, path, source_filesystem=self.filesystem, destination_filesystem=filesystem)
