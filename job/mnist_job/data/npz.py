"""Read arrays from an .npz that may be damaged or malicious. Unpickle nothing, and check a size before allocating it.

`numpy.load` would need eight times the memory for images in float64, and fails with an unclear error if a member is
truncated. This module converts a member in chunks. It uses `numpy.lib.format` to parse the headers.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
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
WORD_BYTES = 8  # `batches.on_device` takes rows of such words
ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES: the alignment of TensorFlow's tensors
MAXIMUM_CLASSES = 1_000_000  # a larger label is a mistake: the output layer would need a unit for each smaller label
# Errors of NumPy when it parses a header, which is a Python literal.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError, RecursionError, MemoryError)


def read(source: str, images: str, labels: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Read the arrays of inputs and of targets with these names from the .npz at a path or URI. Raises DataError."""
    where = files.shown(source)
    with _opened(source) as archive:
        for name in (images, labels):
            if f"{name}.npy" not in archive.namelist():
                raise DataError(f"{where}: {name}: no such array; the file holds {listed(_names(archive))}")
        with _open(archive, labels, where) as array:
            target_values = array.to_targets()
        with _open(archive, images, where) as array:
            return array.to_inputs(), target_values


def names(source: str) -> list[str]:
    """Return the names of the arrays in the .npz at a path or URI. Raises DataError."""
    with _opened(source) as archive:
        return _names(archive)


def listed(names: Sequence[str]) -> str:
    """Return the first names, for a message."""
    return ", ".join(names[:8]) or "nothing"


def _names(archive: zipfile.ZipFile) -> list[str]:
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

    def to_inputs(self) -> npt.NDArray[Any]:
        """Read the content as the inputs of N samples: N x ...

        Whole numbers from 0 to 255 become uint8 if they are images (N x H x W, or N x H x W x C). Other floats become
        float32, as in `fit`, booleans uint8, and other integers stay as they are.

        Raises DataError if they are no numbers, or not finite.
        """
        if self.dtype.kind not in "uifb":
            raise DataError(f"{self.where}: dtype {self.dtype} is no type of numbers")
        if len(self.shape) < 2 or 0 in self.shape[1:]:
            raise DataError(
                f"{self.where}: shape {self.shape} is not a list of samples; expected N x ..., for example N x H x W"
            )
        stored = np.float32 if self.dtype.kind == "f" else np.uint8 if self.dtype.kind == "b" else self.dtype.type
        if len(self.shape) in (3, 4):
            return self._converted(np.uint8, self._check_finite, stored)
        return self._converted(stored, self._check_finite)

    def to_targets(self) -> npt.NDArray[Any]:
        """Read the content as N targets: int32 class numbers, or floats as they are, or rows of numbers.

        Raises DataError unless every class number is a whole number from 0 to MAXIMUM_CLASSES - 1.
        """
        if self.dtype.kind not in "uif":
            raise DataError(
                f"{self.where}: dtype {self.dtype} is not a type for targets; expected integers from 0 up for classes, "
                "or floats for quantities"
            )
        if not self.shape or len(self.shape) > 2 or 0 in self.shape[1:]:
            raise DataError(f"{self.where}: shape {self.shape} is not a list of targets; expected one for each sample")
        if self.dtype.kind == "f" or self.shape[1:] not in ((), (1,)):
            return self._converted(self.dtype.type, self._check_finite)
        return self._converted(np.int32, self._check_labels).reshape(-1)

    def _converted(
        self,
        dtype: type[Any],
        check: Callable[[npt.NDArray[Any], int], None],
        wider: type[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Read the content as `dtype`, or as `wider` from the first number on that `dtype` cannot hold."""
        if self.shape[0] == 0:
            raise DataError(f"{self.where}: is empty")
        flat = aligned_empty((math.prod(self.shape),), dtype)
        step = CHUNK_BYTES // self.dtype.itemsize
        for start in range(0, len(flat), step):
            stop = min(start + step, len(flat))
            chunk = np.frombuffer(self.stream.read((stop - start) * self.dtype.itemsize), self.dtype)
            check(chunk, start)
            if wider is not None and flat.dtype != wider and not _fits_bytes(chunk):
                narrow, flat = flat, aligned_empty(flat.shape, wider)
                flat[:start] = narrow[:start]
            flat[start:stop] = chunk
        self.stream.read()  # zipfile compares the checksum at the member's end
        if self.fortran_order:
            return np.ascontiguousarray(flat.reshape(self.shape[::-1]).transpose())
        return flat.reshape(self.shape)

    def _check_finite(self, chunk: npt.NDArray[Any], _: int) -> None:
        if chunk.dtype.kind == "f" and not np.isfinite(chunk).all():
            raise DataError(f"{self.where}: holds NaN or infinity")
        check_range(chunk, self.where)

    def _check_labels(self, chunk: npt.NDArray[Any], start: int) -> None:
        check_labels(chunk, f"expected 0 to {MAXIMUM_CLASSES - 1}", self.where, start)


def check_range(numbers: npt.NDArray[Any], where: str) -> None:
    """Check that no float is too large for a float32, which it becomes. Raises DataError."""
    if numbers.dtype.kind == "f" and numbers.size and max(numbers.max(), -numbers.min()) > np.finfo(np.float32).max:
        raise DataError(f"{where}: holds numbers above {np.finfo(np.float32).max:g}, which float32 cannot hold")


def check_labels(labels: npt.NDArray[Any], expected: str, where: str, start: int = 0) -> None:
    """Check that each label is a class number, from 0 to MAXIMUM_CLASSES - 1. The first one has the index `start`.

    Raises DataError, which ends with what is `expected`.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= MAXIMUM_CLASSES))
    if len(wrong):
        raise DataError(f"{where}: holds label {labels[wrong[0]]} at index {start + wrong[0]}; {expected}")


def _fits_bytes(numbers: npt.NDArray[Any]) -> bool:
    if numbers.dtype in (np.uint8, np.bool_):
        return True
    return bool(numbers.min() >= 0 and numbers.max() <= 255 and (np.floor(numbers) == numbers).all())
