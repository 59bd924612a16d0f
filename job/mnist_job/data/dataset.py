"""Load a data set, check it, and split off the validation part.

Images are uint8 arrays of N x H x W or N x H x W x C, labels are int32 arrays of N. Other dtypes are converted in
chunks, so that a process holds at most the uint8 images and one chunk. Pixels keep their values, because the model
scales them (`Training.scale`): a saved model takes the images as they are in the data set.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.config.parts import TrainingDataSettings
from mnist_job.config.setting import declared
from mnist_job.config.sources import flag
from mnist_job.data import sources, split
from mnist_job.errors import DataError, UsageError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
EXAMPLES = 16  # training images to try a model on
HOLDOUT = ("validation_fraction", "validation_split")
Facts = dict[str, int | str]
"""Properties of a part of the data set, by names for messages. The same data have the same properties."""


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Training:
    """The data that a worker trains and validates on.

    `digest` is the hash of all pixels and labels in the order of the file. It does not depend on the split. `holdout`
    has the settings of the validation split, by their names. Their values are None if the file has a validation part.
    """

    train: Split
    validation: Split
    classes: int
    scale: int  # the largest pixel value of the training images: 255 for MNIST, 16 for digits
    digest: "hashlib._Hash"
    holdout: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image: H x W or H x W x C."""
        return self.train.images.shape[1:]

    @property
    def facts(self) -> Facts:
        """The properties that the data of every worker must have."""
        return {
            "training images": len(self.train),
            "validation images": len(self.validation),
            "image shape": shape_text(self.image_shape),
            "classes": self.classes,
            "largest pixel": self.scale,
            "SHA-256": self.digest.hexdigest(),
        }


@dataclass(frozen=True)
class Summary:
    """The properties of the data set that the driver has checked.

    `holdout` and `scale` are those of `Training`. `examples` are a few training images. `absent` lists the classes
    without any image. The workers and the evaluation check their data against `training_facts` and `test_facts`.
    """

    name: str
    image_shape: tuple[int, ...]
    classes: int
    train: int
    validation: int
    test: int
    sha256: str  # of all pixels and labels; it does not depend on the file's dtypes and compression
    holdout: Mapping[str, Any]
    absent: list[int]
    scale: int
    examples: Split
    training_facts: Facts
    test_facts: Facts


def check(config: TrainingDataSettings) -> Summary:
    """Read the whole data set once and return its properties.

    Raises the errors of `load_training`, and DataError if the test data do not fit the training data.
    """
    training = load_training(config)
    of_class = np.bincount(training.train.labels, minlength=training.classes)
    facts, digest, shape, holdout = training.facts, training.digest, training.image_shape, training.holdout
    examples = Split(training.train.images[:EXAMPLES].copy(), training.train.labels[:EXAMPLES].copy())
    train, validation, scale = len(training.train), len(training.validation), training.scale
    del training  # free the memory before the test images are read
    test = load_test(config.data)
    _check_fits(test, shape, of_class, sources.place(config.data), "test")
    _update(digest, test)
    return Summary(
        name=sources.name(config.data),
        image_shape=shape,
        classes=len(of_class),
        train=train,
        validation=validation,
        test=len(test),
        sha256=digest.hexdigest(),
        holdout=holdout,
        absent=np.flatnonzero(of_class == 0).tolist(),
        scale=scale,
        examples=examples,
        training_facts=facts,
        test_facts=test_facts(test),
    )


def load_training(config: TrainingDataSettings) -> Training:
    """Load the training data. The validation part is the file's `x_val` and `y_val`, or is split off if it has none.

    Raises DataError if the data cannot be read, or for an empty split, fewer than two classes, only black images, fewer
    training images than a batch, or a class that only the validation part has. Raises UsageError if the user asks for
    a split and the file has its own validation part.
    """
    where = sources.place(config.data)
    whole = Split(*sources.load(config.data, "train"))
    classes = split.count_classes(whole.labels, f"{where}: y_train")
    scale = int(whole.images.max())
    if scale == 0:
        raise DataError(f"{where}: x_train: every pixel is 0")
    digest = hashlib.sha256(repr(whole.images.shape[1:]).encode())
    if sources.has_validation(config.data):
        _check_no_split(config, where)
        train, validation = whole, Split(*sources.load(config.data, "val"))
        holdout = dict.fromkeys(HOLDOUT)
        _check_fits(validation, whole.images.shape[1:], np.bincount(whole.labels), where, "val")
        _update(digest, train)
        _update(digest, validation)
    else:
        holdout = {name: _in_effect(config, name) for name in HOLDOUT}
        train, validation = _divided(whole, config.model_copy(update=holdout), digest, where)
    if len(train) < config.batch_size:
        raise DataError(
            f"{where}: x_train: {len(train)} training images are fewer than one batch of {config.batch_size}"
        )
    return Training(train, validation, classes, scale, digest, holdout)


