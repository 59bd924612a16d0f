"""Train as the notebook does, with only JAX: one compiled `lax.scan` for each epoch, and our own code for Adam.

This is the lower bound of the times. `python -m ops.benchmark.bare_jax MNIST.npz` prints its result as JSON. It saves
nothing.
"""

import itertools
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BATCH, EPOCHS, RATE = 32, 10, 1e-3
UNITS = (784, 128, 64, 10)


def network(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Return the weights and biases of each layer, initialized as in Keras (Glorot uniform, zeros)."""
    initial = jax.nn.initializers.glorot_uniform()
    shapes = list(itertools.pairwise(UNITS))
    keys = jax.random.split(key, len(shapes))
    return [(initial(one, shape), jnp.zeros(shape[1])) for one, shape in zip(keys, shapes, strict=True)]


def measured(layers: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy, and the share of the images that are classified correctly."""
    for weights, biases in layers[:-1]:
        images = jax.nn.relu(images @ weights + biases)
    scores = images @ layers[-1][0] + layers[-1][1]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
    return losses.mean(), (scores.argmax(axis=1) == labels).mean()


def step(state: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """Do one step of Adam with the constants of Keras."""
    layers, mean, square, count = state
    figures, gradients = jax.value_and_grad(measured, has_aux=True)(layers, *batch)
    count += 1
    rate = RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    mean = jax.tree.map(lambda m, g: m + 0.1 * (g - m), mean, gradients)
    square = jax.tree.map(lambda s, g: s + 0.001 * (g * g - s), square, gradients)
    layers = jax.tree.map(lambda w, m, s: w - rate * m / (jnp.sqrt(s) + 1e-7), layers, mean, square)
    return (layers, mean, square, count), figures


@jax.jit  # type: ignore[untyped-decorator]
def epoch(state: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
    """Train with every image once, in a random order that `key` determines. Return the new state and the mean loss."""
    order = jax.random.permutation(key, len(images)).reshape(-1, BATCH)
    state, (losses, _) = jax.lax.scan(lambda state, at: step(state, (images[at], labels[at])), state, order)
    return state, losses.mean()


def main(data: str) -> None:
    with np.load(data) as arrays:
        x_train, x_test = (
            jnp.asarray(arrays[f"x_{part}"].reshape(-1, 784) / np.float32(255)) for part in ("train", "test")
        )
        y_train, y_test = (jnp.asarray(arrays[f"y_{part}"], jnp.int32) for part in ("train", "test"))
    at = len(x_train) * 4 // 5 // BATCH * BATCH
    training, validation = (x_train[:at], y_train[:at]), (x_train[at:], y_train[at:])
    validate = jax.jit(measured)
    key, drawn = jax.random.split(jax.random.key(0))
    layers = network(drawn)
    zeros = jax.tree.map(jnp.zeros_like, layers)
    state = (layers, zeros, zeros, jnp.zeros(()))
    jax.block_until_ready((training, validation, state))

    started = time.perf_counter()
    for _ in range(EPOCHS):
        key, drawn = jax.random.split(key)
        state, loss = epoch(state, drawn, *training)
        figures = validate(state[0], *validation)
        jax.block_until_ready((loss, figures))
    seconds = time.perf_counter() - started
    loss, accuracy = validate(state[0], x_test, y_test)
    print(json.dumps({"training": seconds, "accuracy": float(accuracy), "loss": float(loss)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
