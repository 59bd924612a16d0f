"""The loop does what Keras's own `fit` does with the same batches: for any model, optimizer, loss and metric."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_job.data.dataset import Split
from mnist_job.training import loop, optimizer
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled
from tests.networks import CLASSES, MODELS, SHAPE, binary

IMAGES, BATCH, EPOCHS = 200, 16, 16  # 13 steps an epoch, of which the last has 8 images


def as_fit_takes_them(split: Split, batches: ResidentBatches, targets: Callable) -> Iterator[tuple]:
    """The batches of the loop's plans, one epoch after another."""
    for epoch in range(EPOCHS):
        indices, starts, _ = (part.numpy() for part in batches.plan(epoch))
        for start, end in pairwise(starts):
            chosen = indices[start:end]
            yield split.images[chosen], np.asarray(targets(split.labels[chosen]))


def fitted(network: keras.Model, split: Split, batches: ResidentBatches, targets: Callable) -> dict[str, list[float]]:
    """Train the model by `fit` with the batches of the loop, validate it on all images, and return its history."""
    history = network.fit(
        as_fit_takes_them(split, batches, targets),
        steps_per_epoch=batches.steps,
        shuffle=False,
        validation_data=(split.images, np.asarray(targets(split.labels))),
        validation_batch_size=64,
        epochs=EPOCHS,
        verbose=0,
    ).history
    return dict(history)


def random_split(classes: int = CLASSES) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, *SHAPE), dtype=np.uint8)
    return Split(images, (images.reshape(IMAGES, -1)[:, :CLASSES].argmax(axis=1) % classes).astype(np.int32))


@pytest.mark.parametrize(("build", "tolerance"), MODELS)
def test_the_loop_is_fit(build, tolerance):
    """208 steps: losses, metrics and final weights."""
    split = random_split(2 if build is binary else CLASSES)
    keras.utils.set_random_seed(0)
    network = build()
    theirs = keras.models.clone_model(network)
    theirs.set_weights(network.get_weights())
    theirs.compile_from_config(network.get_compile_config())
    model = Compiled(network, 1e-3, split.images[:4], split.labels[:4])
    batches = ResidentBatches(split, BATCH, Share(0, 1), seed=0)
    validation = ResidentBatches(split, 64, Share(0, 1))
    strategy = tf.distribute.get_strategy()
    update = optimizer.update(model.optimizer, model.variables)
    train = loop.compiled_training(strategy, model, update, batches, tf.Variable(tf.zeros(3, tf.float64)))
    validate = loop.compiled_validation(strategy, model, validation)
    ours = []
    for epoch in range(EPOCHS):
        trained = train(batches.plan(epoch))
        ours.append(trained | {f"val_{name}": value for name, value in validate(validation.plan(0)).items()})
    model.optimizer.finalize_variable_values(model.variables)

    history = fitted(theirs, split, batches, model.targets)
    for name, values in history.items():
        assert [float(row[name]) for row in ours] == pytest.approx(values, rel=tolerance, abs=tolerance), name
    assert set(ours[0]) == set(history)
    for mine, other in zip(network.get_weights(), theirs.get_weights(), strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert history["loss"][-1] < history["loss"][0]
