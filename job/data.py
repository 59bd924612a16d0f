"""The data set: where it comes from, what is refused, how it is split.

Images are uint8 arrays N x H x W or N x H x W x C, labels int32 arrays of N. Whatever dtype a file holds is converted
chunk by chunk, so that a process never holds more than the uint8 images and one chunk. Pixels keep their values: the
model scales them (`Training.scale`), so a saved model takes images as they are in the data set.
"""

import hashlib
import importlib.util
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from job import npz, storage
from job.errors import DataError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

# The file of keras.datasets.mnist (keras/src/datasets/mnist.py): same address, hash and place in the cache.
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
DIGITS_TRAINING_IMAGES = 1437  # the first 80 % of scikit-learn's 1,797


@dataclass(frozen=True)
class Split:
    """Images and as many labels."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Training:
    """What a worker trains and validates on."""

    train: Split
    validation: Split
    classes: int
    scale: int  # the largest pixel value of the training images: 255 for MNIST, 16 for digits

    @property
    def image_shape(self) -> tuple[int, ...]:
        """H x W or H x W x C."""
        return self.train.images.shape[1:]


@dataclass(frozen=True)
class Summary:
    """What the driver knows of the data set after it checked it."""

    name: str
    image_shape: tuple[int, ...]
    classes: int
    train: int
    validation: int
    test: int
    sha256: str  # of all pixels and labels, in whatever file and dtype they were stored


def absolute(source: str) -> str:
    """The source as every worker can read it, whatever folder it runs in."""
    return source if source in ("mnist", "digits") else storage.absolute(source)


def dataset_name(source: str) -> str:
    """`mnist`, `digits`, or the file's name without .npz: the metrics' label `dataset`."""
    return source.partition("?")[0].rsplit("/", 1)[-1].removesuffix(".npz")


def check(source: str, validation_fraction: float, batch_size: int) -> Summary:
    """Read the whole data set once and say what it holds. Raises DataError on whatever training would stumble over."""
    training = load_training(source, validation_fraction, batch_size)
    digest = hashlib.sha256(repr(training.image_shape).encode())
    for split in (training.train, training.validation):
        _update(digest, split)
    summary = Summary(
        name=dataset_name(source),
        image_shape=training.image_shape,
        classes=training.classes,
        train=len(training.train),
        validation=len(training.validation),
        test=0,
        sha256="",
    )
    del training  # before the test images are read: both together may be more than a process should hold
    test = load_test(source)
    where = _file(source)
    if test.images.shape[1:] != summary.image_shape:
        raise DataError(
            f"{where}: x_test: images of {shape_text(test.images.shape[1:])}, "
            f"but those of x_train are {shape_text(summary.image_shape)}"
        )
    check_labels_below(test.labels, summary.classes, f"{where}: y_test")
    _update(digest, test)
    return replace(summary, test=len(test), sha256=digest.hexdigest())


def _update(digest: "hashlib._Hash", split: Split) -> None:
    for array in (split.images, split.labels):
        digest.update(np.ascontiguousarray(array).data)


def load_training(source: str, validation_fraction: float, batch_size: int) -> Training:
    """The training data, its last `validation_fraction` split off as Keras's `fit` does.

    Raises DataError also for an empty split, fewer than two classes, images without any light, and fewer training
    images than `batch_size`.
    """
    where = _file(source)
    split = _load(source, "train")
    classes = int(split.labels.max()) + 1
    if classes < 2:
        raise DataError(f"{where}: y_train: holds a single class; a classifier needs two or more")
    scale = int(split.images.max())
    if scale == 0:
        raise DataError(f"{where}: x_train: every pixel is 0")
    at = math.floor(len(split) * (1 - validation_fraction))  # keras/src/trainers/data_adapters/array_slicing.py
    if at == 0 or at == len(split):
        raise DataError(
            f"{where}: x_train: {len(split)} images leave nothing for "
            f"{'training' if at == 0 else 'validation'} at --validation-fraction {validation_fraction}"
        )
    if at < batch_size:
        raise DataError(f"{where}: x_train: {at} training images are fewer than one batch of {batch_size}")
    return Training(
        train=Split(split.images[:at], split.labels[:at]),
        validation=Split(split.images[at:], split.labels[at:]),
        classes=classes,
        scale=scale,
    )


def load_test(source: str) -> Split:
    """The held-out test data. Raises DataError."""
    return _load(source, "test")


def check_labels_below(labels: Labels, classes: int, where: str) -> None:
    """Raises DataError if a label names a class that the model does not know."""
    if labels.max() >= classes:
        raise DataError(f"{where}: holds label {labels.max()}, but there are {classes} classes (0 to {classes - 1})")


def shape_text(shape: Iterable[int]) -> str:
    """`28x28`."""
    return "x".join(map(str, shape))


def _load(source: str, part: str) -> Split:
    if source == "digits":
        images, labels = _digits(part)
    else:
        where = _file(source)
        images, labels = npz.read(where, f"x_{part}", f"y_{part}")
        if len(images) != len(labels):
            raise DataError(f"{where}: x_{part} holds {len(images)} images, y_{part} {len(labels)} labels")
    return Split(images, labels)


def _file(source: str) -> str:
    """The path or URI behind `--data`; MNIST is downloaded if it is not cached."""
    return str(_mnist()) if source == "mnist" else source


def _mnist() -> Path:
    """Keras's own MNIST file, from its cache or its address.

    By pooch and not by Keras, whose import is TensorFlow's: the driver does without. Raises DataError.
    """
    import pooch  # needed for this data set only

    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(MNIST_URL, f"sha256:{MNIST_SHA256}", fname="mnist.npz", path=cache))
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors; a wrong hash is a ValueError
        raise DataError(
            f"mnist: cannot be downloaded from {MNIST_URL} ({' '.join(str(error).split())}); "
            "give the path of an .npz, or --data digits, which needs no network"
        ) from error


def _digits(part: str) -> tuple[Images, Labels]:
    """scikit-learn's 8x8 digits (pixels 0 to 16), read from its package.

    `sklearn.datasets.load_digits` reads the same file, but its import costs a second and a half in every process.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn, which ships this data set, is not installed")
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    chosen = rows[:DIGITS_TRAINING_IMAGES] if part == "train" else rows[DIGITS_TRAINING_IMAGES:]
    return chosen[:, :-1].reshape(-1, 8, 8), chosen[:, -1].astype(np.int32)
