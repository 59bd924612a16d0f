"""The weights of classes in the training loss, as `fit` takes them by `class_weight`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from mnist_job.data.arrays import Split
from mnist_job.errors import UsageError

ClassWeight = Literal["balanced"] | Mapping[int, float]


def of_each(
    of_class: npt.NDArray[np.int64], class_weight: ClassWeight | None, classes: int | None
) -> npt.NDArray[np.float64] | None:
    """Return the weight of each class, by the number of its samples, or None if all are 1.

    `balanced` gives each class that has samples the same part of the loss: the weight of a class with n of N samples is
    N / (classes * n), as in scikit-learn's `compute_class_weight`. A class that a mapping leaves out has the weight 1.

    Raises UsageError if there are no classes, or if a class of the mapping does not exist.
    """
    if class_weight is None:
        return None
    if classes is None:
        raise UsageError("--class-weight: the targets of the data are no class numbers; remove the setting")
    if class_weight == "balanced":
        there = np.count_nonzero(of_class)
        balanced: npt.NDArray[np.float64] = np.ones(classes)
        np.divide(of_class.sum(), there * of_class, where=of_class > 0, out=balanced)
        return balanced
    if unknown := [number for number in class_weight if number >= classes]:
        raise UsageError(f"--class-weight {unknown[0]}: there are {classes} classes, 0 to {classes - 1}")
    return np.array([class_weight.get(number, 1.0) for number in range(classes)])


def weighted(train: Split, class_weight: ClassWeight | None, classes: int | None) -> Split:
    """Return the training part with the weights of its classes, multiplied by those of its samples.

    Raises UsageError, as `of_each` does.
    """
    of_class = np.bincount(train.targets, minlength=classes) if classes and class_weight else np.zeros(0, np.int64)
    if (each := of_each(of_class, class_weight, classes)) is None:
        return train
    weights = each[train.targets] * (1.0 if train.weights is None else train.weights)
    return replace(train, weights=weights.astype(np.float32))
