"""Read arrays from an .npz that may be damaged or malicious. Unpickle nothing, and check a size before allocating it.

`numpy.load` would need eight times the memory for images in float64, and fails with an unclear error if a member is
truncated. This module converts a member in chunks. It uses `numpy.lib.format` to parse the headers.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from mnist_job.errors import DataError
from mnist_job.storage import files

CHUNK_BYTES = 1 << 20
SMALLEST_ZIP_BYTES = 22  # in a smaller file, zipfile would seek to before its start, which pyarrow refuses
ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES: the alignment of TensorFlow's tensors
MAXIMUM_CLASSES = 1_000_000  # a larger label is a mistake: the output layer would need a unit for each smaller label
# Errors of NumPy when it parses a header, which is a Python literal.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError, RecursionError, MemoryError)


def read(source: str, images: str, labels: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read the arrays named `images` and `labels` from the .npz at a path or URI. Raises DataError."""
    where = files.shown(source)
    with _opened(source) as archive:
        for name in (images, labels):
            if f"{name}.npy" not in archive.namelist():
                there = ", ".join(member.removesuffix(".npy") for member in archive.namelist()[:8]) or "nothing"
                raise DataError(f"{where}: {name}: no such array; the file holds {there}")
        with _open(archive, labels, where) as array:
            label_values = array.to_labels()
        with _open(archive, images, where) as array:
            return array.to_images(), label_values


def names(source: str) -> list[str]:
    """Return the names of the arrays in the .npz at a path or URI. Raises DataError."""
    with _opened(source) as archive:
        return [member.removesuffix(".npy") for member in archive.namelist()]


@contextmanager
def _opened(source: str) -> Iterator[zipfile.ZipFile]:
    """Open the archive. Raises a DataError that names it for every error in this context."""
    where = files.shown(source)
    try:
        filesystem, path = files.resolve(source)
        with filesystem.open_input_file(path) as file:
            if file.size() < SMALLEST_ZIP_BYTES or not zipfile.is_zipfile(file):
                raise DataError(f"{where}: is not an intact .npz file")
            yield zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file") from error
    except zipfile.BadZipFile as error:
        raise DataError(f"{where}: is not an intact .npz file: {error}") from error
    except (OSError, ValueError, EOFError, zlib.error, RuntimeError) as error:
        # RuntimeError: an encrypted member; its subclass NotImplementedError: an unknown compression
        text = " ".join(str(error).split()).replace(source, where)
        raise DataError(f"{where}: cannot be read: {text}") from error


def aligned_empty(shape: tuple[int, ...], dtype: type[Any]) -> npt.NDArray[Any]:
    """Return `numpy.empty` at an aligned address, so that TensorFlow can use the array without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    aligned: npt.NDArray[Any] = buffer[start : start + size].view(dtype).reshape(shape)
    return aligned


@contextmanager
def _open(archive: zipfile.ZipFile, name: str, source: str) -> Iterator["Array"]:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        yield Array.open(stream, member.file_size, f"{source}: {name}")


@dataclass
class Array:
    """An array whose header was read, but not yet its content."""

    stream: IO[bytes]
    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @classmethod
    def open(cls, stream: IO[bytes], size: int, where: str) -> "Array":
        """Read the header. Raises DataError if it is not valid, needs unpickling, or does not match the size."""
        try:
            version = npy_format.read_magic(stream)
            read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, fortran_order, dtype = read_header(stream)
        except _BAD_HEADER as error:
            raise DataError(f"{where}: is not an array in NumPy's format: {' '.join(str(error).split())}") from error
        if dtype.hasobject:
            raise DataError(f"{where}: holds pickled Python objects, which are never loaded")
        if math.prod(shape) * dtype.itemsize != size - stream.tell():
            raise DataError(f"{where}: is truncated or damaged: its header does not match its length")
        return cls(stream, where, shape, dtype, fortran_order)

    def to_images(self) -> npt.NDArray[np.uint8]:
        """Read the content as uint8 images, N x H x W or N x H x W x C.

        Raises DataError unless every pixel is a whole number from 0 to 255.
        """
        if self.dtype.kind not in "uif":
            raise DataError(f"{self.where}: dtype {self.dtype} is not a type for pixels; store them as uint8")
        if len(self.shape) not in (3, 4) or 0 in self.shape[1:]:
            raise DataError(
                f"{self.where}: shape {self.shape} is not a list of images; expected N x H x W or N x H x W x C"
            )
        return self._converted(np.uint8, self._check_pixels)

    def to_labels(self) -> npt.NDArray[np.int32]:
        """Read the content as N int32 labels.

        Raises DataError unless every label is a whole number from 0 to MAXIMUM_CLASSES - 1.
        """
        if self.dtype.kind not in "ui":
            raise DataError(f"{self.where}: dtype {self.dtype} is not a type for labels; expected integers from 0 up")
        if len(self.shape) != 1 and self.shape[1:] != (1,):
            raise DataError(
                f"{self.where}: shape {self.shape} is not a list of labels; expected one integer for each image"
            )
        return self._converted(np.int32, self._check_labels).reshape(-1)

    def _converted(self, dtype: type[Any], check: Callable[[npt.NDArray[Any], int], None]) -> npt.NDArray[Any]:
        if self.shape[0] == 0:
            raise DataError(f"{self.where}: is empty")
        flat = aligned_empty((math.prod(self.shape),), dtype)
        step = CHUNK_BYTES // self.dtype.itemsize
        for start in range(0, len(flat), step):
            stop = min(start + step, len(flat))
            chunk = np.frombuffer(self.stream.read((stop - start) * self.dtype.itemsize), self.dtype)
            check(chunk, start)
            flat[start:stop] = chunk
        self.stream.read()  # zipfile compares the checksum at the member's end
        if self.fortran_order:
            return np.ascontiguousarray(flat.reshape(self.shape[::-1]).transpose())
        return flat.reshape(self.shape)

    def _check_pixels(self, chunk: npt.NDArray[Any], _: int) -> None:
        if self.dtype == np.uint8:
            return
        if not np.isfinite(chunk).all():
            raise DataError(f"{self.where}: holds NaN or infinity")
        if chunk.min() < 0 or chunk.max() > 255 or (np.floor(chunk) != chunk).any():
            raise DataError(
                f"{self.where}: holds pixels that are not whole numbers from 0 to 255; "
                "scale them and store them as uint8 (the model does its own scaling)"
            )

    def _check_labels(self, chunk: npt.NDArray[Any], start: int) -> None:
        check_labels(chunk, f"expected 0 to {MAXIMUM_CLASSES - 1}", self.where, start)


def check_labels(labels: npt.NDArray[Any], expected: str, where: str, start: int = 0) -> None:
    """Check that each label is a class number, from 0 to MAXIMUM_CLASSES - 1. The first one has the index `start`.

    Raises DataError, which ends with what is `expected`.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= MAXIMUM_CLASSES))
    if len(wrong):
        raise DataError(f"{where}: holds label {labels[wrong[0]]} at index {start + wrong[0]}; {expected}")
