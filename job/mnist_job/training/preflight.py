"""Try a user's model on a few examples before workers start, in a process of its own: the driver has no TensorFlow.

    python -m mnist_job.training.preflight < REQUEST > ANSWER

The trial is everything that a run does with a model: build it, train it for a step, validate, save and load it.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_job.config.sources import flag
from mnist_job.data.dataset import Split
from mnist_job.errors import JobError, UsageError, one_line
from mnist_job.models import code, saved_model
from mnist_job.models.source import Shapes, Source
from mnist_job.system import environment, temporary

if TYPE_CHECKING:  # imported by the process that tries the model
    import keras


OF_OUR_OPTIMIZER = ("learning_rate", "learning_rate_schedule")


@dataclass(frozen=True)
class Found:
    """What the trial has found out: whether the author compiled the model, and its number of weights."""

    was_compiled: bool
    parameters: int


def check(source: Source, shapes: Shapes, examples: Split, given: Collection[str] = ()) -> Found:
    """Try the model in another process. `given` has the names of the settings that differ from their defaults.

    Raises UsageError, in one line, if the model cannot be built, trained or saved, or has its own optimizer and the
    user sets a learning rate.
    """
    with tempfile.TemporaryDirectory(prefix="mnist-job-") as empty:  # Python imports from the current folder
        tried = subprocess.run(  # noqa: S603 this module
            [sys.executable, "-m", __spec__.name],
            input=pickle.dumps((source, shapes, examples)),
            capture_output=True,
            cwd=empty,
            check=False,
        )
    try:
        answer = json.loads(tried.stdout)
    except ValueError:
        last = (tried.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UsageError(
            f"--model {source.name}: the process that tried it ended with {tried.returncode}: {one_line(last, 200)}"
        ) from None
    if "refused" in answer:
        raise UsageError(answer["refused"])
    found = Found(**answer)
    if found.was_compiled and (set_ := [name for name in OF_OUR_OPTIMIZER if name in given]):
        raise UsageError(
            f"{flag(set_[0])}: {source.name} compiles an optimizer of its own; change it there (--model-args)"
        )
    return found


def main() -> None:
    """Read a request from standard input, and write the answer to what was standard output: the code may print."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    source, shapes, examples = pickle.load(sys.stdin.buffer)  # noqa: S301 from the parent process
    environment.pin_for_tensorflow(verbose=False)
    with temporary.private() as folder, source.code.importable(folder), environment.importing_keras():
        try:
            answer = asdict(_tried(source, shapes, examples, folder))
        except JobError as error:
            answer = {"refused": str(error)}
    json.dump(answer, answer_to)
    answer_to.close()


def _tried(source: Source, shapes: Shapes, examples: Split, folder: Path) -> Found:
    import keras
    import tensorflow as tf

    from mnist_job.training import loop, optimizer
    from mnist_job.training.batches import ResidentBatches, Share
    from mnist_job.training.compiled import Compiled

    keras.utils.set_random_seed(shapes.seed)
    network = source.build(shapes)
    try:
        _check_outputs(network, shapes.classes)
        model = Compiled(network, 1e-3, examples.images, examples.labels)
        batches = ResidentBatches(examples, len(examples), Share(0, 1), seed=0)
        update = optimizer.update(model.optimizer, model.variables)
        so_far = tf.Variable(tf.zeros(3, tf.float64))
        loop.compiled_training(tf.distribute.get_strategy(), model, update, batches, so_far)(batches.plan(0))
        loop.compiled_validation(tf.distribute.get_strategy(), model, batches)(batches.plan(0))
    except JobError as error:
        raise UsageError(f"--model {source.name}: {error}") from error
    except Exception as error:
        raise UsageError(f"--model {source.name}: cannot be trained on this data: {code.told(error)}") from error
    try:
        with model.as_given() as given:
            given.save(folder / "model.keras")
        saved_model.load_own(folder / "model.keras")
    except Exception as error:
        raise UsageError(f"--model {source.name}: cannot be saved and loaded: {code.told(error)}") from error
    return Found(model.was_compiled, network.count_params())


def _check_outputs(network: "keras.Model", classes: int) -> None:
    import keras

    loss = saved_model.loss_name(network.loss) if network.compiled else "crossentropy"
    outputs = keras.tree.flatten(getattr(network, "output_shape", None))  # a subclass has none before its first call
    if len(outputs) == 0 or not isinstance(outputs[-1], int) or "crossentropy" not in loss or "binary" in loss:
        return
    if outputs[-1] < classes:
        raise UsageError(f"gives {outputs[-1]} outputs, but the data has {classes} classes")


if __name__ == "__main__":
    main()
