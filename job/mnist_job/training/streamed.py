"""The batches of a prepared data set, of which each worker reads its share while it trains."""

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mnist_job.data.arrays import Split
from mnist_job.data.streamed_part import StreamedPart
from mnist_job.training.batches import (
    Batch,
    Batches,
    Piece,
    Plan,
    ResidentBatches,
    Share,
    Tensor,
    from_words,
    on_device,
)


def batches(data: Split | StreamedPart, batch_size: int, share: Share, seed: int | None = None) -> Batches:
    """Return the batches of data in memory, or of those that are read as they are needed.

    With a `seed`, each epoch has another random order; without one, the order of the data.
    """
    if isinstance(data, Split):
        return ResidentBatches(data, batch_size, share, seed)
    return StreamedBatches(data, batch_size, share, seed)


class StreamedBatches:
    """Batches whose samples come from shards. A piece of them is on the device at a time."""

    def __init__(self, data: StreamedPart, batch_size: int, share: Share, seed: int | None = None) -> None:
        """Read nothing yet."""
        self.share, self._seed, self._data = share, seed, data
        self._reader = data.reader(batch_size, share.rank, share.workers)
        self._form = data.prepared.manifest.form
        self._dtype = np.dtype(self._form.dtype)
        self._has_weights = self._form.has_weights or data.class_weights is not None

    @property
    def steps(self) -> int:
        """The number of batches in an epoch. The last batch may be smaller."""
        return self._reader.steps

    @property
    def has_empty_parts(self) -> bool:
        """Whether a worker's part of a batch may be empty."""
        return self.share.workers > 1 and not self._reader.has_samples_in_each_batch

    def reached(self, images: float, first: int) -> tuple[int, int]:
        """Return about the step after which this worker has trained on `images` images since the step `first`, and the
        number of images that all workers together have trained on since then.
        """
        batch_size, samples = self._reader.batch_size, self._reader.samples
        step = min(first + math.ceil(images * self.share.workers / batch_size), self.steps)
        return step, min(step * batch_size, samples) - first * batch_size

    def pieces(self, epoch: int, first: int = 0) -> Iterator[Piece]:
        """Yield the pieces of an epoch from the step `first` on. Raises DataError."""
        for chunk in self._reader.chunks(self._seed, epoch, first):
            plan = [on_device(chunk.inputs), tf.constant(chunk.targets)]
            if self._has_weights:
                plan.append(tf.constant(self._data.weights_of(chunk)))
            plan += [tf.constant(chunk.starts), tf.constant(chunk.shares)]
            yield Piece(tuple(plan), chunk.first, chunk.first + chunk.steps)

    @property
    def plan_signature(self) -> tuple[tf.TensorSpec, ...]:
        """The shapes and types of a piece: the inputs as words, the targets, perhaps the weights, starts and shares."""
        return (
            tf.TensorSpec((None, self._form.words), tf.int64),
            tf.TensorSpec((None, *self._form.targets), self._form.target_dtype),
            *([tf.TensorSpec((None,), tf.float32)] if self._has_weights else []),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None,), tf.float32),
        )

    def batch(self, plan: Plan, step: Tensor) -> Batch:
        """Return this worker's part of a batch, by its number in the piece."""
        words, targets, *weights, starts, shares = plan
        mine = slice(starts[step], starts[step + 1])
        inputs = from_words(words[mine], self._form.shape, self._dtype)
        return Batch(inputs, targets[mine], weights[0][mine] if weights else None, shares[step])
