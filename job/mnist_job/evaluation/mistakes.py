"""The most confident mistakes of a model, with images that are small enough for `outcome.json`."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mnist_job.data.dataset import Images, Labels

if TYPE_CHECKING:
    from mnist_job.evaluation.measures import Answers

MOST = 25
LONGEST_SIDE = 56  # pixels; larger images are scaled down, so that each takes at most 13 kB


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


def most_confident(answers: "Answers", labels: Labels, images: Images) -> list[Mistake]:
    """Return up to MOST mistakes, the one with the highest probability first."""
    predicted, confidence = answers.predicted, answers.confidence
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[:MOST]]
    white = max(int(images.max()), 1)
    return [
        Mistake(int(i), int(labels[i]), int(predicted[i]), float(confidence[i]), _png(images[i], white)) for i in chosen
    ]


def _png(image: Images, white: int) -> str:
    brightened = np.minimum(np.arange(256) * 255 // white, 255).astype(np.uint8)[image]
    if image.ndim == 3 and image.shape[2] != 3:
        brightened = np.rint(brightened.mean(axis=2, dtype=np.float32)).astype(np.uint8)
    picture = Image.fromarray(brightened)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
