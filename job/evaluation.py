"""The evaluate task: exact quality of a saved model on held-out data, in a process that did not train."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from pyarrow import fs

from job import data, storage
from job.config import Settings
from job.errors import ClusterError, EvaluationError, JobError
from job.policy import EVALUATION_RETRIES

BATCH = 1000  # images at a time; the result does not depend on it


@dataclass(frozen=True)
class Evaluation:
    """Quality over all test images. `recall` has None for a class without test images; `confusion[true][predicted]`."""

    samples: int
    loss: float
    accuracy: float
    recall: list[float | None]
    confusion: list[list[int]]


def evaluate(config: Settings, model: storage.File) -> Evaluation:
    """Evaluate a saved model in a Ray task of its own.

    Raises EvaluationError, DataError or ClusterError as the task does, EvaluationError if it is lost for good.
    """
    task = ray.remote(num_cpus=1, num_gpus=int(config.evaluate_on_gpu), max_retries=EVALUATION_RETRIES)(_task)
    try:
        return ray.get(task.remote(config, model))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"the evaluation's process was lost {EVALUATION_RETRIES + 1} times: {error}") from error


def _task(config: Settings, model: storage.File) -> Evaluation:
    if not config.verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        test = data.load_test(config.data)
        probabilities = predict(model, test.images, on_gpu=config.evaluate_on_gpu)
        data.check_labels_below(test.labels, probabilities.shape[1], f"{config.data}: y_test")
        return measure(probabilities, test.labels)
    except JobError:
        raise
    except Exception as error:  # as text: the driver would import TensorFlow to unpickle its exceptions
        raise EvaluationError(f"the evaluation failed: {type(error).__name__}: {error}") from error


def predict(model: storage.File, images: data.Images, *, on_gpu: bool) -> npt.NDArray[np.float32]:
    """The model's probabilities, images x classes.

    Raises EvaluationError for a model that cannot be loaded, does not take such images, or gives no probabilities.
    """
    import keras
    import tensorflow as tf

    if on_gpu and not tf.config.list_physical_devices("GPU"):
        raise ClusterError("--evaluate-on-gpu: TensorFlow sees no GPU in the task that Ray gave one")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            model.copy_to(fs.LocalFileSystem(), str(file))
            network = keras.saving.load_model(file, compile=False)
        except (OSError, ValueError, TypeError) as error:
            raise EvaluationError(f"{model.path}: cannot be loaded as a Keras model: {error}") from error
    expected = getattr(network, "input_shape", None)
    if not isinstance(expected, tuple) or expected[1:] != images.shape[1:]:
        raise EvaluationError(
            f"{model.path}: takes {expected}, but the test images are {data.shape_text(images.shape[1:])}"
        )
    parts = [network.predict_on_batch(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    probabilities = np.concatenate(parts)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise EvaluationError(f"{model.path}: gives shape {probabilities.shape}, not a probability for each class")
    return probabilities


def measure(probabilities: npt.NDArray[Any], labels: data.Labels) -> Evaluation:
    """Loss, accuracy, recall and confusion matrix of `probabilities` (images x classes) against `labels` (images).

    The loss is scikit-learn's `log_loss`: natural logarithm, mean over the images, each probability clipped to the
    dtype's epsilon. Raises EvaluationError if a probability is not finite, or a row does not sum to 1.
    """
    if not np.isfinite(probabilities).all():
        raise EvaluationError("the model gives probabilities that are not finite; nothing is published")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise EvaluationError("the model's outputs do not sum to 1: they are no probabilities; end it with a softmax")
    samples, classes = probabilities.shape
    epsilon = np.finfo(probabilities.dtype).eps
    likelihoods = np.clip(probabilities[np.arange(samples), labels], epsilon, 1 - epsilon)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    of_class, correct = confusion.sum(axis=1), confusion.diagonal()
    result = Evaluation(
        samples=samples,
        loss=float(-np.log(likelihoods, dtype=np.float64).mean()),
        accuracy=float(correct.sum() / samples),
        recall=[float(hit / n) if n else None for hit, n in zip(correct, of_class, strict=True)],
        confusion=confusion.tolist(),
    )
    if not (math.isfinite(result.loss) and math.isfinite(result.accuracy)):
        raise EvaluationError(f"loss {result.loss} or accuracy {result.accuracy} is not finite; nothing is published")
    return result
