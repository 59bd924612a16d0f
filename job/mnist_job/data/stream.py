"""Read a worker's samples of a prepared data set, ahead of the training.

Memory: for each stream of the worker, the window in use and the next one are held as arrays. Then there is the chunk in
use, the next one, and the one after it that is being put together. With shards of 8 MiB, a window of one shard, 24
streams and two workers, these are at most 24 / 2 * 2 * 8 = 192 MiB for the windows, and three times CHUNK_BYTES.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mnist_job.data.arrays import Split, Targets, Weights
from mnist_job.data.manifest import Shard
from mnist_job.data.npz import WORD_BYTES, aligned_empty
from mnist_job.data.order import Order, Rows, Window
from mnist_job.data.shards import Prepared, joined

CHUNK_BYTES = 16 << 20
READERS = 4  # threads that read shards: several requests to an object store wait at the same time

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """A worker's samples of some consecutive batches, one batch after another.

    Attributes:
        first: the step of the first batch in the epoch.
        inputs: uint8 samples x bytes: each row has the bytes of a sample, padded to whole words.
        targets: as in `Split`.
        weights: as in `Split`.
        starts: int32 steps + 1, where each batch's samples start.
        shares: float32 steps, the part of each global batch that these samples are.

    """

    first: int
    inputs: npt.NDArray[np.uint8]
    targets: Targets
    weights: Weights | None
    starts: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]

    @property
    def steps(self) -> int:
        """The number of batches."""
        return len(self.shares)


@dataclass(frozen=True)
class Reader:
    """Reads a part of a prepared data set for one of several workers.

    Attributes:
        data: the data set.
        part: `train`, `val` or `test`.
        batch_size: the number of samples of a global batch.
        streams: the number of streams of the order, at most that of the shards.
        window: the number of shards whose rows are permuted together.
        rank: the number of this worker, from 0.
        workers: how many workers there are, at most as many as streams.

    """

    data: Prepared
    part: str
    batch_size: int
    streams: int
    window: int
    rank: int
    workers: int

    @property
    def samples(self) -> int:
        """The number of samples of the part, over all workers."""
        return self.data.manifest.samples(self.part)

    @property
    def steps(self) -> int:
        """The number of global batches. The last one may be smaller."""
        return -(-self.samples // self.batch_size)

    @property
    def has_samples_in_each_batch(self) -> bool:
        """Whether each worker surely has a sample in each batch."""
        rows = [shard.rows for shard in self.data.manifest.parts[self.part]]
        streams = self.streams // self.workers  # of the worker with the fewest
        least = streams * (len(rows) // self.streams) * max(rows) - max(rows)  # one of them may be the short one
        smallest = self.samples % self.batch_size or self.batch_size
        # No stretch of an epoch has fewer rows of a stream than in proportion, less two.
        return smallest * least / self.samples > 2 * streams

    @property
    def steps_of_a_chunk(self) -> int:
        """The number of batches of a chunk, which is the same for any number of workers."""
        return max(CHUNK_BYTES // (self.batch_size * self.data.manifest.form.row_bytes), 1)

    def chunks(self, seed: int | None, epoch: int, first: int = 0) -> Iterator[Chunk]:
        """Yield the chunks of an epoch from the step `first` on, each read while the one before it is used.

        Raises DataError if a shard is missing or is not the one in the manifest.
        """
        rows = [shard.rows for shard in self.data.manifest.parts[self.part]]
        order = Order(rows, self.streams, self.window, seed, epoch)
        with ThreadPoolExecutor(READERS) as readers:
            yield from ahead(self._chunks(order, first, readers))

    def _chunks(self, order: Order, first: int, readers: ThreadPoolExecutor) -> Iterator[Chunk]:
        mine = order.of_worker(self.rank, self.workers)
        reached = order.reached(first * self.batch_size).tolist()
        part = self.data.manifest.parts[self.part]
        cursors = {stream: _Cursor(self.data, part, order.windows(stream, reached[stream]), readers) for stream in mine}
        for step in range(first, self.steps, self.steps_of_a_chunk):
            stop = min(step + self.steps_of_a_chunk, self.steps)
            streams, positions = order.merged(step * self.batch_size, min(stop * self.batch_size, self.samples))
            is_mine = (streams >= mine.start) & (streams < mine.stop)
            yield self._chunk(step, is_mine, streams[is_mine], positions[is_mine], cursors)

    def _chunk(
        self,
        step: int,
        is_mine: npt.NDArray[np.bool_],
        streams: Rows,
        positions: Rows,
        cursors: dict[int, "_Cursor"],
    ) -> Chunk:
        batches = np.arange(0, len(is_mine), self.batch_size)
        sizes = np.add.reduceat(np.ones(len(is_mine), np.int64), batches)
        counts = np.add.reduceat(is_mine.astype(np.int64), batches)
        form, samples = self.data.manifest.form, len(streams)
        inputs = aligned_empty((samples, form.words * WORD_BYTES), np.uint8)
        inputs[:, form.row_bytes :] = 0
        rows_of_inputs = _as_items(inputs, form.row_bytes)
        targets = np.empty((samples, *form.targets), form.target_dtype)
        weights = np.empty(samples, np.float32) if form.has_weights else None
        for stream, cursor in cursors.items():
            at = np.flatnonzero(streams == stream)
            for places, split, rows in cursor.found(at, positions[at]):
                rows_of_inputs[places] = _as_items(split.inputs, form.row_bytes)[rows]
                targets[places] = split.targets[rows]
                if weights is not None and split.weights is not None:
                    weights[places] = split.weights[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return Chunk(step, inputs, targets, weights, starts, (counts / sizes).astype(np.float32))


class _Cursor:
    """The window of a stream that is in use, and the next one, which is being read."""

    def __init__(
        self, data: Prepared, shards: Sequence[Shard], windows: Iterator[Window], readers: ThreadPoolExecutor
    ) -> None:
        self._data, self._shards = data, shards
        self._windows, self._readers = windows, readers
        self._next = self._submitted()
        self._window: Window | None = None
        self._split: Split

    def found(self, at: Rows, positions: Rows) -> Iterator[tuple[Rows, Split, Rows]]:
        """Find the rows at consecutive `positions` of the stream, which belong to the places `at`.

        Yield, for each window that has some of them, their places, the samples of the window, and their rows there.
        """
        done = 0
        while done < len(positions):
            window = self._window_of(int(positions[done]))
            stop = done + int(np.searchsorted(positions[done:], window.first + len(window.order)))
            yield at[done:stop], self._split, window.order[positions[done:stop] - window.first]
            done = stop

    def _window_of(self, position: int) -> Window:
        while self._window is None or position >= self._window.first + len(self._window.order):
            assert self._next is not None
            self._window, self._split = self._next.result()
            self._next = self._submitted()
        return self._window

    def _submitted(self) -> "Future[tuple[Window, Split]] | None":
        window = next(self._windows, None)
        return None if window is None else self._readers.submit(self._read, window)

    def _read(self, window: Window) -> tuple[Window, Split]:
        parts = [self._data.read(self._shards[shard]) for shard in window.shards]
        return window, joined(parts)


def _as_items(rows: npt.NDArray[Any], size: int) -> npt.NDArray[np.void]:
    """Return the first bytes of each row as one item. NumPy copies such items in a quarter of the time of bytes."""
    return np.ndarray((len(rows),), np.dtype((np.void, size)), rows, strides=rows.strides[:1])


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items. A thread prepares the next one while one is in use."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
