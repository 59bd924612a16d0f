"""Tables: CSV and Parquet, read by pyarrow, and TFRecord. One column has the targets, the others the inputs.

A target that is text is the name of a class, an integer its number, and any other number a quantity. Inputs are
numbers, lists of numbers of one length, or encoded images (as bytes, or as Hugging Face stores them, with `bytes`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from pyarrow import fs

from mnist_job.data.formats import images, tfrecord
from mnist_job.data.formats.whole import Chosen, unpacked
from mnist_job.data.npz import check_range
from mnist_job.data.reading import Reading
from mnist_job.errors import DataError, one_line
from mnist_job.storage.files import File

LABEL = "label"
PARQUET = b"PAR1"
MOST_NAMED = 12


@dataclass(frozen=True)
class Table:
    """The files of a part, whose rows follow one another."""

    filesystem: fs.FileSystem
    paths: Sequence[str]
    reading: Reading

    def targets(self) -> npt.NDArray[Any] | list[str]:
        """Read the column of the targets. Raises DataError."""
        parts = self._targets
        if all(isinstance(part, list) for part in parts):
            return [name for part in parts for name in part]
        if any(isinstance(part, list) for part in parts):
            raise DataError(f"{self.paths[0]}: the column {self._label} is text in some files, and numbers in others")
        return np.concatenate(parts)

    @cached_property
    def _targets(self) -> list[npt.NDArray[Any] | list[str]]:
        return [targets(self._read(path, only_label=True), self.reading, path) for path in self.paths]

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of rows of each file."""
        return tuple(len(part) for part in self._targets)

    def file(self, number: int) -> npt.NDArray[Any]:
        """Read the inputs of a file's rows. Raises DataError."""
        return inputs(self._read(self.paths[number]), self.reading, self.paths[number])

    def inputs(self, chosen: Chosen) -> npt.NDArray[Any]:
        """Read the other columns: rows x numbers, or images. Raises DataError."""
        whole = [self.file(number) for number in range(len(self.paths))]
        joined = whole[0] if len(whole) == 1 else np.concatenate(whole)
        return joined if chosen is None else joined[chosen]

    @property
    def _label(self) -> str:
        return self.reading.label or LABEL

    def _read(self, path: str, *, only_label: bool = False) -> pa.Table:
        content = unpacked(File(self.filesystem, path))
        if tfrecord.begins(content) or tfrecord.NAME in path.rsplit("/", 1)[-1].lower():
            _check_columns(tfrecord.names(content, path), self.reading, path)
            return tfrecord.read(content, path, [self._label] if only_label else None)
        try:
            if content.startswith(PARQUET):
                file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
                _check_columns(file.schema_arrow.names, self.reading, path)
                return file.read(columns=[self._label] if only_label else None)
            table = pyarrow.csv.read_csv(pa.BufferReader(content))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as a table: {one_line(error, 200)}") from error
        _check_columns(table.column_names, self.reading, path)
        return table.select([self._label]) if only_label else table


def targets(table: pa.Table, reading: Reading, where: str) -> npt.NDArray[Any] | list[str]:
    """Return the targets of a table. Raises DataError."""
    name = reading.label or LABEL
    column = _whole(table, name, where)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        try:
            column = column.cast(pa.string())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{where}: the column {name} has bytes that are no text; a target is a number or a text"
            ) from error
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        found: list[str] = column.to_pylist()
        return found
    if pa.types.is_dictionary(column.type):
        return [str(value) for value in column.to_pylist()]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(f"{where}: the column {name} has the type {column.type}; a target is a number or a text")
    numbers: npt.NDArray[Any] = column.cast(
        pa.int64() if not pa.types.is_floating(column.type) else pa.float64()
    ).to_numpy()
    return numbers


def inputs(table: pa.Table, reading: Reading, where: str) -> npt.NDArray[Any]:
    """Return the inputs of a table's rows. Raises DataError."""
    label = reading.label or LABEL
    names = reading.features or [name for name in table.column_names if name != label]
    if not names:
        raise DataError(f"{where}: has no column beside {label}")
    columns = [_whole(table, name, where) for name in names]
    for column in columns:
        if (encoded := _encoded(column)) is not None:
            if len(columns) > 1:
                raise DataError(f"{where}: has images in one of several columns; choose it by --features")
            named = ((f"{where}: row {row}", content) for row, content in enumerate(encoded.to_pylist()))
            decoded = ((name, images.decoded(content, name, reading.image_size)) for name, content in named)
            return images.stacked(decoded, len(encoded))
    numbers = [_numbers(column, name, where) for column, name in zip(columns, names, strict=True)]
    joined = np.concatenate(numbers, axis=1) if len(numbers) > 1 else numbers[0]
    return joined if reading.image_size is None else pixels(joined, reading, where)


def pixels(rows: npt.NDArray[Any], reading: Reading, where: str) -> npt.NDArray[np.uint8]:
    """Return rows of numbers as images of `--image-size`. Raises DataError unless they are pixels from 0 to 255."""
    size = reading.image_size
    assert size is not None
    shape = (size.height, size.width) if size.channels is None else (size.height, size.width, size.channels)
    if rows.shape[1] != math.prod(shape):
        raise DataError(
            f"{where}: has {rows.shape[1]} numbers in a row, but --image-size {size} needs {math.prod(shape)}"
        )
    if rows.size and not ((rows >= 0) & (rows <= 255) & (rows == np.floor(rows))).all():
        raise DataError(f"{where}: holds numbers that are no pixels (whole, from 0 to 255); leave out --image-size")
    return rows.astype(np.uint8).reshape(-1, *shape)


def _check_columns(there: Sequence[str], reading: Reading, where: str) -> None:
    for name, flag in ((reading.label or LABEL, "--label"), *((one, "--features") for one in reading.features)):
        if name not in there:
            listed = ", ".join(there[:MOST_NAMED]) or "none"
            listed += f" and {len(there) - MOST_NAMED} more" * (len(there) > MOST_NAMED)
            raise DataError(f"{where}: has no column {name}; it has {listed}; choose by {flag}")


def _whole(table: pa.Table, name: str, where: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(f"{where}: the column {name} is empty in row {row}, counted from 0")
    return column


def _encoded(column: pa.Array) -> pa.Array | None:
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return column if is_bytes else None


def _numbers(column: pa.Array, name: str, where: str) -> npt.NDArray[Any]:
    """Return a column as rows x numbers: small integers as they are, and all others as float32, as `fit` does."""
    width = 1
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            raise DataError(f"{where}: the lists of the column {name} have different lengths; expected one")
        width, column = lengths[0], pc.list_flatten(column)
        if column.null_count:
            raise DataError(f"{where}: the lists of the column {name} have empty places")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(
            f"{where}: the column {name} has the type {column.type}, and no numbers; leave it out by --features, or "
            "encode it"
        )
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.itemsize > 2 or values.dtype.kind == "f":
        check_range(values, f"{where}: the column {name}")
        values = values.astype(np.float32)
    return np.asarray(values).reshape(-1, width)
