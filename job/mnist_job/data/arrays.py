"""What a data function of the user returns, as arrays that the loop takes. All arrays are copies, at aligned addresses.

Integers are classes, floats are quantities. Rows with a single 1 and zeros are classes too, in one-hot form.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mnist_job.data.npz import MAXIMUM_CLASSES, aligned_empty, check_labels, check_range
from mnist_job.errors import DataError, one_line

Inputs = npt.NDArray[Any]
Targets = npt.NDArray[Any]  # int32 or float32
Weights = npt.NDArray[np.float32]
PARTS = ("train", "test", "val")
EXPECTED = "expected (x_train, y_train), (x_test, y_test), and perhaps (x_val, y_val)"


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        inputs: N x ... of any shape and any type of whole or floating-point numbers.
        targets: int32 N class numbers, or float32 N or N x K quantities.
        weights: float32 N, the weight of each sample in the loss. None if all are 1.
        one_hot: the number of classes if the user's targets were one-hot rows, which `targets` has as numbers; else 0.

    """

    inputs: Inputs
    targets: Targets
    weights: Weights | None = None
    one_hot: int = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Split":
        """Return some of the samples: those of a slice as views of the same arrays, those of numbers as copies."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], weights=weights)

    @property
    def has_classes(self) -> bool:
        """Whether the targets are class numbers."""
        return bool(self.targets.dtype.kind == "i")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's inputs."""
        return self.inputs.shape[1:]

    @property
    def sizes(self) -> Sequence[int]:
        """The number of samples of each piece."""
        return [len(self)]

    def pieces(self) -> Iterator["Split"]:
        """Yield all samples, as one piece."""
        yield self

    def inputs_of(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Return the inputs of the samples with these numbers."""
        return self.inputs[rows]


class Samples(Protocol):
    """The samples of a part, in memory or read when they are needed."""

    def __len__(self) -> int: ...

    @property
    def has_classes(self) -> bool:
        """Whether the targets are class numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's inputs."""

    @property
    def sizes(self) -> Sequence[int]:
        """The number of samples of each piece."""

    def pieces(self) -> Iterator[Split]:
        """Yield all samples in their order, a piece at a time. Raises DataError."""

    def inputs_of(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Return the inputs of a few samples, by their numbers. Raises DataError."""


def parts(returned: object, where: str) -> dict[str, Split]:
    """Return the parts `train`, `test` and perhaps `val` of what a data function returned. Raises DataError."""
    if not isinstance(returned, tuple | list) or len(returned) not in (2, 3):
        raise DataError(f"{where}: returned {_described(returned)}; {EXPECTED}")
    return {name: part(pair, name, where) for name, pair in zip(PARTS, returned, strict=False)}


def part(pair: object, name: str, where: str) -> Split:
    """Return the part of this name, from its inputs, its targets and perhaps its weights. Raises DataError."""
    if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
        raise DataError(f"{where}: the part {name} is {_described(pair)}; {EXPECTED}, each with arrays of numbers")
    inputs = _inputs(pair[0], f"{where}: x_{name}")
    numbers, one_hot = targets(pair[1], f"{where}: y_{name}")
    weights = None if len(pair) == 2 or pair[2] is None else _weights(pair[2], f"{where}: the weights of {name}")
    for other, what in ((numbers, "targets"), (weights, "weights")):
        if other is not None and len(other) != len(inputs):
            raise DataError(f"{where}: x_{name} holds {len(inputs)} samples, but there are {len(other)} {what}")
    return Split(inputs, numbers, weights, one_hot)


def _inputs(value: object, where: str) -> Inputs:
    array = _array(value, where)
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(f"{where}: has shape {array.shape}; expected N x ..., for example N x features")
    if array.dtype == np.bool_:
        return _copied(array, np.uint8)
    if array.dtype.kind == "f":
        _check_finite(array, where)
        return _copied(array, np.float32)  # as `fit` does
    return _copied(array, array.dtype.type)


def targets(value: object, where: str) -> tuple[Targets, int]:
    """Return targets as the loop takes them, and the number of classes if they were one-hot rows, or 0.

    Raises DataError.
    """
    array = _array(value, where)
    if array.ndim == 0 or 0 in array.shape:
        raise DataError(f"{where}: has shape {array.shape}; expected a target for each sample")
    _check_finite(array, where)
    if array.ndim == 2 and array.shape[1] > 1 and _is_one_hot(array):
        return array.argmax(axis=1).astype(np.int32), array.shape[1]
    if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind != "f":
        array = array[:, 0]
    if array.ndim > 1 or array.dtype.kind == "f":
        return _copied(array, np.float32), 0
    classes = f"integers are classes, from 0 to {MAXIMUM_CLASSES - 1}; return floats if they are quantities"
    check_labels(array, classes, where)
    return array.astype(np.int32), 0


def _weights(value: object, where: str) -> Weights:
    array = _array(value, where)
    _check_finite(array, where)
    if array.ndim != 1 or array.min(initial=0) < 0 or not array.any():
        raise DataError(f"{where}: expected a number for each sample, none below 0 and not all 0")
    return array.astype(np.float32)


def _array(value: object, where: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise DataError(f"{where}: is {_described(value)}, and no array: {one_line(error, 100)}") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{where}: is {_described(value)} of type {array.dtype}; expected an array of numbers")
    return array


def _check_finite(array: npt.NDArray[Any], where: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        index = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(array)))
        raise DataError(f"{where}: holds NaN or infinity, first at index {', '.join(map(str, index))}")
    check_range(array, where)


def _is_one_hot(array: npt.NDArray[Any]) -> bool:
    return bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())


def _copied(array: npt.NDArray[Any], dtype: type[Any]) -> npt.NDArray[Any]:
    copy = aligned_empty(array.shape, dtype)
    copy[...] = array
    return copy


def _described(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"{len(value)} values"
    return (
        f"a mapping with {', '.join(map(str, list(value)[:4]))}" if isinstance(value, Mapping) else type(value).__name__
    )
