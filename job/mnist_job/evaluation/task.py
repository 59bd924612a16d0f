"""The evaluate task: measure a saved model on all held-out data, in a process that did not train it."""

import importlib
import itertools
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_job.bounds import EVALUATION_RETRIES, HEAD_START_SECONDS
from mnist_job.config.parts import EvaluatorSettings
from mnist_job.data import verify
from mnist_job.data.arrays import Samples
from mnist_job.data.described import Facts
from mnist_job.data.sources import Source
from mnist_job.distributed import cluster
from mnist_job.errors import ClusterError, EvaluationError, JobError, UsageError, one_line
from mnist_job.evaluation.measures import Answers, Evaluation, measure, most_confident
from mnist_job.models import saved_model
from mnist_job.models.saved_model import BATCH
from mnist_job.storage import files
from mnist_job.system import environment, priority, temporary
from mnist_job.usercode.files import Code, told

if TYPE_CHECKING:  # imported by the process that evaluates
    import keras


class Candidate(NamedTuple):
    """A saved model to evaluate: its file, its name in messages, and the SHA-256 that it must have (None: any).

    Only if it is `trusted`, code in it is run: that of a Lambda layer, or of a class that is not Keras's. Then
    `modules` are imported first: Keras finds only registered classes whose module was imported.
    """

    file: files.File
    name: str
    sha256: str | None = None
    trusted: bool = False
    modules: tuple[str, ...] = ()


class Evaluator:
    """The evaluate task and its process, which can be started before there is a model to evaluate."""

    def __init__(self, config: EvaluatorSettings, code: Code) -> None:
        self._config, self._code = config, code
        self._process: Any = None

    def prepare(self, node: str) -> None:
        """Start the process on the node of a worker, and import TensorFlow there at low priority during training.

        The process reserves no CPU, because the workers may use all CPUs of the cluster. After training it uses the
        worker's CPU.
        """
        if self._process is None and not self._config.evaluate_on_gpu:  # the worker uses the GPU until it ends
            there = NodeAffinitySchedulingStrategy(node, soft=True)
            self._process = self._start(early=True, num_cpus=0, scheduling_strategy=there)

    def evaluate(self, candidate: Candidate, data: Source, checked: Facts) -> tuple[Evaluation, str]:
        """Evaluate a saved model on the test data. Return the result, and the SHA-256 of the evaluated file.

        `checked` describes the test data, which the task checks against it.

        Raises the task's EvaluationError, DataError or ClusterError. Raises EvaluationError if the task was lost and no
        retry is left, and ClusterError if the head was lost.
        """
        try:
            process = self._ready_process()
            result: tuple[Evaluation, str] = ray.get(process.evaluate.remote(candidate, data, checked))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, JobError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            cluster.check_head_answers()
            raise EvaluationError(
                one_line(f"the evaluation's process was lost {EVALUATION_RETRIES + 1} times: {error}", 280)
            ) from error
        return result

    def _ready_process(self) -> Any:
        """Return the first process that is ready.

        The prepared process has a low priority. If it is not allowed to raise it, other programs on the node may block
        it for long. So after a while start a second process at normal priority, and use the one that is ready first.
        """
        if self._process is None:
            return self._start(early=False, num_cpus=1, num_gpus=int(self._config.evaluate_on_gpu))
        hurried, imported = self._process.hurry.remote(), self._process.wait_for_import.remote()
        answered, _ = ray.wait([hurried], timeout=HEAD_START_SECONDS)
        if answered and ray.get(hurried):
            return self._process
        done, _ = ray.wait([imported], timeout=HEAD_START_SECONDS)
        if done:
            return self._process
        other = self._start(early=False, num_cpus=1)
        (first,), _ = ray.wait([imported, other.wait_for_import.remote()], num_returns=1)
        winner, loser = (self._process, other) if first == imported else (other, self._process)
        ray.kill(loser)
        return winner

    def _start(self, *, early: bool, **options: Any) -> Any:
        process: Any = ray.remote(max_restarts=EVALUATION_RETRIES, max_task_retries=EVALUATION_RETRIES)(_Process)
        return process.options(**options).remote(self._config, self._code, early=early)


