"""The evaluate task: exact quality of a saved model on held-out data, in a process that did not train."""

import contextlib
import importlib
import math
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from job import data, environment, ray_cluster, storage, temporary
from job.config import Settings
from job.errors import ClusterError, EvaluationError, JobError
from job.lean import needless_hidden
from job.mistakes import Mistake, most_confident
from job.policy import EVALUATION_RETRIES

BATCH = 1000  # images at a time; the result does not depend on it


@dataclass(frozen=True)
class Evaluation:
    """Quality over all test images. `recall` has None for a class without test images; `confusion[true][predicted]`.

    `image_shape` is H x W or H x W x C; it and `mistakes` are empty in outcomes of before they were kept.
    """

    samples: int
    loss: float
    accuracy: float
    recall: list[float | None]
    confusion: list[list[int]]
    image_shape: list[int] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)


class Evaluator:
    """The evaluate task, in a process of its own, which can be started before there is a model to evaluate."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._process: Any = None

    def prepare(self, node: str) -> None:
        """Start the process on the node of a worker, to import TensorFlow in the time that training leaves.

        It reserves no CPU, and takes over the worker's: on a cluster that the workers fill there is no other.
        """
        if self._process is None and not self._config.evaluate_on_gpu:  # the GPU is the worker's until it ends
            there = NodeAffinitySchedulingStrategy(node, soft=True)
            self._process = _start(self._config, early=True, num_cpus=0, scheduling_strategy=there)

    def evaluate(self, model: storage.File, sha256: str | None = None) -> tuple[Evaluation, str]:
        """Evaluate a saved model, which must have this SHA-256 if one is given; gives that of what was evaluated.

        Raises EvaluationError, DataError or ClusterError as the task does, EvaluationError if it is lost for good, and
        ClusterError if the head is.
        """
        if self._process is None:
            gpus = int(self._config.evaluate_on_gpu)
            self._process = _start(self._config, early=False, num_cpus=1, num_gpus=gpus)
        try:
            result: tuple[Evaluation, str] = ray.get(self._process.evaluate.remote(model, sha256))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, JobError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            ray_cluster.check_head_answers()
            raise EvaluationError(
                f"the evaluation's process was lost {EVALUATION_RETRIES + 1} times: {error}"
            ) from error
        return result


def _start(config: Settings, *, early: bool, **options: Any) -> Any:
    process: Any = ray.remote(max_restarts=EVALUATION_RETRIES, max_task_retries=EVALUATION_RETRIES)(_Process)
    return process.options(**options).remote(config, early=early)


class _Process:
    """Begins to import TensorFlow when it starts; `early`, in the time that the workers leave."""

    def __init__(self, config: Settings, *, early: bool) -> None:
        environment.pin()
        if not config.verbose:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        self._config = config
        # A thread, not a task: Ray says on standard error what became of a task that waits while the head is lost.
        thread = ThreadPoolExecutor(1, initializer=_yield_to_others if early else None)
        self._imported = thread.submit(_import_keras)

    def evaluate(self, model: storage.File, wanted: str | None) -> tuple[Evaluation, str]:
        """The evaluate task. Reads the model once: what is checked is what is evaluated."""
        config = self._config
        try:
            self._imported.result()
            model = _read(model, wanted)
            test = data.load_test(config.data)
            with temporary.private():
                probabilities = predict(model, test.images, on_gpu=config.evaluate_on_gpu)
            data.check_labels_below(test.labels, probabilities.shape[1], f"{config.data}: y_test")
            result = replace(
                measure(probabilities, test.labels),
                image_shape=list(test.images.shape[1:]),
                mistakes=most_confident(probabilities, test.labels, test.images),
            )
        except JobError:
            raise
        except Exception as error:  # as text: the driver would import TensorFlow to unpickle its exceptions
            raise EvaluationError(f"the evaluation failed: {type(error).__name__}: {error}") from error
        return result, model.sha256()


def _read(model: storage.File, wanted: str | None) -> storage.File:
    try:
        held = model.held()
    except OSError as error:
        raise EvaluationError(f"{model.path}: cannot be read: {error}") from error
    if wanted not in (None, held.sha256()):
        raise EvaluationError(f"{model.path}: is not the model that was trained: it was changed meanwhile")
    return held


def _import_keras() -> None:
    with needless_hidden(), environment.keras_at_its_defaults():
        importlib.import_module("keras")


def _yield_to_others() -> None:
    if sys.platform == "linux":  # of which this is a thread's, not the process's
        with contextlib.suppress(OSError):  # a sandbox's kernel may not know of it: then the thread takes its share
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


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
            file.write_bytes(model.read())
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


def confidence_interval(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the probability of a hit (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, page 209)."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / samples
    share = hits / samples
    middle, half = share + z2 / 2, math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return max((middle - half) / (1 + z2), 0.0), min((middle + half) / (1 + z2), 1.0)
