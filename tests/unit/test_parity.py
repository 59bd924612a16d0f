"""The loop does what Keras's own `fit` does with the same batches: for any model, optimizer, loss and metric."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_job.data.arrays import Split
from mnist_job.data.weights import weighted
from mnist_job.training import optimizer
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training, Validation
from tests.networks import CLASSES, MODELS, SHAPE, binary, dense, notebook

IMAGES, BATCH, EPOCHS = 200, 16, 16  # 13 steps an epoch, of which the last has 8 images


def as_fit_takes_them(split: Split, batches: ResidentBatches, targets: Callable) -> Iterator[tuple]:
    """The batches of the loop's plans, one epoch after another."""
    for epoch in range(EPOCHS):
        indices, starts, _ = (part.numpy() for part in batches.plan(epoch))
        for start, end in pairwise(starts):
            yield as_arrays(split, targets, indices[start:end])


def as_arrays(split: Split, targets: Callable, chosen=slice(None)) -> tuple:
    weights = () if split.weights is None else (split.weights[chosen],)
    return split.inputs[chosen], np.asarray(targets(split.targets[chosen])), *weights


def fitted(
    network: keras.Model, split: Split, batches: ResidentBatches, targets: Callable, class_weight: dict | None = None
) -> dict[str, list[float]]:
    """Train the model by `fit` with the batches of the loop, validate it on all images, and return its history."""
    signature = tuple(tf.TensorSpec((None, *one.shape[1:]), one.dtype) for one in as_arrays(split, targets, [0]))
    history = network.fit(
        tf.data.Dataset.from_generator(lambda: as_fit_takes_them(split, batches, targets), output_signature=signature),
        class_weight=class_weight,
        steps_per_epoch=batches.steps,
        shuffle=False,
        validation_data=as_arrays(split, targets),
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
    assert_is_fit(random_split(2 if build is binary else CLASSES), build, tolerance)


def weighted_metrics() -> keras.Model:
    network = dense()
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    return network


def squares() -> keras.Model:
    network = dense()
    network.compile("sgd", "mse", metrics=["mae"])
    return network


def rows() -> keras.Model:
    network = dense(last=None, units=2)
    network.compile(keras.optimizers.Adam(1e-2), "huber", metrics=["mae"])
    return network


def test_samples_have_their_weights_in_loss_and_metrics():
    assert_is_fit(replace(random_split(), weights=np.linspace(0, 2, IMAGES, dtype=np.float32)), weighted_metrics)


def test_weights_of_classes_are_those_of_fit():
    assert_is_fit(random_split(), notebook, class_weight={0: 0.5, 2: 3.0})


def test_one_hot_rows_stay_rows_for_a_loss_that_takes_any():
    assert_is_fit(replace(random_split(), one_hot=CLASSES), squares)


def test_rows_of_quantities_and_inputs_of_floats():
    inputs = (random_split().inputs / 255).astype(np.float32)
    assert_is_fit(Split(inputs, inputs[:, 0, :2] - inputs[:, 1, :2]), rows)


def assert_is_fit(split: Split, build: Callable, tolerance: float = 1e-5, class_weight: dict | None = None) -> None:
    keras.utils.set_random_seed(0)
    network = build()
    theirs = keras.models.clone_model(network)
    theirs.set_weights(network.get_weights())
    theirs.compile_from_config(network.get_compile_config())
    model = Compiled(network, 1e-3, split[:4])
    batches = ResidentBatches(weighted(split, class_weight, CLASSES), BATCH, Share(0, 1), seed=0)
    validation = ResidentBatches(split, 64, Share(0, 1))
    strategy = tf.distribute.get_strategy()
    update = optimizer.update(model.optimizer, model.variables)
    training, validating = Training(strategy, model, update, batches), Validation(strategy, model, validation)
    ours = []
    for epoch in range(EPOCHS):
        trained, finite_steps = training.whole(epoch)
        assert finite_steps == batches.steps
        ours.append(trained | {f"val_{name}": value for name, value in validating.whole(0)[0].items()})
    model.optimizer.finalize_variable_values(model.variables)

    history = fitted(theirs, split, batches, model.targets, class_weight)
    for name, values in history.items():
        assert [row[name] for row in ours] == pytest.approx(values, rel=tolerance, abs=tolerance), name
    assert set(ours[0]) == set(history)
    for mine, other in zip(network.get_weights(), theirs.get_weights(), strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert history["loss"][-1] < history["loss"][0]
