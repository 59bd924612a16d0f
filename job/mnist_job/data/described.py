"""What is known of a data set: the training data of a worker, and the summary that the driver has made of all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_job.data.arrays import Split
from mnist_job.data.fits import shape_text
from mnist_job.data.streamed_part import StreamedPart

EXAMPLES = 16  # training images to try a model on
Facts = dict[str, float | str]
"""Properties of a part of the data set, by names for messages. The same data have the same properties."""


@dataclass(frozen=True)
class Training:
    """The data that a worker trains and validates on.

    `sha256` is the hash of all pixels and labels in the order of the file. It does not depend on the split. For a
    prepared data set it is that of the manifest. `examples` are the first training images. `holdout` has the settings
    of the validation split, by their names. Their values are None if the data have a validation part.
    """

    train: Split | StreamedPart
    validation: Split | StreamedPart
    examples: Split
    classes: int | None  # None if the targets are quantities
    scale: float  # the largest absolute value of the training images: 255 for MNIST, 16 for digits
    sha256: str
    holdout: Mapping[str, Any]
    names: tuple[str, ...] | None  # of the classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, for example H x W or H x W x C."""
        return self.examples.inputs.shape[1:]

    @property
    def facts(self) -> Facts:
        """The properties that the data of every worker must have."""
        return {
            "training images": len(self.train),
            "validation images": len(self.validation),
            "image shape": shape_text(self.image_shape),
            "classes": self.classes or 0,
            "names of the classes": ", ".join(self.names or ()),
            "largest pixel": self.scale,
            "SHA-256": self.sha256,
        }


@dataclass(frozen=True)
class Summary:
    """The properties of the data set that the driver has checked.

    `holdout` and `scale` are those of `Training`. `examples` are a few training images. `absent` lists the classes
    without any image. The workers and the evaluation check their data against `training_facts` and `test_facts`.
    """

    name: str
    image_shape: tuple[int, ...]
    classes: int | None
    train: int
    validation: int
    test: int
    sha256: str  # of all pixels and labels; it does not depend on the file's dtypes and compression
    holdout: Mapping[str, Any]
    absent: list[int]
    scale: float
    examples: Split
    names: tuple[str, ...] | None
    most_workers: int | None  # that can read a prepared data set
    training_facts: Facts
    test_facts: Facts
