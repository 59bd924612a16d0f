"""Test reading a prepared data set from an object store: how much a worker reads, and answers that are not whole."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mnist_job.data import shards
from mnist_job.data.arrays import Split
from mnist_job.data.shards import Prepared
from mnist_job.data.stream import Reader
from mnist_job.errors import DataError
from tests.between import Between, Spoil
from tests.prepared import prepared

SAMPLES, ROWS, STREAMS = 2400, 100, 12


@pytest.fixture
def stored(bucket, tmp_path) -> Callable[..., Iterator[tuple[Prepared, Between]]]:
    """Return a context with a data set of 24 shards in a bucket, which is read through a server in between."""
    parameters, client = bucket
    inputs = np.random.default_rng(0).integers(0, 256, (SAMPLES, 32, 32), np.uint8)  # random: LZ4 makes nothing smaller
    prepared(tmp_path / "data", {"train": Split(inputs, np.arange(SAMPLES, dtype=np.int32) % 7)}, ROWS)
    for file in (tmp_path / "data").rglob("*.*"):
        client.upload_file(str(file), "bucket", str(file.relative_to(tmp_path)))
    (port,) = map(int, re.findall(r"127\.0\.0\.1:(\d+)", parameters))

    @contextmanager
    def opened(spoil: Spoil = lambda path, time: "") -> Iterator[tuple[Prepared, Between]]:
        with Between(port, spoil) as between:
            yield shards.opened(f"s3://bucket/data{parameters.replace(str(port), str(between.port))}"), between

    return opened


def read(data: Prepared, rank: int = 0, workers: int = 1) -> list[int]:
    """Read an epoch. Return the sums of its images, sorted."""
    chunks = Reader(data, "train", 64, STREAMS, 1, rank, workers).chunks(0, 0)
    return sorted(total for chunk in chunks for total in chunk.inputs.sum(axis=1, dtype=np.int64).tolist())


def test_a_worker_reads_its_share_and_little_more(stored):
    """The bytes of all answers, beside the bytes of its shards: not even 2 % more."""
    for workers in (1, 2, 3):
        for rank in range(workers):
            with stored() as (data, between):
                opening = sum(between.sent.values())
                found = read(data, rank, workers)
                share = SAMPLES * 32 * 32 / workers
                assert len(found) == SAMPLES / workers
                assert share < sum(between.sent.values()) - opening < 1.02 * share
                assert opening < 0.02 * share


@pytest.mark.parametrize("kind", ["slow", "error", "cut"])
def test_an_answer_that_comes_slowly_or_not_whole_is_asked_for_again(stored, monkeypatch, kind):
    """Each shard is affected the first time."""
    monkeypatch.setattr(shards, "FIRST_PAUSE_SECONDS", 0.01)
    with stored() as (data, _):
        expected = read(data)
    with stored(lambda path, time: kind if path.endswith("0.arrow") and "train" in path and time == 1 else "") as (
        data,
        between,
    ):
        assert read(data) == expected
        again = [number for path, number in between.asked.items() if "/train/" in path]
        assert again == [1 if kind == "slow" else 2] * 24


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("error", r"train/000300\.arrow: cannot be read: .*503"),
        ("cut", r"train/000300\.arrow: (is not|cannot be read)"),
    ],
)
def test_a_store_that_keeps_failing_is_told(stored, monkeypatch, kind, sentence):
    monkeypatch.setattr(shards, "FIRST_PAUSE_SECONDS", 0.01)
    with (
        stored(lambda path, time: kind if path.endswith("000300.arrow") else "") as (data, _),
        pytest.raises(DataError, match=sentence),
    ):
        read(data)
