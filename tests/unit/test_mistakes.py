"""Test the most confident mistakes: which ones they are, and how their images are stored."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mnist_job.data.arrays import Split
from mnist_job.evaluation.measures import LONGEST_SIDE, MOST_MISTAKES, Answers, Mistake
from mnist_job.evaluation.measures import most_confident as most_confident_of


def most_confident(probabilities: np.ndarray, labels: np.ndarray, images: np.ndarray) -> list[Mistake]:
    answers, extremes = Answers.collected([probabilities], labels, "y_test"), (float(images.min()), float(images.max()))
    return most_confident_of(answers, labels, Split(images, labels), extremes)


def picture(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def kept(image: np.ndarray, brightest: int = 255) -> np.ndarray:
    """Return the picture of the first of two test images, which is a mistake. The other has the brightest pixel."""
    images = np.stack([image, np.full_like(image, brightest)])
    (mistake,) = most_confident(np.array([[0.1, 0.9], [0.1, 0.9]]), np.array([0, 1]), images)
    return picture(mistake.png)


@pytest.mark.parametrize("images", [1, 30, 500])
def test_the_mistakes_are_those_with_the_highest_probability(images):
    random = np.random.default_rng(images)
    probabilities = random.dirichlet(np.ones(5), images).astype(np.float32)
    labels = random.integers(0, 5, images)
    pixels = random.integers(0, 256, (images, 4, 5), dtype=np.uint8)
    expected = []
    for index, (row, label) in enumerate(zip(probabilities.tolist(), labels.tolist(), strict=True)):
        predicted = row.index(max(row))
        if predicted != label:
            expected.append((-row[predicted], index, label, predicted))
    found = most_confident(probabilities, labels, pixels)
    assert [(-m.probability, m.index, m.label, m.predicted) for m in found] == sorted(expected)[:MOST_MISTAKES]
    white = pixels.max() / 255
    for mistake in found:
        assert picture(mistake.png) == pytest.approx(pixels[mistake.index] / white, abs=1)


def test_a_perfect_model_makes_none():
    assert most_confident(np.eye(3, dtype=np.float32), np.arange(3), np.zeros((3, 2, 2), np.uint8)) == []


def test_the_brightest_pixel_of_the_data_is_white():
    assert kept(np.array([[0, 8], [16, 4]], np.uint8), brightest=16).tolist() == [[0, 127], [255, 63]]
    assert kept(np.zeros((2, 2), np.uint8), brightest=0).tolist() == [[0, 0], [0, 0]]


def test_three_channels_are_colours_and_any_others_are_shown_by_their_mean():
    random = np.random.default_rng(0)
    for channels in (1, 2, 3, 4, 7):
        image = random.integers(0, 256, (5, 6, channels), dtype=np.uint8)
        expected = image if channels == 3 else np.rint(image.mean(axis=2))
        assert np.array_equal(kept(image), expected)


@pytest.mark.parametrize("shape", [(56, 56), (57, 56), (1000, 500, 3), (1, 9000), (9000, 1, 5), (300, 200, 4)])
def test_an_image_takes_a_bounded_number_of_bytes_whatever_its_size(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = np.stack([image, image])
    (mistake, _) = most_confident(np.array([[0.1, 0.9], [0.1, 0.9]]), np.array([0, 0]), images)
    height, width = picture(mistake.png).shape[:2]
    assert max(height, width) == min(max(shape[:2]), LONGEST_SIDE)
    assert min(height, width) == pytest.approx(min(shape[:2]) * max(height, width) / max(shape[:2]), abs=1)
    assert len(mistake.png) < 13_000
