"""The loop does what Keras's own `fit` does with the same batches: for any model, optimizer, loss and metric."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from mnist_job.data.dataset import Split
from mnist_job.training import loop, optimizer
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled

SHAPE, CLASSES, IMAGES, BATCH, EPOCHS = (8, 8), 3, 200, 16, 16  # 13 steps an epoch, of which the last has 8 images


def dense(*, last: str | None = "softmax", units: int = CLASSES, **options) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(16, activation="relu", **options),
            layers.Dense(units, activation=last),
        ]
    )


def notebook() -> keras.Model:
    network = dense()
    network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return network


def regularized() -> keras.Model:
    network = dense(kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(0.9))
    network.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def convolutional() -> keras.Model:
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Reshape((*SHAPE, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, use_bias=False),  # its gradient would be rounding noise, which Adam scales up
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.0),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def adamw() -> keras.Model:
    network = dense()
    network.compile(
        keras.optimizers.AdamW(1e-2, weight_decay=0.1, global_clipnorm=0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
    )
    return network


def nesterov() -> keras.Model:
    network = dense()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 20, 0.9)
    network.compile(keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True), "kl_divergence", metrics=["accuracy"])
    return network


def averaged() -> keras.Model:
    network = dense()
    network.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9), "sparse_categorical_crossentropy")
    return network


def accumulating() -> keras.Model:
    """In the 13 steps of an epoch it updates the weights three times, and keeps a gradient for the next epoch."""
    network = dense()
    network.compile(keras.optimizers.Adam(1e-2, gradient_accumulation_steps=4), "sparse_categorical_crossentropy")
    return network


def scaled() -> keras.Model:
    network = dense()
    network.compile(keras.optimizers.SGD(1e-1, loss_scale_factor=1024.0), "sparse_categorical_crossentropy")
    return network


def binary() -> keras.Model:
    network = dense(last="sigmoid", units=1)
    network.compile("rmsprop", "binary_crossentropy", metrics=["accuracy", "auc"])
    return network


def from_logits() -> keras.Model:
    network = dense(last=None)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return network


def regression() -> keras.Model:
    network = dense(last=None, units=1)
    network.compile("adam", "mse", metrics=["mae"])
    return network


def half(policy: str) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    try:
        network = dense()
        # With float16, Keras adds the scaling of the loss here.
        network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    finally:
        keras.config.set_dtype_policy("float32")
    return network


def bfloat16() -> keras.Model:
    return half("mixed_bfloat16")


def float16() -> keras.Model:
    return half("mixed_float16")


def as_fit_takes_them(split: Split, batches: ResidentBatches, targets: Callable) -> Iterator[tuple]:
    """The batches of the loop's plans, one epoch after another."""
    for epoch in range(EPOCHS):
        indices, starts, _ = (part.numpy() for part in batches.plan(epoch))
        for start, end in pairwise(starts):
            chosen = indices[start:end]
            yield split.images[chosen], np.asarray(targets(split.labels[chosen]))


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, *SHAPE), dtype=np.uint8)
    return Split(images, (images.reshape(IMAGES, -1)[:, :3].argmax(axis=1)).astype(np.int32))


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        (notebook, 1e-5),
        (regularized, 1e-5),
        (convolutional, 1e-5),
        (adamw, 1e-5),
        (nesterov, 1e-5),
        (averaged, 1e-5),
        (accumulating, 1e-5),
        (scaled, 1e-5),
        (binary, 1e-5),
        (from_logits, 1e-5),
        (regression, 1e-5),
        (bfloat16, 2e-2),
        (float16, 2e-2),
    ],
)
def test_the_loop_is_fit(split, build, tolerance):
    """208 steps: losses, metrics and final weights."""
    if build is binary:
        split = Split(split.images, split.labels % 2)
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
        trained, finite_steps = train(batches.plan(epoch))
        assert finite_steps == batches.steps
        ours.append(trained | {f"val_{name}": value for name, value in validate(validation.plan(0)).items()})
    model.optimizer.finalize_variable_values(model.variables)

    held_out = (split.images, np.asarray(model.targets(split.labels)))
    history = theirs.fit(
        as_fit_takes_them(split, batches, model.targets),
        steps_per_epoch=batches.steps,
        shuffle=False,
        validation_data=held_out,
        validation_batch_size=64,
        epochs=EPOCHS,
        verbose=0,
    ).history
    for name, values in history.items():
        assert [float(row[name]) for row in ours] == pytest.approx(values, rel=tolerance, abs=tolerance), name
    assert set(ours[0]) == set(history)
    for mine, other in zip(network.get_weights(), theirs.get_weights(), strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)
    assert history["loss"][-1] < history["loss"][0]
