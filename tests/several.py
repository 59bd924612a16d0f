"""A worker of a training without Ray: it trains each case that it is asked for, and prints what came of it as JSON.

    TF_CONFIG=... python -m tests.several CASE CASE ... > RESULTS

The first worker prints its results, and every other its own. Without TF_CONFIG it is the only worker.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from mnist_job.data.arrays import Split
from mnist_job.training import optimizer
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training

SHAPE, CLASSES, BATCH, EPOCHS, SEED = (6, 6), 3, 8, 2, 1
UNEVEN, EVEN = 41, 40  # images: the last batch has one image, for one worker only; or each is whole
GONE, BAD_STEP = 2, 4  # the class with an infinite loss, and the step with the only image of it


@keras.saving.register_keras_serializable()
class Follower(layers.Layer):
    """A layer with states of its own: a moving mean of its input, and how often it was called with how many images."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.mean = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False)
        self.seen = self.add_weight(shape=(2,), initializer="zeros", dtype="int32", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(0.8 * self.mean + 0.2 * keras.ops.mean(x, axis=0))
            self.seen.assign_add(keras.ops.stack([1, keras.ops.shape(x)[0]]))
        return x - self.mean


def dense(*between: layers.Layer) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(8, use_bias=False),
            *between,
            layers.ReLU(),
            layers.Dense(CLASSES, activation="softmax", dtype="float32"),
        ]
    )


def compiled(network: keras.Model, optimizer: Any) -> keras.Model:
    network.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def half(policy: str) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    try:
        return compiled(dense(), keras.optimizers.SGD(0.1))
    finally:
        keras.config.set_dtype_policy("float32")


def gone() -> keras.Model:
    """Its loss of the class GONE is infinite."""
    network = dense()

    def loss(labels: Any, answers: Any) -> Any:
        usual = keras.losses.sparse_categorical_crossentropy(labels, answers)
        return usual / (1 - keras.ops.cast(keras.ops.equal(labels, GONE), usual.dtype))

    network.compile(keras.optimizers.SGD(0.1), loss)
    return network


def still() -> keras.Model:
    """Its weights stay as they are. So a moving mean of all parts is that of the whole batches."""
    return compiled(dense(layers.BatchNormalization(), Follower()), keras.optimizers.SGD(0.0))


def accumulating() -> keras.Model:
    return compiled(dense(), keras.optimizers.Adam(0.01, gradient_accumulation_steps=4, loss_scale_factor=64.0))


def normalized() -> keras.Model:
    return compiled(dense(layers.BatchNormalization()), keras.optimizers.SGD(0.1))


def noisy() -> keras.Model:
    return compiled(dense(layers.BatchNormalization(), layers.Dropout(0.5)), keras.optimizers.SGD(0.1))


def forget(network: keras.Model, rank: int) -> None:
    """Change what the workers do not share, as it is in a process that has just started."""
    for variable in network.variables:
        if not variable.trainable:
            variable.assign(keras.ops.ones_like(variable) * (rank + 2))


class Case(NamedTuple):
    """A model, with synchronized statistics or not, the number of its images, and a step after which each epoch is left
    and continued, as a resumed run does. With `another`, the checkpoint has a worker more, which had no image yet.
    """

    build: Callable[[], keras.Model]
    synchronized: bool = True
    images: int = UNEVEN
    pause: int = 0
    another: bool = False


CASES = {
    "synchronized": Case(normalized),
    "per-worker": Case(normalized, synchronized=False),
    "noisy": Case(noisy, synchronized=False),
    "paused": Case(noisy, synchronized=False, pause=3),
    "still": Case(still, synchronized=False, images=EVEN),
    "joined": Case(still, synchronized=False, images=EVEN, pause=3, another=True),
    "accumulating": Case(accumulating),
    "float16": Case(lambda: half("mixed_float16")),
    "gone": Case(gone),
}


def data(name: str) -> Split:
    images = np.random.default_rng(4).integers(0, 256, (CASES[name].images, *SHAPE), dtype=np.uint8)
    labels = images.reshape(len(images), -1)[:, :CLASSES].argmax(axis=1).astype(np.int32)
    if name == "gone":
        labels %= GONE
        # In the first epoch's order this is the sixth image of the batch: the second of two workers has it.
        labels[np.random.default_rng((SEED, 0)).permutation(len(images))[(BAD_STEP - 1) * BATCH + 5]] = GONE
    return Split(images, labels)


def trained(name: str, strategy: tf.distribute.Strategy, share: Share) -> dict[str, Any]:
    """Train the case, as the loop does."""
    split, case = data(name), CASES[name]
    keras.utils.set_random_seed(0)
    network = case.build()
    synchronized = case.synchronized and share.workers > 1
    model = Compiled(network, 1e-3, split[:4], synchronized=synchronized)
    batches = ResidentBatches(split, BATCH, share, seed=SEED)
    update = optimizer.update(model.optimizer, model.variables)
    training = Training(strategy, model, update, batches)
    losses, finite = [], []
    for epoch in range(EPOCHS):
        model.reseed(SEED, epoch, share.rank)
        if case.pause:
            training.begin()
            training.advance(batches.plan(epoch), 0, case.pause)
            values = training.values()
            if case.another:
                values = [np.concatenate([rows, rows[-1:]]) for rows in values]
                values[0][-1] = 0  # its sums
            forget(network, share.rank)
            training.begin()
            training.restore(values)
            training.advance(batches.plan(epoch), case.pause, batches.steps)
            metrics, steps = training.end()
        else:
            metrics, steps = training.whole(epoch)
        losses.append(repr(metrics["loss"]))
        finite.append(steps)
    weights = [np.asarray(weight) for weight in network.get_weights()]
    states = [np.asarray(weight).tolist() for weight in network.non_trainable_weights]
    bits = hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()
    scale = [float(model.optimizer.dynamic_scale)] if hasattr(model.optimizer, "dynamic_scale") else []
    return {
        "losses": losses,
        "finite_steps": finite,
        "states": states,
        "weights": [np.asarray(weight, np.float32).ravel().tolist() for weight in network.trainable_weights],
        "bits": bits,
        "scale": scale,
    }


def main() -> None:
    cluster = json.loads(os.environ.get("TF_CONFIG", "null"))
    if cluster is None:
        strategy, share = tf.distribute.get_strategy(), Share(0, 1)
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        share = Share(cluster["task"]["index"], len(cluster["cluster"]["worker"]))
    print(json.dumps({name: trained(name, strategy, share) for name in sys.argv[1:]}))


if __name__ == "__main__":
    main()