def _divided(whole: Split, config: TrainingDataSettings, digest: "hashlib._Hash", where: str) -> tuple[Split, Split]:
    """Return the training part and the validation part, as views of the same arrays.

    For a stratified split, first move the rows for validation to the end, in place.
    """
    fraction = config.validation_fraction
    assert fraction is not None
    at, different = split.boundary(len(whole), fraction), len(np.unique(whole.labels))
    train = Split(whole.images[:at], whole.labels[:at])
    validation = Split(whole.images[at:], whole.labels[at:])
    if not (len(train) and len(validation)):
        raise DataError(
            f"{where}: x_train: {len(whole)} images leave nothing for "
            f"{'validation' if len(train) else 'training'} at --validation-fraction {fraction}"
        )
    _update(digest, train)  # before any row moves: the hash is that of the file's order
    _update(digest, validation)
    if config.validation_split == "tail":
        lacking = split.absent(train.labels, validation.labels)
        if lacking:
            raise DataError(
                f"{where}: y_train: the last {len(validation)} labels, its validation part, hold "
                f"{split.named(lacking)}, but the training part does not; "
                "--validation-split stratified divides each class"
            )
    elif at < different:
        raise DataError(
            f"{where}: x_train: {at} training images at --validation-fraction {fraction} are fewer than one of each of "
            f"{different} classes"
        )
    else:
        split.move_to_end(whole.images, whole.labels, split.stratified(whole.labels, len(validation), config.seed))
    return train, validation


def load_test(source: str) -> Split:
    """Load the held-out test data. Raises DataError."""
    return Split(*sources.load(source, "test"))


def test_facts(test: Split) -> Facts:
    """Return the properties that the test data must have in the evaluation."""
    digest = hashlib.sha256()
    _update(digest, test)
    shape = shape_text(test.images.shape[1:])
    return {"test images": len(test), "image shape": shape, "SHA-256": digest.hexdigest()}


def check_labels_below(labels: Labels, classes: int, where: str) -> None:
    """Check that every label is one of the classes (0 to `classes` - 1). Raises DataError if not."""
    if labels.max() >= classes:
        raise DataError(f"{where}: holds label {labels.max()}, but there are {classes} classes (0 to {classes - 1})")


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as text, for example `28x28`."""
    return "x".join(map(str, shape))


def _update(digest: "hashlib._Hash", part: Split) -> None:
    for array in (part.images, part.labels):
        digest.update(np.ascontiguousarray(array).data)


def _in_effect(config: TrainingDataSettings, name: str) -> Any:
    value = getattr(config, name)
    return declared(TrainingDataSettings.model_fields[name], "in_effect") if value is None else value


def _check_no_split(config: TrainingDataSettings, where: str) -> None:
    for name in HOLDOUT:
        value = getattr(config, name)
        if value is not None:
            raise UsageError(
                f"{flag(name)} {value}: {where} has its own validation part (x_val and y_val); remove one of the two"
            )


def _check_fits(part: Split, shape: tuple[int, ...], of_class: npt.NDArray[np.int64], where: str, name: str) -> None:
    """Check that a part has the same image shape as the training images, and only classes that have training images.

    `of_class` is the number of training images of each class. Raises DataError.
    """
    if part.images.shape[1:] != shape:
        raise DataError(
            f"{where}: x_{name}: images of {shape_text(part.images.shape[1:])}, "
            f"but those of x_train are {shape_text(shape)}"
        )
    check_labels_below(part.labels, len(of_class), f"{where}: y_{name}")
    lacking = split.absent(np.flatnonzero(of_class), part.labels)
    if lacking:
        raise DataError(
            f"{where}: y_{name}: holds {split.named(lacking)}, but there is no training image of it; "
            "add some, or leave the class out"
        )
