"""Measured quality, against scikit-learn's."""

import keras
import numpy as np
import pytest
from pyarrow import fs
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from job import model
from job.errors import EvaluationError
from job.evaluation import BATCH, confidence_interval, measure, predict
from job.storage import File


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [1, 10, 100])  # at 100 some probabilities are 0, and are clipped
@pytest.mark.parametrize("classes", [2, 10])
def test_it_agrees_with_scikit_learn(spread, classes):
    random = np.random.default_rng(spread)
    probabilities = softmax(random.normal(0, spread, (1234, classes)))
    labels = random.integers(0, classes, 1234).astype(np.int32)
    ours = measure(probabilities, labels)
    predicted, every = probabilities.argmax(axis=1), range(classes)
    assert ours.loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-6)
    assert ours.accuracy == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    assert ours.recall == pytest.approx(recall_score(labels, predicted, average=None, labels=every), abs=1e-12)
    assert ours.confusion == confusion_matrix(labels, predicted, labels=every).tolist()
    assert ours.samples == 1234


def test_a_class_without_test_images_has_no_recall():
    assert measure(np.full((2, 3), 1 / 3, np.float32), np.array([0, 1], np.int32)).recall == [1, 0, None]


@pytest.mark.parametrize("samples", [1, 7, 980])
def test_the_confidence_interval_is_wilson_s(samples):
    for hits in {0, 1, samples // 2, samples - 1, samples}:
        expected = binomtest(hits, samples).proportion_ci(0.95, method="wilson")
        assert confidence_interval(hits, samples) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(EvaluationError, match="not finite"):
        measure(np.array([[value, 0.5]], np.float32), np.array([0], np.int32))


def test_logits_are_refused():
    with pytest.raises(EvaluationError, match="softmax"):
        measure(np.array([[3.0, -1.0]], np.float32), np.array([0], np.int32))


def saved(network: keras.Model, folder) -> File:
    network.save(folder / "model.keras")
    return File(fs.LocalFileSystem(), str(folder / "model.keras"))


@pytest.mark.parametrize("images", [1, BATCH - 1, BATCH, 2 * BATCH + 1])
def test_predictions_do_not_depend_on_the_batch(tmp_path, images):
    network = model.build((4, 5), 3, 255, (6,))
    x = np.random.default_rng(0).integers(0, 256, (images, 4, 5), dtype=np.uint8)
    expected = network.predict(x, batch_size=7, verbose=0)
    assert predict(saved(network, tmp_path), x, on_gpu=False) == pytest.approx(expected, abs=1e-6)


def test_a_model_of_other_images_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="the test images are 5x4"):
        predict(saved(model.build((4, 5), 3, 255, ()), tmp_path), np.zeros((1, 5, 4), np.uint8), on_gpu=False)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.keras").write_text("no zip")
    with pytest.raises(EvaluationError, match="cannot be loaded as a Keras model"):
        predict(File(fs.LocalFileSystem(), str(tmp_path / "model.keras")), np.zeros((1, 4, 5), np.uint8), on_gpu=False)
