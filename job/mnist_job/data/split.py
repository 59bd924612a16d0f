"""Split off the validation images, and check the labels.

The split depends only on the labels, the fraction and the seed, so each worker computes the same one. scikit-learn has
a function for it, but importing it would take 1.5 s in each process.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.errors import DataError

Rows = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]

EXCHANGE_BYTES = 1 << 20  # at most so many bytes of images are copied while rows are swapped
MOST_NAMED = 10  # at most so many classes are listed in a message
FEW_CLASSES = 100  # labels below this are always accepted
SPARSEST = 10  # a label that is at least this many times the number of different labels is refused


def boundary(images: int, fraction: float) -> int:
    """Return how many images are for training, as in Keras (keras/src/trainers/data_adapters/array_slicing.py)."""
    return math.floor(images * (1 - fraction))


def strata(targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the class of each sample. Quantities are divided at random, so they are one class here."""
    is_class = targets.ndim == 1 and targets.dtype.kind in "iu"
    return targets if is_class else np.zeros(len(targets), np.int32)


def stratified(labels: Labels, held: int, seed: int) -> Rows:
    """Choose `held` images for validation at random, from each class in proportion. Return their rows, sorted.

    The shares of the classes are rounded by the method of largest remainders. Each class keeps at least one image for
    training. If a class is too small for its share, the other classes give more. `labels` must have at least `held`
    more images than classes.
    """
    images = np.bincount(labels)
    shares = _shares(images, held)
    # Not the random numbers of an epoch: these use the seed (seed, epoch), which NumPy treats as (seed, epoch, 0).
    shuffled = np.random.default_rng((seed, 0, 1)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(images) - images, images)
    return np.sort(by_class[place_in_class < np.repeat(shares, images)])


def _shares(images: Rows, held: int) -> Rows:
    """Return how many images of each class are held out: `held` in total, and never all images of a class."""
    most = np.maximum(images - 1, 0)
    shares = np.zeros_like(images)
    free = images > 0
    while True:  # if a class is too small for its share, the shares of the others grow
        rest, among = held - shares[~free].sum(), images[free].sum()
        full = free & (rest * images > most * among)
        if not full.any():
            break
        shares[full] = most[full]
        free &= ~full
    if among:
        shares[free] = rest * images[free] // among
        remainders = np.where(free, rest * images % among, -1)
        shares[np.argsort(-remainders, kind="stable")[: held - shares.sum()]] += 1
    return shares


def move_to_end(arrays: Sequence[npt.NDArray[Any]], rows: Rows) -> None:
    """Move `rows` (sorted) of each array to its end by swapping them with other rows, in place.

    At most EXCHANGE_BYTES of the first array are copied at a time. All other rows stay at their places.
    """
    first = arrays[0]
    at = len(first) - len(rows)
    is_chosen = np.zeros(len(first), bool)
    is_chosen[rows] = True
    leaving, coming = rows[rows < at], at + np.flatnonzero(~is_chosen[at:])
    step = max(EXCHANGE_BYTES // max(first[0].nbytes, 1), 1)
    for start in range(0, len(leaving), step):
        one, other = leaving[start : start + step], coming[start : start + step]
        for array in arrays:
            kept = array[one]
            array[one] = array[other]
            array[other] = kept


def count_classes(labels: Labels, where: str) -> int:
    """Return the number of classes, which is the largest label plus one.

    Raises DataError if there is only one class, or if a label is far above the number of different labels. Such a label
    is a mistake: with three classes and a label of 65535, the output layer would have 65,536 units.
    """
    images = np.bincount(labels)
    different, largest = int(np.count_nonzero(images)), len(images) - 1
    if different < 2:
        raise DataError(f"{where}: holds a single class; a classifier needs two or more")
    if largest >= max(FEW_CLASSES, SPARSEST * different):
        raise DataError(
            f"{where}: holds label {largest} at index {np.argmax(labels)}, which is far above the number of different "
            f"labels, {different}; remove that image, or number the classes from 0 to {different - 1}"
        )
    return len(images)


def absent(labels: npt.NDArray[np.integer[Any]], wanted: Labels) -> list[int]:
    """Return the classes of `wanted` that are not among `labels`."""
    lacking: list[int] = np.setdiff1d(wanted, labels).tolist()
    return lacking


def named(classes: Iterable[int], names: Sequence[str] = ()) -> str:
    """Return `class 3` or `classes 3, 4`, with at most MOST_NAMED classes, by their names if they have some."""
    numbers = [names[number] if number < len(names) else str(number) for number in classes]
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    return f"class{'es' * (len(numbers) > 1)} {', '.join(numbers[:MOST_NAMED])}{more}"
