"""Compiled models as notebooks have them: one for each kind of loss, optimizer and metric that `fit` is compared by."""

import keras
from keras import layers

SHAPE, CLASSES = (8, 8), 3


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


MODELS = (
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
    (bfloat16, 3e-2),
    (float16, 2e-2),
)
"""Each model, with the relative difference from `fit` that its precision allows."""

STATEFUL = """
import keras
from keras import layers

def model(classes, rate=0.25, averages=False):
    network = keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Reshape((8, 8, 1)),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(rate),
        layers.Dense(classes),
    ])
    network.compile(
        keras.optimizers.AdamW(0.002, global_clipnorm=1.0, use_ema=averages, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3, name="top3")],
    )
    return network
"""
"""A notebook with all that has a state: augmentation, batch statistics, noise, an optimizer and metrics."""
