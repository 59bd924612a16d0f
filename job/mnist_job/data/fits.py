"""Check that the parts of a data set fit each other."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.data import split
from mnist_job.data.arrays import Split
from mnist_job.errors import DataError


def check(part: Split, train: Split, of_class: npt.NDArray[np.int64], where: str, name: str) -> None:
    """Check that a part has the same shapes and types as the training part, and only classes that this has.

    `of_class` is the number of training images of each class. Raises DataError.
    """
    if part.inputs.shape[1:] != train.inputs.shape[1:]:
        raise DataError(
            f"{where}: x_{name}: images of {shape_text(part.inputs.shape[1:])}, "
            f"but those of x_train are {shape_text(train.inputs.shape[1:])}"
        )
    for array, other, letter in ((part.inputs, train.inputs, "x"), (part.targets, train.targets, "y")):
        if array.dtype != other.dtype:
            raise DataError(f"{where}: {letter}_{name}: has type {array.dtype}, but {letter}_train has {other.dtype}")
    if part.one_hot != train.one_hot or part.targets.shape[1:] != train.targets.shape[1:]:
        raise DataError(f"{where}: y_{name}: its rows have another form or length than those of y_train")
    if part.has_classes:
        check_labels_below(part.targets, len(of_class), f"{where}: y_{name}")
        check_classes(part.targets, np.flatnonzero(of_class), where, name)


def check_classes(targets: npt.NDArray[Any], of_training: npt.NDArray[Any], where: str, name: str) -> None:
    """Check that a part has only classes that the training part has. Raises DataError."""
    if targets.dtype.kind not in "iu":
        return
    lacking = split.absent(of_training, targets.astype(np.int32))
    if lacking:
        raise DataError(
            f"{where}: y_{name}: holds {split.named(lacking)}, but there is no training image of it; "
            "add some, or leave the class out"
        )


def check_labels_below(labels: npt.NDArray[np.int32], classes: int, where: str) -> None:
    """Check that every label is one of the classes (0 to `classes` - 1). Raises DataError if not."""
    if labels.max() >= classes:
        raise DataError(f"{where}: holds label {labels.max()}, but there are {classes} classes (0 to {classes - 1})")


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as text, for example `28x28`."""
    return "x".join(map(str, shape))
