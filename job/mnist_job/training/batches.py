"""What the training loop asks for its batches, and need not know: where they come from.

Here from a constant on the device. A stream of larger data would be another class with the same members.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_job.data.dataset import Images, Split
from mnist_job.data.npz import ALIGNMENT_BYTES, aligned_empty

Tensor = Any  # TensorFlow ships no types
Plan = tuple[Tensor, Tensor]
WORD_BYTES = 8


@dataclass(frozen=True)
class Share:
    """Which worker this is, of how many."""

    rank: int
    workers: int

    def of(self, batch_size: int) -> int:
        """The images of a global batch that one worker takes; where they do not divide, the last ones take fewer."""
        return -(-batch_size // self.workers)


class ResidentBatches:
    """A split that stays on the device as uint8; a batch is gathered from it by that epoch's order.

    Each global batch is cut into one part for each worker, of equal size: XLA and collectives want fixed shapes. Where
    the batch does not divide the data, or the workers do not divide the batch, the parts are filled up with image 0 at
    weight 0, so every image counts exactly once.
    """

    def __init__(self, split: Split, batch_size: int, share: Share, seed: int | None = None) -> None:
        """`seed` shuffles anew for each epoch; without it the order is that of the data."""
        self._batch_size, self._share, self._seed = batch_size, share, seed
        self._samples = len(split)
        self._image_shape = split.images.shape[1:]
        self._labels = tf.constant(split.labels)
        self._words = on_device(split.images.reshape(self._samples, -1))

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last may be a smaller one."""
        return -(-self._samples // self._batch_size)

    def reached(self, images: float) -> tuple[int, int]:
        """The step of an epoch after which the first worker has had so many images, and how many all have had then."""
        step = math.ceil(images / self._share.of(self._batch_size))
        return step, min(step * self._batch_size, self._samples)

    def plan(self, epoch: int) -> Plan:
        """This worker's part of an epoch: which images (int32, steps x part), with which weights (float32, likewise).

        A weight is 1 / images in the global batch, so weighted losses sum over all workers to the batch's mean loss.
        The order depends on (seed, epoch) alone.
        """
        indices, weights = plan(self._samples, self._batch_size, self._share, self._seed, epoch)
        return tf.constant(indices), tf.constant(weights)

    @property
    def plan_signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """Shapes and types of a plan: the same for each epoch."""
        shape = (self.steps, self._share.of(self._batch_size))
        return tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape, tf.float32)

    def batch(self, plan: Plan, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This worker's part of batch `step`: images (uint8, part x image shape), labels (int32), weights (float32)."""
        indices, weights = plan
        chosen = indices[step]
        pixels = tf.reshape(tf.bitcast(tf.gather(self._words, chosen), tf.uint8), (len(chosen), -1))
        images = tf.reshape(pixels[:, : int(np.prod(self._image_shape))], (-1, *self._image_shape))
        return images, tf.gather(self._labels, chosen), weights[step]


def on_device(pixels: Images) -> Tensor:
    """uint8 rows as rows of int64 words, filled up with zeros, on the device.

    Eight pixels to a word, because TensorFlow has no GPU kernel that gathers uint8: each step would gather on the CPU,
    and copy the data there first. (int32 would stay in the host's memory.) By DLPack, because tf.constant holds the
    data three times while it copies; TensorFlow aborts on an address that is not aligned, so such rows are copied.
    """
    row = pixels.shape[1]
    if row % WORD_BYTES or pixels.ctypes.data % ALIGNMENT_BYTES or not pixels.flags.c_contiguous:
        padded = aligned_empty((len(pixels), -(-row // WORD_BYTES) * WORD_BYTES), np.uint8)
        padded[:, :row] = pixels
        padded[:, row:] = 0
        pixels = padded
    words = tf.experimental.dlpack.from_dlpack(pixels.view(np.int64).__dlpack__())
    if not tf.config.list_logical_devices("GPU"):
        return words
    with tf.device("GPU:0"):
        return tf.identity(words)


def plan(
    samples: int, batch_size: int, share: Share, seed: int | None, epoch: int
) -> tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """`ResidentBatches.plan` in NumPy."""
    order = np.arange(samples) if seed is None else np.random.default_rng((seed, epoch)).permutation(samples)
    steps, part = -(-samples // batch_size), share.of(batch_size)
    slots = np.full(steps * batch_size, -1, np.int32)
    slots[:samples] = order
    by_step = slots.reshape(steps, batch_size)
    in_batch = (by_step >= 0).sum(axis=1, keepdims=True)
    by_step = np.pad(by_step, ((0, 0), (0, part * share.workers - batch_size)), constant_values=-1)
    mine = by_step[:, share.rank * part : (share.rank + 1) * part]
    return np.maximum(mine, 0), np.where(mine >= 0, 1 / in_batch, 0).astype(np.float32)
