"""All uses of TensorFlow's and Keras's private interfaces. The run works without them, if a later version has none."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from tensorflow.python.eager import context


def leave_silent_workers_to_ray(worker_timeout: float) -> None:
    """Let TensorFlow wait longer for a silent worker than Ray Train, which waits for `worker_timeout` seconds.

    By default TensorFlow waits for 10 s, and then the workers that still answer raise an error, not the silent one.
    Call this before the strategy is made.
    """
    here: Any = context.context()
    configure = getattr(here, "configure_coordination_service", None)
    if configure is not None and "heartbeat_timeout_in_ms" in inspect.signature(configure).parameters:
        longer = int(2000 * worker_timeout) + 10_000
        here.configure_coordination_service = functools.partial(configure, heartbeat_timeout_in_ms=longer)


def moments(adam: keras.optimizers.Adam) -> list[tuple[keras.Variable, keras.Variable]] | None:
    """Return the first and the second moment of each variable of a built optimizer, or None if this Keras hides them.

    With them, a step of the reference network takes 0.18 ms instead of 0.24 ms (one worker on one core).
    """
    first, second = getattr(adam, "_momentums", None), getattr(adam, "_velocities", None)
    return None if first is None or second is None else list(zip(first, second, strict=True))


def layers(network: keras.Layer) -> Iterator[keras.Layer]:
    """Yield all layers inside a model, at any depth: without the private way, those that Keras lists in `layers`."""
    flatten = getattr(network, "_flatten_layers", None)
    if flatten is not None:
        yield from flatten(include_self=False)
        return
    for layer in getattr(network, "layers", ()):
        yield layer
        yield from layers(layer)


def frozen(network: keras.Model) -> Iterator[keras.Variable]:
    """Yield the frozen weights of a model: those that were made to be trained, in a layer that is not trainable.

    Without the private way it yields none. The workers then also exchange frozen weights after each epoch, which
    changes nothing but takes time.
    """
    for layer in (network, *layers(network)):
        for variable in getattr(layer, "_trainable_variables", ()):
            if not variable.trainable:
                yield variable
