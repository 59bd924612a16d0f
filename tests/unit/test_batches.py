"""Test batches: every image once per epoch, for all sizes of data and batches, and with unchanged bytes."""

import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mnist_job.data.arrays import Split
from mnist_job.training.batches import ResidentBatches, Share, on_device, plan


def parts(samples: int, batch_size: int, workers: int, seed: int | None = 0, epoch: int = 0) -> list[list[list[int]]]:
    """The images of each worker in each step."""
    found = []
    for rank in range(workers):
        indices, starts, shares = plan(samples, batch_size, Share(rank, workers), seed, epoch)
        found.append([list(map(int, indices[a:b])) for a, b in pairwise(starts)])
        in_batch = [min(batch_size, samples - step * batch_size) for step in range(len(shares))]
        assert shares == pytest.approx([len(part) / n for part, n in zip(found[-1], in_batch, strict=True)])
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("samples", "batch_size"), [(100, 32), (96, 32), (33, 32), (32, 32), (50, 7)])
def test_every_image_counts_once_and_the_parts_have_their_true_sizes(samples, batch_size, workers):
    by_worker = parts(samples, batch_size, workers)
    assert sorted(image for worker in by_worker for step in worker for image in step) == list(range(samples))
    for step in zip(*by_worker, strict=True):
        sizes = [len(part) for part in step]
        assert max(sizes) - min(sizes) <= 1
        assert sizes[0] == max(sizes)


def test_the_order_follows_from_seed_and_epoch_and_not_from_the_workers():
    def global_batches(workers, seed, epoch):
        return [list(chain(*step)) for step in zip(*parts(100, 30, workers, seed, epoch), strict=True)]

    assert global_batches(1, 5, 3) == global_batches(2, 5, 3) == global_batches(4, 5, 3)
    assert global_batches(1, 5, 3) != global_batches(1, 5, 4)
    assert global_batches(1, 5, 3) != global_batches(1, 6, 3)


def test_without_a_seed_the_order_is_that_of_the_data():
    assert parts(10, 4, 1, None, 3) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]]


@pytest.mark.parametrize("shape", [(28, 28), (4, 5), (3, 3, 3), (1, 1)])
def test_a_batch_holds_the_images_and_labels_that_the_plan_names(shape):
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (50, *shape), dtype=np.uint8), np.arange(50, dtype=np.int32))
    batches = ResidentBatches(split, 16, Share(1, 3), seed=0)
    epoch = batches.plan(2)
    for step in range(batches.steps):
        images, labels, _, share = batches.batch(epoch, tf.constant(step))
        chosen = epoch[0].numpy()[epoch[1][step] : epoch[1][step + 1]]
        assert images.dtype == tf.uint8
        assert np.array_equal(images, split.inputs[chosen])
        assert np.array_equal(labels, chosen)
        assert share == epoch[2][step]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "float32"])
@pytest.mark.parametrize("shape", [(3,), (4,), (2, 3)])
def test_inputs_of_any_type_keep_their_values_and_have_their_weights(dtype, shape):
    inputs = np.random.default_rng(0).integers(0, 60_000, (10, *shape)).astype(dtype)
    split = Split(inputs, np.linspace(0, 1, 10, dtype=np.float32), np.arange(10, dtype=np.float32))
    batches = ResidentBatches(split, 4, Share(0, 1), seed=1)
    plan = batches.plan(0)
    batch = batches.batch(plan, tf.constant(2))
    chosen = plan[0].numpy()[8:]
    assert batch.inputs.dtype == dtype
    assert np.array_equal(batch.inputs, inputs[chosen])
    assert np.array_equal(batch.targets, split.targets[chosen])
    assert np.array_equal(batch.weights, chosen)


@pytest.mark.parametrize("offset", range(0, 72, 8))
def test_rows_at_any_address_reach_the_device(offset):
    buffer = np.arange(offset + 10 * 16, dtype=np.uint8)
    rows = buffer[offset:].reshape(10, 16)
    assert np.array_equal(tf.bitcast(on_device(rows), tf.uint8).numpy().reshape(10, 16), rows)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a peak of memory")
def test_a_worker_holds_the_data_once(tmp_path):
    """From file to device, 60,000 images need less than twice their size. `tf.constant` would copy them twice."""
    x = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(60_000, dtype=np.uint8) % 10)
    script = """
import sys, pathlib, tensorflow as tf
from mnist_job.data import dataset as data, sources
from mnist_job.config.settings import JobConfig
from mnist_job.training.batches import ResidentBatches, Share
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
tf.constant(0)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
training = data.load_training(JobConfig(), sources.read(sys.argv[1]))
parts = [ResidentBatches(split, 32, Share(0, 2)) for split in (training.train, training.validation)]
print(peak() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "data.npz")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert x.nbytes < grown < 2 * x.nbytes
