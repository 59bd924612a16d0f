"""The states of layers, which no gradient updates: the same on all workers after each epoch.

Each worker's layers see its own parts of the batches. So the moving statistics of a layer differ between the workers,
unless the layer exchanges them itself, as a synchronized BatchNormalization does. What is validated, saved and resumed
is one state, to which all workers have contributed.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mnist_job.training import private
from mnist_job.training.batches import Tensor
from mnist_job.training.compiled import added_up


def of(network: keras.Model) -> list[keras.Variable]:
    """Return the states in a built model: its weights that are not for training. Frozen weights are not among them.

    The states of random layers and of metrics are none of its weights.
    """
    frozen = {id(variable) for variable in private.frozen(network)}
    return [variable for variable in network.non_trainable_weights if id(variable) not in frozen]


def agree(strategy: tf.distribute.Strategy, states: Sequence[keras.Variable], images: Tensor) -> None:
    """Give all workers the same states. Call it in a compiled function.

    `images` is the number of images (float64) that this worker has trained on since the last time. A state of floats
    becomes the mean over the workers, weighted by them. This is what makes the moving mean that of the global batch:
    the mean of a batch is that of the means of its parts, weighted in this way. The sums are float64. So a float32 that
    is equal on all workers keeps its bits. Any other state, like a counter, becomes that of the first worker.
    """
    floats = [state for state in states if keras.backend.is_float_dtype(state.dtype)]
    others = [state for state in states if not keras.backend.is_float_dtype(state.dtype)]
    if floats:
        total, *sums = added_up(strategy, [images, *(tf.cast(state.value, tf.float64) * images for state in floats)])
        for state, found in zip(floats, sums, strict=True):
            state.assign(tf.cast(found / total, state.dtype))
    if others:
        _become_those_of_the_first(strategy, others)


def _become_those_of_the_first(strategy: tf.distribute.Strategy, states: Sequence[keras.Variable]) -> None:
    flat = tf.concat([tf.reshape(tf.cast(state.value, tf.int64), [-1]) for state in states], axis=0)

    def everywhere(mine: Tensor) -> Tensor:
        replica = tf.distribute.get_replica_context()
        is_first = tf.equal(replica.replica_id_in_sync_group, 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, mine, tf.zeros_like(mine)))

    found = tf.split(strategy.run(everywhere, args=(flat,)), [state.value.shape.num_elements() for state in states])
    for state, one in zip(states, found, strict=True):
        state.assign(tf.cast(tf.reshape(one, state.shape), state.dtype))


def of_the_part(network: keras.Model, synchronized: Sequence[keras.Layer]) -> list[keras.Variable]:
    """Return the states that see this worker's part of a batch only: all but those of the synchronized layers."""
    others = {id(variable) for layer in synchronized for variable in layer.weights}
    return [state for state in of(network) if id(state) not in others]


def undo(states: Sequence[keras.Variable], before: Sequence[Tensor], images: Tensor) -> None:
    """Give the states their values from `before` if there are no images: the statistics of nothing are NaN."""
    for state, value in zip(states, before, strict=True):
        state.assign(tf.where(images > 0, state.value, value))


def gradients(found: Sequence[Tensor], images: Tensor) -> list[Tensor]:
    """Return these gradients, or zeros if there are no images: those of a layer with statistics of nothing are NaN."""
    dense = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]
    return [None if gradient is None else tf.where(images > 0, gradient, tf.zeros_like(gradient)) for gradient in dense]
