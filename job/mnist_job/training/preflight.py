"""Try a user's model on a few examples before workers start, in a process of its own: the driver has no TensorFlow.

The trial is everything that a run does with a model: build it, train it for a step, validate, save, load and evaluate
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mnist_job.config.sources import flag
from mnist_job.data.arrays import Split
from mnist_job.errors import EvaluationError, JobError, UsageError
from mnist_job.models import saved_model
from mnist_job.models.source import Shapes, Source
from mnist_job.usercode.apart import Apart
from mnist_job.usercode.files import told
from mnist_job.usercode.function import Function

if TYPE_CHECKING:  # imported by the process that tries the model
    import keras


OF_OUR_OPTIMIZER = ("learning_rate", "learning_rate_schedule")


@dataclass(frozen=True)
class Found:
    """What the trial has found out.

    Attributes:
        was_compiled: whether the author compiled the model.
        is_classifier: whether it gives probabilities of classes.
        parameters: its number of weights.
        measured: the names of what the loop measures in each epoch.
        averages: whether the optimizer puts averages of the weights in place at the end (`use_ema`).

    """

    was_compiled: bool
    is_classifier: bool
    parameters: int
    measured: list[str]
    averages: bool


def check(
    process: Apart,
    model: Source,
    callbacks: Function | None,
    shapes: Shapes,
    examples: Split,
    given: Mapping[str, Any] | None = None,
) -> Found:
    """Try the model and the callbacks in another process. `given` has the settings that differ from their defaults.

    None of the callbacks' methods is called, because they may write or send something.

    Raises UsageError, in one line, if the model cannot be built, trained or saved, or has its own optimizer and the
    user sets a learning rate, or if a callback cannot work.
    """
    given = given or {}
    named = str(callbacks) if model.is_reference else f"--model {model.name}"
    scheduled = given.get("learning_rate_schedule") != "constant"
    found = process.call(named, _tried, model, callbacks, shapes, examples, scheduled=scheduled)
    if found.was_compiled and (set_ := [name for name in OF_OUR_OPTIMIZER if name in given]):
        raise UsageError(
            f"{flag(set_[0])}: {model.name} compiles an optimizer of its own; change it there (--model-args)"
        )
    if found.averages and given.get("keep") == "best":
        raise UsageError(
            f"--keep best: {model.name} has an optimizer with use_ema, whose averages become the weights only at the "
            "end; use --keep last"
        )
    return found


def _tried(source: Source, own: Function | None, shapes: Shapes, examples: Split, *, scheduled: bool) -> Found:
    import keras
    import tensorflow as tf

    from mnist_job.training import optimizer
    from mnist_job.training.batches import ResidentBatches, Share
    from mnist_job.training.callbacks import Callbacks
    from mnist_job.training.compiled import Compiled
    from mnist_job.training.passes import Training, Validation

    keras.utils.set_random_seed(shapes.seed)
    network = source.build(shapes)
    try:
        _check_outputs(network, shapes.classes)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, 1) if scheduled else 1e-3
        model = Compiled(network, rate, examples)
        batches = ResidentBatches(examples, len(examples), Share(0, 1), seed=0)
        update = optimizer.update(model.optimizer, model.variables)
        strategy = tf.distribute.get_strategy()
        for made in (Training(strategy, model, update, batches), Validation(strategy, model, batches)):
            made.whole(0)
    except JobError as error:
        raise UsageError(f"--model {source.name}: {error}") from error
    except Exception as error:
        raise UsageError(f"--model {source.name}: cannot be trained on this data: {told(error)}") from error
    try:
        with TemporaryDirectory() as folder, model.as_given() as given:
            given.save(file := Path(folder) / "model.keras")
            loaded = saved_model.load_own(file)
    except Exception as error:
        raise UsageError(f"--model {source.name}: cannot be saved and loaded: {told(error)}") from error
    if examples.has_classes and saved_model.is_classifier(loaded):
        _check_probabilities(loaded, examples, f"--model {source.name}")
    try:
        Callbacks(own, model, lambda value: value, epochs=1, steps=1).state()
    except JobError as error:
        raise UsageError(str(error)) from error
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # of a loss scaling
    return Found(
        model.was_compiled,
        saved_model.is_classifier(network),
        network.count_params(),
        model.measured,
        bool(inner.use_ema),
    )


def _check_probabilities(network: "keras.Model", examples: Split, name: str) -> None:
    """Check that the evaluation can measure what the model gives. Raises UsageError."""
    try:
        for _ in saved_model.probabilities(network, examples.inputs, name):
            pass
    except EvaluationError as error:
        raise UsageError(str(error)) from error


def _check_outputs(network: "keras.Model", classes: int | None) -> None:
    import keras

    if classes is None:
        return

    loss = saved_model.loss_name(network.loss) if network.compiled else "crossentropy"
    outputs = keras.tree.flatten(getattr(network, "output_shape", None))  # a subclass has none before its first call
    if len(outputs) == 0 or not isinstance(outputs[-1], int) or "crossentropy" not in loss or "binary" in loss:
        return
    if outputs[-1] < classes:
        raise UsageError(f"gives {outputs[-1]} outputs, but the data has {classes} classes")
