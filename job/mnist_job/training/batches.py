"""The batches of the training loop.

`ResidentBatches` keeps all data on the device. `streamed.StreamedBatches` reads data that are larger than memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_job.data.arrays import Inputs, Split
from mnist_job.data.npz import ALIGNMENT_BYTES, WORD_BYTES, aligned_empty

Tensor = Any  # TensorFlow ships no types
Plan = tuple[Tensor, ...]


class Batch(NamedTuple):
    """A worker's part of a batch.

    Attributes:
        inputs: part x ..., of the type that the data have.
        targets: int32 part class numbers, or float32 part or part x K.
        weights: float32 part, the weights of the samples in the loss, or None.
        share: float32, the part's share of the samples of the whole batch.

    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None
    share: Tensor


@dataclass(frozen=True)
class Share:
    """The rank of this worker, and the number of workers."""

    rank: int
    workers: int

    def start(self, images: int) -> int:
        """Return where this worker's part of a batch of so many images starts."""
        return -(-images * self.rank // self.workers)

    def of(self, images: int) -> int:
        """Return how many images of such a batch this worker takes. The sizes of the parts differ by one at most."""
        return Share(self.rank + 1, self.workers).start(images) - self.start(images)


class Piece(NamedTuple):
    """Some consecutive batches of a pass: from the step `first` up to, and without, `last`."""

    plan: Plan
    first: int
    last: int


class Batches(Protocol):
    """The batches of a pass over a part of the data."""

    share: Share

    @property
    def steps(self) -> int:
        """The number of batches in an epoch. The last batch may be smaller."""

    @property
    def has_empty_parts(self) -> bool:
        """Whether this worker's part of a batch may be empty. If it may for one worker, then for all."""

    def reached(self, images: float, first: int) -> tuple[int, int]:
        """Return about the step after which this worker has trained on `images` images since the step `first`, and the
        number of images that all workers together have trained on since then.
        """

    def pieces(self, epoch: int, first: int = 0) -> Iterator[Piece]:
        """Yield the pieces of an epoch, from that with the step `first` on. All workers get the same steps."""

    @property
    def plan_signature(self) -> tuple[tf.TensorSpec, ...]:
        """The shapes and types of a piece's plan. They are the same for each piece."""

    def batch(self, plan: Plan, step: Tensor) -> Batch:
        """Return this worker's part of a batch, by its number in the piece."""


class ResidentBatches:
    """A split whose inputs stay on the device in their own type. Each batch is gathered from them in the epoch's order.

    Each global batch is divided into a part for each worker. There is no padding, which would change the statistics of
    a layer like BatchNormalization. So a part may be smaller than those of the other workers, or empty.
    """

    def __init__(self, split: Split, batch_size: int, share: Share, seed: int | None = None) -> None:
        """Put the split on the device. With a `seed`, each epoch has another random order; without one, the data's."""
        self._batch_size, self.share, self._seed = batch_size, share, seed
        self._samples = len(split)
        self._shape, self._dtype = split.inputs.shape[1:], split.inputs.dtype
        self._targets = tf.constant(split.targets)
        self._weights = None if split.weights is None else tf.constant(split.weights)
        self._words = on_device(split.inputs.reshape(self._samples, -1))

    @property
    def steps(self) -> int:
        """The number of batches in an epoch. The last batch may be smaller."""
        return -(-self._samples // self._batch_size)

    @property
    def has_empty_parts(self) -> bool:
        """Whether the last batch has fewer images than there are workers, so that some of them get none."""
        return 0 < self._samples % self._batch_size < self.share.workers

    def reached(self, images: float, first: int) -> tuple[int, int]:
        """Return the step after which the first worker has trained on `images` images since the step `first`, and the
        number of images that all workers together have trained on since then.
        """
        step = first + math.ceil(images / self.share.of(self._batch_size))
        return step, min(step * self._batch_size, self._samples) - first * self._batch_size

    def pieces(self, epoch: int, first: int = 0) -> Iterator[Piece]:  # noqa: ARG002 it has every step
        """Yield the whole epoch as one piece."""
        yield Piece(self.plan(epoch), 0, self.steps)

    def plan(self, epoch: int) -> Plan:
        """Return this worker's part of an epoch: the indices of its images (int32) in their order, where each step's
        part starts in them (int32, steps + 1), and the part's share of the images of its batch (float32, steps).

        The order depends only on the seed and the epoch.
        """
        indices, starts, shares = plan(self._samples, self._batch_size, self.share, self._seed, epoch)
        return tf.constant(indices), tf.constant(starts), tf.constant(shares)

    @property
    def plan_signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec, tf.TensorSpec]:
        """The shapes and types of a plan. They are the same for each epoch."""
        return (
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((self.steps + 1,), tf.int32),
            tf.TensorSpec((self.steps,), tf.float32),
        )

    def batch(self, plan: Plan, step: Tensor) -> Batch:
        """Return this worker's part of batch `step`."""
        indices, starts, shares = plan
        chosen = indices[starts[step] : starts[step + 1]]
        inputs = from_words(tf.gather(self._words, chosen), self._shape, self._dtype)
        weights = None if self._weights is None else tf.gather(self._weights, chosen)
        return Batch(inputs, tf.gather(self._targets, chosen), weights, shares[step])


def from_words(words: Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """Return rows of `on_device` as inputs of this shape and type."""
    size = dtype.itemsize
    row = tf.reshape(tf.bitcast(words, tf.uint8), (-1, words.shape[1] * WORD_BYTES))
    inputs = tf.reshape(row[:, : math.prod(shape) * size], (-1, *shape, *([size] if size > 1 else [])))
    return inputs if dtype == np.uint8 else tf.bitcast(inputs, dtype)


def on_device(rows: Inputs) -> Tensor:
    """Put rows of numbers (samples x numbers) on the device, as rows of int64 words that are padded with zeros.

    A word holds eight pixels, because TensorFlow has no GPU kernel that gathers uint8: it would copy the data to the
    CPU at each step and gather there. (TensorFlow keeps int32 in the host's memory.) The transfer uses DLPack, because
    tf.constant needs three times the memory while it copies. TensorFlow aborts if an address is not aligned, so such
    rows are copied first.
    """
    pixels = np.ascontiguousarray(rows).view(np.uint8)
    row = pixels.shape[1]
    if row % WORD_BYTES or pixels.ctypes.data % ALIGNMENT_BYTES:
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
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the plan of `ResidentBatches.plan` as NumPy arrays."""
    order = np.arange(samples) if seed is None else np.random.default_rng((seed, epoch)).permutation(samples)
    batches = np.arange(0, samples, batch_size)
    sizes = np.minimum(samples - batches, batch_size)
    starts = batches + np.array([share.start(int(size)) for size in sizes])
    parts = np.array([share.of(int(size)) for size in sizes])
    mine = [order[start : start + part] for start, part in zip(starts, parts, strict=True)]
    return (
        np.concatenate(mine).astype(np.int32),
        np.concatenate([[0], np.cumsum(parts)]).astype(np.int32),
        (parts / sizes).astype(np.float32),
    )
