"""A part of a prepared data set that is trained on without being in memory as a whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.data.shards import Prepared
from mnist_job.data.stream import Piece, Reader

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

    def reader(self, batch_size: int, rank: int, workers: int) -> Reader:
        """Return the reader of a worker."""
        return Reader(self.prepared, self.part, batch_size, self.streams, WINDOW, rank, workers)

    def weights_of(self, piece: Piece) -> npt.NDArray[np.float32]:
        """Return the weights of samples: their own, multiplied by those of their classes."""
        own: Any = 1.0 if piece.weights is None else piece.weights
        classes: Any = 1.0 if self.class_weights is None else self.class_weights[piece.targets]
        return np.asarray(own * classes, np.float32)
