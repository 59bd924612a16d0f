"""Which training images are kept for validation, and which labels no training can begin with.

The split is a function of the labels, the fraction and the seed alone, so each worker makes the same one for itself. In
NumPy: importing scikit-learn, which has such a function too, would cost each process a second and a half.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.errors import DataError

Rows = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

EXCHANGE_BYTES = 1 << 20  # of images that are in memory twice while rows are exchanged
MOST_NAMED = 10  # classes in a sentence
FEW_CLASSES = 100  # labels below this are never taken for stray ones
SPARSEST = 10  # a label this many times the number of different labels is one


def boundary(images: int, fraction: float) -> int:
    """How many of so many images are for training: Keras's rule (keras/src/trainers/data_adapters/array_slicing.py)."""
    return math.floor(images * (1 - fraction))


def stratified(labels: Labels, held: int, seed: int) -> Rows:
    """The rows of `held` images for validation, sorted: of each class its share, drawn by the seed.

    Shares that are no whole numbers are rounded by largest remainders. Each class keeps at least one image for
    training; what it cannot give, the others give in proportion. `labels` must have `held` more images than classes.
    """
    images = np.bincount(labels)
    shares = _shares(images, held)
    # A stream of its own: epochs are shuffled by (seed, epoch), which NumPy takes for (seed, epoch, 0).
    shuffled = np.random.default_rng((seed, 0, 1)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(images) - images, images)
    return np.sort(by_class[place_in_class < np.repeat(shares, images)])


def _shares(images: Rows, held: int) -> Rows:
    """How many images of each class are held, `held` in all, of a class at most all but one."""
    most = np.maximum(images - 1, 0)
    shares = np.zeros_like(images)
    free = images > 0
    while True:  # a class that cannot give its share leaves more to the others
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


def move_to_end(images: Pixels, labels: Labels, rows: Rows) -> None:
    """Exchange `rows` (sorted) with rows at the end, in place, so that they are the last ones.

    Only EXCHANGE_BYTES of the images are in memory twice meanwhile, and the others stay where they are.
    """
    at = len(labels) - len(rows)
    is_chosen = np.zeros(len(labels), bool)
    is_chosen[rows] = True
    leaving, coming = rows[rows < at], at + np.flatnonzero(~is_chosen[at:])
    step = max(EXCHANGE_BYTES // max(images[0].nbytes, 1), 1)
    for start in range(0, len(leaving), step):
        one, other = leaving[start : start + step], coming[start : start + step]
        arrays: tuple[npt.NDArray[Any], ...] = (images, labels)
        for array in arrays:
            kept = array[one]
            array[one] = array[other]
            array[other] = kept


def count_classes(labels: Labels, where: str) -> int:
    """The number of classes: the largest label and one.

    Raises DataError for a single class, and for a label far above the number of different ones: each class is a row of
    the output layer, and a stray 65535 among three classes would make 65,536.
    """
    images = np.bincount(labels)
    different, largest = int(np.count_nonzero(images)), len(images) - 1
    if different < 2:
        raise DataError(f"{where}: holds a single class; a classifier needs two or more")
    if largest >= max(FEW_CLASSES, SPARSEST * different):
        raise DataError(
            f"{where}: holds label {largest} at index {np.argmax(labels)}, far above its number of different labels, "
            f"{different}; remove that image, or number the classes from 0 to {different - 1}"
        )
    return len(images)


def absent(labels: npt.NDArray[np.integer[Any]], wanted: Labels) -> list[int]:
    """The classes of `wanted` that are not among `labels`."""
    lacking: list[int] = np.setdiff1d(wanted, labels).tolist()
    return lacking


def named(classes: Iterable[int]) -> str:
    """`class 3`, `classes 3, 4`, and no more than MOST_NAMED of them."""
    numbers = [str(number) for number in classes]
    more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
    return f"class{'es' * (len(numbers) > 1)} {', '.join(numbers[:MOST_NAMED])}{more}"