class _Process:
    """The process of the evaluate task. It imports TensorFlow when it starts; if `early`, at low priority."""

    def __init__(self, config: EvaluatorSettings, code: Code, *, early: bool) -> None:
        environment.pin_for_tensorflow(verbose=config.verbose)
        self._config, self._code = config, code
        # A thread, not a task of Ray: if the head is lost, Ray would print a message about the waiting task.
        thread = ThreadPoolExecutor(1, initializer=priority.yield_to_others if early else None)
        self._imported = thread.submit(_import_keras)

    def hurry(self) -> bool:
        """Raise the priority to normal. Return whether that was possible, or the import is already done."""
        return priority.take_full_share() or self._imported.done()

    def wait_for_import(self) -> None:
        """Wait until TensorFlow is imported."""
        self._imported.result()

    def evaluate(self, candidate: Candidate, data: Source, checked: Facts) -> tuple[Evaluation, str]:
        """Evaluate the model. Read its file only once, so that the checked bytes are the evaluated ones."""
        name = candidate.name
        try:
            self.hurry()
            self.wait_for_import()
            held = _read(candidate)
            with temporary.private() as folder, self._code.importable(folder):
                test = verify.load_test(data, checked)
                for module in candidate.modules:
                    importlib.import_module(module)
                only_classes = test.has_classes and not candidate.trusted
                network = loaded(held, candidate, compiled=not only_classes, on_gpu=self._config.evaluate_on_gpu)
                metrics = {} if only_classes else compiled_metrics(network, test, name)
                if test.has_classes and saved_model.is_classifier(network):
                    result = replace(classified(network, test, name, data.place), metrics=metrics)
                else:
                    result = _measured(metrics, len(test), name)
        except JobError:
            raise
        except Exception as error:  # as text: the driver would import TensorFlow to unpickle its exceptions
            raise saved_model.refused(name, f"the evaluation failed: {type(error).__name__}: {error}") from error
        return replace(result, image_shape=list(test.shape)), held.sha256()


def classified(network: "keras.Model", test: Samples, name: str, place: str) -> Evaluation:
    """Measure a classifier on the test data, which are read once, and a second time for the mistakes that are shown.

    Raises EvaluationError, whose message calls the model `name`, and DataError.
    """
    answers, labels, extremes = [], [], []
    for piece in test.pieces():
        batches = saved_model.probabilities(network, piece.inputs, name)
        answers.append(Answers.collected(batches, piece.targets, f"{place}: y_test"))
        labels.append(piece.targets)
        extremes += [float(piece.inputs.min()), float(piece.inputs.max())]
    every, true = Answers.joined(answers), np.concatenate(labels)
    mistakes = most_confident(every, true, test, (min(extremes), max(extremes)))
    return replace(measure(every, true), mistakes=mistakes)


def _measured(metrics: dict[str, float], samples: int, name: str) -> Evaluation:
    if not metrics:
        raise saved_model.refused(name, "has no loss, and the targets of the data are no class numbers; compile it")
    return Evaluation(samples=samples, loss=metrics["loss"], metrics=metrics)


def _read(candidate: Candidate) -> files.File:
    try:
        held = candidate.file.held()
    except OSError as error:
        raise saved_model.refused(candidate.name, f"cannot be read: {error}") from error
    if candidate.sha256 not in (None, held.sha256()):
        raise saved_model.refused(candidate.name, "is not the model that was trained: it has changed in the meantime")
    return held


def _import_keras() -> None:
    with environment.importing_keras():
        importlib.import_module("keras")


def loaded(model: files.File, candidate: Candidate, *, compiled: bool, on_gpu: bool) -> "keras.Model":
    """Load the model: if it is trusted, with its own code; if `compiled`, with the loss and metrics that it has.

    Raises EvaluationError, whose message has the candidate's name. Raises ClusterError if a GPU is required and there
    is none.
    """
    import tensorflow as tf

    if on_gpu and not tf.config.list_physical_devices("GPU"):
        raise ClusterError("--evaluate-on-gpu: TensorFlow sees no GPU in the task that Ray gave one")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            file.write_bytes(model.read())
        except OSError as error:
            raise saved_model.refused(candidate.name, f"cannot be read: {error}") from error
        if not candidate.trusted:
            return saved_model.load(file, candidate.name, compiled=compiled)
        try:
            return saved_model.load_own(file)
        except Exception as error:  # the user's code raises any kind
            raise saved_model.refused(candidate.name, f"cannot be loaded: {told(error)}") from error


def compiled_metrics(network: "keras.Model", test: Samples, name: str) -> dict[str, float]:
    """Return the loss and the metrics that the model was compiled with, over all test images. Empty if it was not.

    Raises EvaluationError, whose message calls the model `name`, if they cannot be computed or one is not finite.
    """
    from mnist_job.training.compiled import Compiled

    if not network.compiled:
        return {}
    pieces = test.pieces()
    first = next(pieces)
    try:
        targets = Compiled(network, 1e-3, first[:1]).targets
    except UsageError as error:
        raise saved_model.refused(name, str(error)) from error

    def batches() -> Iterator[tuple[Any, ...]]:
        for piece in itertools.chain([first], pieces):
            for start in range(0, len(piece), BATCH):
                batch = piece[start : start + BATCH]
                weights = () if batch.weights is None else (batch.weights,)
                yield (batch.inputs, np.asarray(targets(batch.targets)), *weights)

    steps = sum(-(-size // BATCH) for size in test.sizes)
    found = network.evaluate(batches(), steps=steps, verbose=0, return_dict=True)
    measured = {metric: float(value) for metric, value in found.items()}
    if wrong := [metric for metric, value in measured.items() if not math.isfinite(value)]:
        raise saved_model.refused(name, f"its compiled {wrong[0]} on the test data is not finite; nothing is published")
    return measured
