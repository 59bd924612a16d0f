"""Test what a worker reads of a prepared data set: the same global batches for any number of workers, and no others."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_job.data import manifest, shards, stream
from mnist_job.data.arrays import Split
from mnist_job.data.shards import Prepared
from mnist_job.data.stream import Reader
from mnist_job.errors import DataError
from tests.prepared import prepared

SAMPLES, ROWS = 103, 9


def split(samples: int = SAMPLES) -> Split:
    inputs = np.random.default_rng(1).integers(0, 256, (samples, 3, 5), np.uint8)
    return Split(inputs, np.arange(samples, dtype=np.int32), np.arange(samples, dtype=np.float32))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("data"), {"train": split()}, ROWS)


class Batch(NamedTuple):
    targets: list[int]
    weights: list[float]
    share: float


def batches(reader: Reader, seed: int | None, epoch: int, first: int = 0) -> Iterator[Batch]:
    """Yield a worker's part of each batch. The inputs are compared with those of the data."""
    whole = split()
    for chunk in reader.chunks(seed, epoch, first):
        rows = chunk.inputs[:, :15].reshape(-1, 3, 5)
        np.testing.assert_array_equal(rows, whole.inputs[chunk.targets])
        assert not chunk.inputs[:, 15:].any()
        for step in range(chunk.steps):
            mine = slice(chunk.starts[step], chunk.starts[step + 1])
            assert chunk.weights is not None
            yield Batch(chunk.targets[mine].tolist(), chunk.weights[mine].tolist(), float(chunk.shares[step]))


def global_batches(
    data: Prepared, workers: int, seed: int | None, epoch: int, first: int = 0, **how: int
) -> list[list[int]]:
    """Return the samples of each global batch, sorted: their order in a batch depends on the workers."""
    each = [
        list(batches(Reader(data, "train", rank=rank, workers=workers, **how), seed, epoch, first))
        for rank in range(workers)
    ]
    found = []
    for parts in zip(*each, strict=True):
        samples = sorted(sample for part in parts for sample in part.targets)
        for part in parts:
            assert part.weights == part.targets
            assert part.share == pytest.approx(len(part.targets) / len(samples))
        found.append(samples)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 50),
    st.none() | st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 2000),
)
def test_the_global_batches_are_the_same_for_any_workers(data, streams, window, batch_size, seed, epoch, chunk_bytes):
    how = {"batch_size": batch_size, "streams": streams, "window": window}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK_BYTES", chunk_bytes)
        expected = global_batches(data, 1, seed, epoch, **how)
        assert sorted(sample for batch in expected for sample in batch) == list(range(SAMPLES))
        assert [len(batch) for batch in expected[:-1]] == [batch_size] * (len(expected) - 1)
        for workers in range(2, min(streams, 4) + 1):
            assert global_batches(data, workers, seed, epoch, **how) == expected
        first = len(expected) // 2
        assert global_batches(data, min(streams, 2), seed, epoch, first, **how) == expected[first:]


def test_a_worker_reads_only_the_shards_of_its_streams(data, monkeypatch):
    read: list[str] = []
    original = Prepared.read
    monkeypatch.setattr(Prepared, "read", lambda self, shard: read.append(shard.file) or original(self, shard))
    counts = []
    for rank in range(3):
        list(batches(Reader(data, "train", 16, 12, 1, rank, 3), 0, 0))
        counts.append(len(read))
    assert counts == [4, 8, 12]
    assert sorted(read) == [shard.file for shard in data.manifest.parts["train"]]


def rewritten(folder: Path, change) -> Prepared:
    made = prepared(folder, {"train": split()}, ROWS)
    change(folder / made.manifest.parts["train"][3].file)
    return made


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.unlink(), "train/000027.arrow: no such file; prepare the data set again"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-9]),
            "train/000027.arrow: is not the shard that the manifest",
        ),
        (
            lambda file: file.write_bytes(shards.written(split(ROWS))),
            "train/000027.arrow: is not the shard that the manifest",
        ),
    ],
    ids=["missing", "truncated", "changed"],
)
def test_a_shard_that_is_not_the_one_of_the_manifest(tmp_path, monkeypatch, change, sentence):
    monkeypatch.setattr(shards, "FIRST_PAUSE_SECONDS", 0.0)
    reader = Reader(rewritten(tmp_path / "data", change), "train", 16, 4, 1, 0, 1)
    with pytest.raises(DataError, match=sentence):
        list(reader.chunks(0, 0))
    assert threading.active_count() < 20  # the threads that read have ended


def test_an_epoch_that_is_left_early_leaves_no_thread(data):
    before = threading.active_count()
    chunks = Reader(data, "train", 16, 4, 1, 0, 1).chunks(0, 0)
    next(chunks)
    chunks.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no manifest of a prepared data set, or is damaged"),
        ("[]", "is no manifest"),
        ('{"format": 2}', "has format 2, and this program reads 1; prepare the data set again"),
        ('{"format": 1, "parts": 3}', "is no manifest"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, text, sentence):
    (tmp_path / manifest.FILE).write_text(text)
    with pytest.raises(DataError, match=sentence):
        shards.opened(str(tmp_path))


def test_a_manifest_keeps_what_it_describes(data):
    assert shards.opened(data.place).manifest == data.manifest
    assert shards.opened(data.place).manifest.sha256 == data.manifest.sha256
