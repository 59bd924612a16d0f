"""The batches of the training loop.

`ResidentBatches` keeps all data on the device. A class that streams larger data would have the same members.
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
    """The rank of this worker, and the number of workers."""

    rank: int
    workers: int

    def of(self, batch_size: int) -> int:
        """Return how many images of a global batch a worker takes. The last workers may take fewer."""
        return -(-batch_size // self.workers)


class ResidentBatches:
    """A split whose images stay on the device as uint8. Each batch is gathered from them in the epoch's order.

    Each global batch is divided into parts of equal size, one for each worker: XLA and collectives need fixed shapes.
    A part that has too few images is padded with image 0 at weight 0, so every image counts exactly once.
    """

    def __init__(self, split: Split, batch_size: int, share: Share, seed: int | None = None) -> None:
        """Put the split on the device. With a `seed`, each epoch has another random order; without one, the data's."""
        self._batch_size, self._share, self._seed = batch_size, share, seed
        self._samples = len(split)
        self._image_shape = split.images.shape[1:]
        self._labels = tf.constant(split.labels)
        self._words = on_device(split.images.reshape(self._samples, -1))

    @property
    def steps(self) -> int:
        """The number of batches in an epoch. The last batch may be smaller."""
        return -(-self._samples // self._batch_size)

    def reached(self, images: float) -> tuple[int, int]:
        """Return the step after which the first worker has trained on `images` images of the epoch, and the number of
        images that all workers together have trained on by then.
        """
        step = math.ceil(images / self._share.of(self._batch_size))
        return step, min(step * self._batch_size, self._samples)

    def plan(self, epoch: int) -> Plan:
        """Return this worker's part of an epoch: the indices of its images (int32) and their weights (float32).

        Both have the shape steps x part. A weight is 1 / (images in the global batch), so the sum of the weighted
        losses over all workers is the batch's mean loss. The order depends only on the seed and the epoch.
        """
        indices, weights = plan(self._samples, self._batch_size, self._share, self._seed, epoch)
        return tf.constant(indices), tf.constant(weights)

    @property
    def plan_signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """The shapes and types of a plan. They are the same for each epoch."""
        shape = (self.steps, self._share.of(self._batch_size))
        return tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape, tf.float32)

    def batch(self, plan: Plan, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return this worker's part of batch `step`.

        It has images (uint8, part x image shape), labels (int32) and weights (float32).
        """
        indices, weights = plan
        chosen = indices[step]
        pixels = tf.reshape(tf.bitcast(tf.gather(self._words, chosen), tf.uint8), (len(chosen), -1))
        images = tf.reshape(pixels[:, : int(np.prod(self._image_shape))], (-1, *self._image_shape))
        return images, tf.gather(self._labels, chosen), weights[step]


def on_device(pixels: Images) -> Tensor:
    """Put rows of uint8 on the device, as rows of int64 words that are padded with zeros.

    A word holds eight pixels, because TensorFlow has no GPU kernel that gathers uint8: it would copy the data to the
    CPU at each step and gather there. (TensorFlow keeps int32 in the host's memory.) The transfer uses DLPack, because
    tf.constant needs three times the memory while it copies. TensorFlow aborts if an address is not aligned, so such
    rows are copied first.
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
    """Return the plan of `ResidentBatches.plan` as NumPy arrays."""
    order = np.arange(samples) if seed is None else np.random.default_rng((seed, epoch)).permutation(samples)
    steps, part = -(-samples // batch_size), share.of(batch_size)
    slots = np.full(steps * batch_size, -1, np.int32)
    slots[:samples] = order
    by_step = slots.reshape(steps, batch_size)
    in_batch = (by_step >= 0).sum(axis=1, keepdims=True)
    by_step = np.pad(by_step, ((0, 0), (0, part * share.workers - batch_size)), constant_values=-1)
    mine = by_step[:, share.rank * part : (share.rank + 1) * part]
    return np.maximum(mine, 0), np.where(mine >= 0, 1 / in_batch, 0).astype(np.float32)
