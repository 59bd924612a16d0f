"""Test the measures of quality against scikit-learn."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from mnist_job.data.arrays import Split
from mnist_job.errors import DataError
from mnist_job.evaluation.measures import MOST_DENSE, Answers, Evaluation, confidence_interval, measure, most_confident


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def measured(probabilities: np.ndarray, labels: np.ndarray, batch: int = 1000) -> Evaluation:
    batches = (probabilities[at : at + batch] for at in range(0, len(labels), batch))
    return measure(Answers.collected(batches, labels, "y_test"), labels)


@pytest.mark.parametrize("spread", [1, 10, 100])  # at 100, some probabilities are 0 and are clipped
@pytest.mark.parametrize("classes", [2, 10])
def test_it_agrees_with_scikit_learn(spread, classes):
    random = np.random.default_rng(spread)
    probabilities = softmax(random.normal(0, spread, (1234, classes)))
    labels = random.integers(0, classes, 1234).astype(np.int32)
    ours = measured(probabilities, labels)
    predicted, every = probabilities.argmax(axis=1), range(classes)
    assert ours.loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-6)
    assert ours.accuracy == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    assert ours.recall == pytest.approx(recall_score(labels, predicted, average=None, labels=every), abs=1e-12)
    assert ours.confusion == confusion_matrix(labels, predicted, labels=every).tolist()
    assert ours.confusion_pairs == []
    assert ours.samples == 1234


@pytest.mark.parametrize("classes", [7, MOST_DENSE, MOST_DENSE + 1])
def test_the_size_of_the_batches_changes_no_digit(classes):
    random = np.random.default_rng(classes)
    probabilities = softmax(random.normal(0, 3, (1234, classes)))
    labels = random.integers(0, classes, 1234).astype(np.int32)
    images = random.integers(0, 256, (1234, 3, 3), dtype=np.uint8)
    found = []
    for batch in (1, 100, 1234):
        batches = (probabilities[at : at + batch] for at in range(0, 1234, batch))
        answers = Answers.collected(batches, labels, "y_test")
        found.append((measure(answers, labels), most_confident(answers, labels, Split(images, labels), (0, 255))))
    assert found[0] == found[1] == found[2]
    # The loss is the same, to the last digit, as if it were computed at once.
    epsilon = np.finfo(np.float32).eps
    likelihood = np.clip(probabilities[np.arange(1234), labels], epsilon, 1 - epsilon)
    assert found[0][0].loss == float(-np.log(likelihood, dtype=np.float64).mean())


def test_many_classes_are_kept_by_the_pairs_that_occur():
    random = np.random.default_rng(0)
    probabilities = softmax(random.normal(0, 1, (500, MOST_DENSE + 1)))
    labels = random.integers(0, MOST_DENSE + 1, 500).astype(np.int32)
    ours = measured(probabilities, labels)
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(MOST_DENSE + 1))
    assert ours.confusion == []
    assert ours.confusion_pairs == [[*map(int, at), int(matrix[tuple(at)])] for at in np.argwhere(matrix)]
    hits, images = ours.of_classes()
    assert np.array_equal(hits, matrix.diagonal())
    assert np.array_equal(images, matrix.sum(axis=1))
    former = replace(ours, confusion=matrix.tolist(), confusion_pairs=[])  # as earlier versions stored it
    assert np.array_equal(former.pairs(), ours.pairs())


def test_a_million_classes_take_no_memory_of_their_square():
    """It has neither classes x classes nor images x classes values: these would need 8 TB and 4 GB."""
    classes, images = 1_000_000, 1000
    labels = np.arange(images, dtype=np.int32)

    def batches() -> Iterator[np.ndarray]:
        for at in range(0, images, 10):
            batch = np.zeros((10, classes), np.float32)
            batch[np.arange(10), labels[at : at + 10]] = 1
            yield batch

    tracemalloc.start()
    ours = measure(Answers.collected(batches(), labels, "y_test"), labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ours.accuracy == 1
    assert peak < 400e6


def test_a_label_that_the_model_does_not_know_is_refused():
    with pytest.raises(DataError, match=r"^y_test: holds label 3, but there are 3 classes"):
        measured(np.full((2, 3), 1 / 3, np.float32), np.array([0, 3], np.int32))


def test_a_class_without_test_images_has_no_recall():
    found = measured(np.full((2, 3), 1 / 3, np.float32), np.array([0, 1], np.int32))
    assert found.recall == [1, 0, None]
    assert found.worst_class() == (1, 0)


@pytest.mark.parametrize("samples", [1, 7, 980])
def test_the_confidence_interval_is_wilson_s(samples):
    for hits in {0, 1, samples // 2, samples - 1, samples}:
        expected = binomtest(hits, samples).proportion_ci(0.95, method="wilson")
        assert confidence_interval(hits, samples) == pytest.approx((expected.low, expected.high), abs=1e-12)
