"""Measure the quality of a model's answers, and find its most confident mistakes.

The answers come batch by batch, to keep only a part of them in memory.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mnist_job.data.arrays import Inputs, Samples
from mnist_job.data.fits import check_labels_below
from mnist_job.errors import EvaluationError

MOST_DENSE = 100  # up to so many classes, the confusion matrix is dense; for more, only its nonzero cells are stored
MOST_MISTAKES = 25
LONGEST_SIDE = 56  # pixels; larger images are scaled down, so that each takes at most 13 kB

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Mistake:
    """A test image (`index` counts from 0) of class `label` that the model took for `predicted`, with this probability.

    `png` is the image in base64, with sides of at most LONGEST_SIDE pixels. Three channels are shown as red, green and
    blue; any other number of channels is shown as their mean, in grey. The brightest pixel of all images is white.
    """

    index: int
    label: int
    predicted: int
    probability: float
    png: str


@dataclass(frozen=True)
class Evaluation:
    """The quality over all test images. `recall` has None for a class without test images.

    A model that is no classifier has no `accuracy` (None), and its `recall`, `confusion` and `mistakes` are empty.

    For up to MOST_DENSE classes, the confusion matrix is `confusion[true][predicted]`. For more, `confusion_pairs` has
    [true, predicted, images] for each pair that occurs. (Old outcomes have a matrix of any size in `confusion`.)

    `metrics` has the loss and the metrics that the model was compiled with, by their names. `class_names` is empty if
    the classes are numbers.

    `image_shape` is H x W or H x W x C. It and `mistakes` are empty in old outcomes, which did not store them.
    """

    samples: int
    loss: float
    accuracy: float | None = None
    recall: list[float | None] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    image_shape: list[int] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    confusion_pairs: list[list[int]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)

    def name(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def pairs(self) -> Counts:
        """Return [true, predicted, images] of each pair of classes that occurs, sorted, as an array of pairs x 3."""
        if self.confusion_pairs:
            return np.array(self.confusion_pairs, np.int64)
        dense = np.array(self.confusion, np.int64)
        true, predicted = np.nonzero(dense)
        return np.stack([true, predicted, dense[true, predicted]], axis=1)

    def of_classes(self) -> tuple[Counts, Counts]:
        """Return, for each class, how many test images were recognized and how many there are."""
        return _of_classes(self.pairs(), len(self.recall))

    def worst_class(self) -> tuple[int, float]:
        """Return the class with the lowest recall (the first of several) and this recall."""
        least, label = min((share, label) for label, share in enumerate(self.recall) if share is not None)
        return label, least


@dataclass(frozen=True)
class Answers:
    """The parts of a model's answers that are measured.

    For each image: the class with the highest probability (`predicted`), this probability (`confidence`), and the
    probability of the true class (`likelihood`).
    """

    classes: int
    predicted: Counts
    confidence: npt.NDArray[np.floating[Any]]
    likelihood: npt.NDArray[np.floating[Any]]

    @classmethod
    def joined(cls, pieces: Sequence["Answers"]) -> "Answers":
        """Return the answers to several pieces, one after another."""
        of_images = [(piece.predicted, piece.confidence, piece.likelihood) for piece in pieces]
        return cls(pieces[0].classes, *(np.concatenate(values) for values in zip(*of_images, strict=True)))

    @classmethod
    def collected(cls, batches: Iterable[npt.NDArray[np.floating[Any]]], labels: Labels, where: str) -> "Answers":
        """Collect the answers from batches of probabilities (images x classes), in the order of `labels`.

        Raises DataError if a label is not one of the classes. The message names `where`, the source of the labels.
        """
        start, parts, classes = 0, [], 0
        for probabilities in batches:
            images, classes = probabilities.shape
            if start == 0:
                check_labels_below(labels, classes, where)
            rows, predicted = np.arange(images), probabilities.argmax(axis=1)
            true = labels[start : start + images]
            parts.append((predicted, probabilities[rows, predicted], probabilities[rows, true]))
            start += images
        return cls(classes, *(np.concatenate(values) for values in zip(*parts, strict=True)))


def measure(answers: Answers, labels: Labels) -> Evaluation:
    """Return loss, accuracy, recall and confusion matrix of the answers. `labels` has the true class of each image.

    The loss is scikit-learn's `log_loss`: natural logarithm, mean over the images, each probability clipped to the
    dtype's epsilon. Raises EvaluationError if the loss or the accuracy is not finite.
    """
    samples, classes = len(labels), answers.classes
    epsilon = np.finfo(answers.likelihood.dtype).eps
    likelihood = np.clip(answers.likelihood, epsilon, 1 - epsilon)
    cells, images = np.unique(labels.astype(np.int64) * classes + answers.predicted, return_counts=True)
    pairs = np.stack([cells // classes, cells % classes, images], axis=1)
    correct, of_class = _of_classes(pairs, classes)
    dense = np.zeros((classes, classes), np.int64) if classes <= MOST_DENSE else np.zeros((0, 0), np.int64)
    if dense.size:
        dense[pairs[:, 0], pairs[:, 1]] = images
    result = Evaluation(
        samples=samples,
        loss=float(-np.log(likelihood, dtype=np.float64).mean()),
        accuracy=float(correct.sum() / samples),
        recall=[float(hit / n) if n else None for hit, n in zip(correct, of_class, strict=True)],
        confusion=dense.tolist(),
        confusion_pairs=[] if dense.size else pairs.tolist(),
    )
    if not math.isfinite(result.loss):
        raise EvaluationError(f"loss {result.loss} is not finite; nothing is published")
    return result


def _of_classes(pairs: Counts, classes: int) -> tuple[Counts, Counts]:
    true, predicted, images = pairs.T
    hits, there = np.zeros((2, classes), np.int64)
    np.add.at(there, true, images)
    np.add.at(hits, true[true == predicted], images[true == predicted])
    return hits, there


def confidence_interval(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for the probability of a hit (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, page 209)."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / samples
    share = hits / samples
    middle, half = share + z2 / 2, math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return max((middle - half) / (1 + z2), 0.0), min((middle + half) / (1 + z2), 1.0)


def most_confident(answers: Answers, labels: Labels, test: Samples, extremes: tuple[float, float]) -> list[Mistake]:
    """Return up to MOST_MISTAKES mistakes, the one with the highest probability first.

    `extremes` are the smallest and the largest number of all images of the test data.
    """
    predicted, confidence = answers.predicted, answers.confidence
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[:MOST_MISTAKES]]
    black, white = min(extremes[0], 0.0), extremes[1]
    return [
        Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i]), _png(image, black, white))
        for i, image in zip(chosen, test.inputs_of(chosen), strict=True)
    ]


def _png(image: Inputs, black: float, white: float) -> str:
    """Return the picture, or an empty text for inputs that are no image: H x W or H x W x C."""
    if image.ndim not in (2, 3):
        return ""
    above = image.astype(np.float64) - black
    brightened = (above * 255 / max(white - black, 1e-30)).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] != 3:
        brightened = np.rint(brightened.mean(axis=2, dtype=np.float32)).astype(np.uint8)
    picture = Image.fromarray(brightened)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
