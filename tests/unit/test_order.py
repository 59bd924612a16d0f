"""Test the order of the samples of a data set in shards: every row once, whatever the shards, streams and workers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_job.data.order import Order

SHARDS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def order_of(rows: list[int], streams: int, window: int, seed: int | None = 0, epoch: int = 0) -> Order:
    return Order(rows, min(streams, len(rows)), window, seed, epoch)


def rows_of(order: Order, stream: int) -> list[tuple[int, int]]:
    """Return the rows of a stream in their order, each as its shard and its place in the shard."""
    found = []
    for window in order.windows(stream):
        assert window.first == len(found)
        places = [(shard, row) for shard in window.shards for row in range(order.rows[shard])]
        found += [places[row] for row in window.order]
    return found


def read(order: Order, batch_size: int) -> list[list[tuple[int, int]]]:
    """Return the batches of an epoch."""
    streams = [rows_of(order, stream) for stream in range(order.streams)]
    batches = []
    for start in range(0, sum(order.rows), batch_size):
        merged = order.merged(start, min(start + batch_size, sum(order.rows)))
        batches.append([streams[stream][position] for stream, position in zip(*merged, strict=True)])
    return batches


@settings(deadline=None)
@given(SHARDS, st.integers(1, 24), st.integers(1, 5), st.integers(1, 70), st.none() | st.integers(0, 9))
def test_every_row_comes_once(rows, streams, window, batch_size, seed):
    batches = read(order_of(rows, streams, window, seed), batch_size)
    assert sorted(row for batch in batches for row in batch) == [
        (shard, row) for shard, size in enumerate(rows) for row in range(size)
    ]


@settings(deadline=None)
@given(SHARDS, st.integers(1, 24), st.integers(1, 70), st.integers(1, 70))
def test_it_does_not_depend_on_how_the_epoch_is_cut(rows, streams, one, other):
    order = order_of(rows, streams, 2)
    assert np.concatenate(read(order, one)).tolist() == np.concatenate(read(order, other)).tolist()


@settings(deadline=None)
@given(SHARDS, st.integers(1, 24), st.integers(1, 9))
def test_every_stream_belongs_to_one_worker(rows, streams, workers):
    order = order_of(rows, streams, 1)
    mine = [order.of_worker(rank, workers) for rank in range(workers)]
    assert [stream for each in mine for stream in each] == list(range(order.streams))
    assert max(map(len, mine)) - min(map(len, mine)) <= 1


@settings(deadline=None)
@given(SHARDS, st.integers(1, 24), st.integers(0, 2000), st.integers(0, 2000))
def test_each_stream_has_its_proportion_of_any_stretch(rows, streams, one, other):
    order, total = order_of(rows, streams, 1), sum(rows)
    start, stop = sorted((one % (total + 1), other % (total + 1)))
    counts = np.bincount(order.merged(start, stop)[0], minlength=order.streams)
    assert (abs(counts - order.lengths * (stop - start) / total) <= order.streams + 1).all()


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_each_epoch_and_seed_has_another_order(epoch, seed):
    orders = {
        str(read(order_of([20] * 12, 4, 2, *key), 240)) for key in ((seed, epoch), (seed, epoch + 1), (seed + 1, epoch))
    }
    assert len(orders) == 3


def test_a_stream_can_be_entered_anywhere():
    order = order_of([7, 8, 9, 10, 11, 12, 13], 2, 2)
    whole = list(order.windows(1))
    for position in range(int(order.lengths[1])):
        first = next(iter(order.windows(1, position)))
        assert first.first <= position < first.first + len(first.order)
        assert first.shards in [window.shards for window in whole]


def test_without_a_seed_the_rows_are_dealt_from_the_shards_in_turn():
    assert read(order_of([2, 2], 2, 1, None), 4) == [[(0, 0), (1, 0), (0, 1), (1, 1)]]


@settings(deadline=None)
@given(SHARDS, st.integers(1, 24), st.integers(0, 2000))
def test_what_was_reached_is_what_was_merged(rows, streams, row):
    order = order_of(rows, streams, 1)
    row %= sum(rows) + 1
    assert order.reached(row).tolist() == np.bincount(order.merged(0, row)[0], minlength=order.streams).tolist()
