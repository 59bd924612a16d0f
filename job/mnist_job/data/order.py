"""The order of the samples of a data set in shards: a function of the shards, the seed and the epoch alone.

The shards of an epoch are permuted and dealt to a fixed number of streams. In each stream, the rows of `window`
consecutive shards are permuted together. The streams are merged in proportion to their lengths: row k of a stream of n
rows has the place (k + 1/2) / n, and the epoch takes the rows of all streams by their places. (This is the method of
Webster and Sainte-Lague, by which parliaments give out seats.) So each row comes once, all streams end together, and
every batch has rows of every stream in proportion.

Each stream belongs to one worker, which takes the rows of its streams out of each global batch. So a worker reads only
the shards of its streams, and the global batches are the same for any number of workers. MosaicML's StreamingDataset
has such canonical streams, too (streaming/base/shuffle), but repeats rows until all streams have the same length.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

# The random numbers of an epoch of data in memory use the seed (seed, epoch), which NumPy treats as (seed, epoch, 0),
# and those of the validation split (seed, 0, 1).
SHARDS, WINDOW = 2, 3


class Window(NamedTuple):
    """Consecutive rows of a stream, which are permuted together.

    Attributes:
        first: the position in the stream of its first row.
        shards: the numbers of its shards.
        order: the rows of its shards, one after another, in the order in which they are used.

    """

    first: int
    shards: tuple[int, ...]
    order: Rows


class Order:
    """The order of an epoch.

    Attributes:
        rows: the number of rows of each shard.
        streams: the number of streams.
        lengths: the number of rows of each stream.

    """

    def __init__(self, rows: Sequence[int], streams: int, window: int, seed: int | None = None, epoch: int = 0) -> None:
        """Deal the shards, which are at least as many as the streams.

        `window` is the number of shards whose rows are permuted together. Without a `seed`, shards and rows stay in
        their order.
        """
        self.rows, self.streams = rows, streams
        self._window, self._seed, self._epoch = window, seed, epoch
        shards = np.arange(len(rows))
        if seed is not None:
            shards = np.random.default_rng((seed, epoch, SHARDS)).permutation(shards)
        self._shards = [shards[stream::streams].tolist() for stream in range(streams)]
        self.lengths = np.array([sum(rows[shard] for shard in dealt) for dealt in self._shards])

    def of_worker(self, rank: int, workers: int) -> range:
        """Return the streams of a worker. Their numbers differ by one at most."""
        start, stop = (-(-self.streams * number // workers) for number in (rank, rank + 1))
        return range(start, stop)

    def merged(self, start: int, stop: int) -> tuple[Rows, Rows]:
        """Return, for the rows `start` to `stop` of the epoch, the stream and the position in the stream."""
        stream, position, skipped = self._by_place(start, stop)
        chosen = slice(skipped, skipped + stop - start)
        return stream[chosen], position[chosen]

    def reached(self, row: int) -> Rows:
        """Return how many rows of each stream come before this row of the epoch."""
        stream, position, skipped = self._by_place(row, row)
        return np.array(
            [position[skipped:][stream[skipped:] == each].min(initial=n) for each, n in enumerate(self.lengths)]
        )

    def _by_place(self, start: int, stop: int) -> tuple[Rows, Rows, int]:
        """Return more rows than those from `start` to `stop`, by their places, and the number of rows before these."""
        total = self.lengths.sum()
        # No stream is ahead of its proportion, or behind it, by more than this: each one is rounded to the nearest row,
        # so together they are at most half a row for each stream away from the sum that is wanted.
        most = self.streams // 2 + 2
        low = np.maximum(self.lengths * start // total - most, 0)
        high = np.minimum(-(-self.lengths * stop // total) + most, self.lengths)
        sizes = high - low
        stream = np.repeat(np.arange(self.streams), sizes)
        position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(low, sizes)
        by_place = np.argsort((2 * position + 1) / (2 * self.lengths[stream]), kind="stable")
        return stream[by_place], position[by_place], start - int(low.sum())

    def windows(self, stream: int, position: int = 0) -> Iterator[Window]:
        """Yield the windows of a stream, from that with the row at `position` on."""
        shards, first = self._shards[stream], 0
        for number, start in enumerate(range(0, len(shards), self._window)):
            chosen = tuple(shards[start : start + self._window])
            size = sum(self.rows[shard] for shard in chosen)
            if first + size > position:
                order = np.arange(size)
                if self._seed is not None:
                    key = (self._seed, self._epoch, WINDOW, stream, number)
                    order = np.random.default_rng(key).permutation(size)
                yield Window(first, chosen, order)
            first += size
