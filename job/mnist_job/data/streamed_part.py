"""A part of a prepared data set, whose samples are read when they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.data.arrays import Split
from mnist_job.data.manifest import Shard
from mnist_job.data.order import Rows
from mnist_job.data.shards import Prepared
from mnist_job.data.stream import Chunk, Reader, ahead

STREAMS = 24  # divisible by 2, 3, 4, 6, 8 and 12 workers, which then get the same number of streams
WINDOW = 1  # the rows of a shard are permuted; a batch has rows of 24 shards, which lie in random order


@dataclass(frozen=True)
class StreamedPart:
    """A part of a prepared data set.

    Attributes:
        prepared: the data set.
        part: the name of the part.
        class_weights: the weight of each class in the loss, or None.

    """

    prepared: Prepared
    part: str
    class_weights: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return self.prepared.manifest.samples(self.part)

    @property
    def streams(self) -> int:
        """The number of streams, and so of the most workers that can read it."""
        return min(STREAMS, len(self.prepared.manifest.parts[self.part]))

    @property
    def has_classes(self) -> bool:
        """Whether the targets are class numbers."""
        return self.prepared.manifest.form.has_classes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's inputs."""
        return self.prepared.manifest.form.shape

    @property
    def sizes(self) -> Sequence[int]:
        """The number of samples of each shard."""
        return [shard.rows for shard in self._shards]

    def pieces(self) -> Iterator[Split]:
        """Yield the shards in their order. The next one is read while one is in use. Raises DataError."""
        return ahead(map(self.prepared.read, self._shards))

    def inputs_of(self, rows: Rows) -> npt.NDArray[Any]:
        """Return the inputs of a few samples, by their numbers. Reads the shards that have them. Raises DataError."""
        firsts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        numbers = np.searchsorted(firsts, rows, side="right") - 1
        form = self.prepared.manifest.form
        found = np.empty((len(rows), *form.shape), form.dtype)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self.prepared.read(self._shards[number]).inputs[rows[here] - firsts[number]]
        return found

    @property
    def _shards(self) -> tuple[Shard, ...]:
        return self.prepared.manifest.parts[self.part]

    def reader(self, batch_size: int, rank: int, workers: int) -> Reader:
        """Return the reader of a worker."""
        return Reader(self.prepared, self.part, batch_size, self.streams, WINDOW, rank, workers)

    def weights_of(self, chunk: Chunk) -> npt.NDArray[np.float32]:
        """Return the weights of samples: their own, multiplied by those of their classes."""
        own: Any = 1.0 if chunk.weights is None else chunk.weights
        classes: Any = 1.0 if self.class_weights is None else self.class_weights[chunk.targets]
        return np.asarray(own * classes, np.float32)
