"""TFRecord files of `tf.train.Example`, as tables: each feature is a column.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these bytes, its content, and the masked CRC-32C
of that (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). The driver must not import
TensorFlow. So the messages of tensorflow/core/example/feature.proto are declared here.
"""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mnist_job.errors import DataError

NAME = ".tfrecord"
HEADER, CHECKSUM = 12, 4  # bytes: the length with its checksum, and the checksum of the content
_NUMBERS = {"float_list": np.float32, "int64_list": np.int64}


def begins(content: bytes) -> bool:
    """Return whether a file begins like a TFRecord: with a length, and the checksum of it."""
    return len(content) >= HEADER and _is_intact(content[:8], content[8:HEADER])


def names(content: bytes, where: str) -> list[str]:
    """Return the names of the features in the first example. Raises DataError."""
    return sorted(next(_examples(content, where), {}))


def read(content: bytes, where: str, chosen: Collection[str] | None = None) -> pa.Table:
    """Read the examples of a file, or only the features with these names. Raises DataError.

    A feature that has one value in each example is a column of values, and any other one a column of lists.
    """
    columns: dict[str, _Column] = {}
    number = 0
    for number, features in enumerate(_examples(content, where), start=1):
        for name in features:
            if chosen is None or name in chosen:
                columns.setdefault(name, _Column()).add(number, features[name], f"{where}: the feature {name}")
    return pa.table({name: columns[name].finished(number) for name in sorted(columns)})


def _examples(content: bytes, where: str) -> Iterator[Any]:
    """Yield the features of each example, by name. Raises DataError."""
    from google.protobuf.message import DecodeError

    for number, record in enumerate(_records(content, where)):
        try:
            yield _example().FromString(record).features.feature
        except DecodeError as error:
            raise DataError(f"{where}: record {number} is no tf.train.Example") from error


def _records(content: bytes, where: str) -> Iterator[bytes]:
    """Yield the records, and check each one. Raises DataError."""
    start = number = 0
    while start < len(content):
        header = content[start : start + HEADER]
        begin = start + HEADER
        end = begin + int.from_bytes(header[:8], "little")
        record = content[begin:end]
        if not begins(header) or not _is_intact(record, content[end : end + CHECKSUM]):
            raise DataError(f"{where}: is truncated or damaged at record {number}")
        yield record
        start, number = end + CHECKSUM, number + 1


def _is_intact(content: bytes, checksum: bytes) -> bool:
    import google_crc32c

    value = google_crc32c.value(content)
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) % 2**32
    return bool(masked.to_bytes(CHECKSUM, "little") == checksum)


@dataclass
class _Column:
    """The values of a feature, one example after another."""

    kind: str = ""
    lengths: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, number: int, feature: Any, where: str) -> None:
        """Add the feature of the example with this number, from 1. Raises DataError if it has another type."""
        kind = feature.WhichOneof("kind")
        if kind is None or not (values := getattr(feature, kind).value):
            return
        self.kind = self.kind or kind
        if kind != self.kind:
            raise DataError(f"{where}: is {kind} in example {number - 1}, and {self.kind} before")
        self._fill(number - 1)
        self.lengths.append(len(values))
        if kind in _NUMBERS:
            self.values.append(np.array(values, _NUMBERS[kind]))
        else:
            self.values.extend(values)

    def finished(self, number: int) -> pa.Array:
        """Return the column for so many examples. Those without the feature have null."""
        self._fill(number)
        if not self.kind:
            return pa.nulls(number)
        flat = pa.array(np.concatenate(self.values)) if self.kind in _NUMBERS else pa.array(self.values, pa.binary())
        if all(length == 1 for length in self.lengths):
            return flat
        missing = pa.array([length == 0 for length in self.lengths])
        lists = pa.ListArray.from_arrays(np.cumsum([0, *self.lengths], dtype=np.int32), flat, mask=missing)
        return lists if max(self.lengths) > 1 else pc.list_element(lists, 0)

    def _fill(self, number: int) -> None:
        self.lengths += [0] * (number - len(self.lengths))


@functools.cache
def _example() -> Any:
    """Return the class of the message tensorflow.Example."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    declared = descriptor_pb2.FileDescriptorProto(name="mnist_job/example.proto", package="mnist_job", syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, str | None, bool]) -> Any:
        made = declared.message_type.add(name=name)
        for name, kind, of, repeated in fields:
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            number = len(made.field) + 1
            made.field.add(name=name, number=number, type=kind, label=label, type_name=of and f".mnist_job.{of}")
        return made

    message("BytesList", ("value", types.TYPE_BYTES, None, True))
    message("FloatList", ("value", types.TYPE_FLOAT, None, True))
    message("Int64List", ("value", types.TYPE_INT64, None, True))
    feature = message(
        "Feature",
        ("bytes_list", types.TYPE_MESSAGE, "BytesList", False),
        ("float_list", types.TYPE_MESSAGE, "FloatList", False),
        ("int64_list", types.TYPE_MESSAGE, "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for one in feature.field:
        one.oneof_index = 0
    features = message("Features", ("feature", types.TYPE_MESSAGE, "Features.FeatureEntry", True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=types.TYPE_MESSAGE, label=types.LABEL_OPTIONAL, type_name=".mnist_job.Feature"
    )
    message("Example", ("features", types.TYPE_MESSAGE, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(declared)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mnist_job.Example"))
