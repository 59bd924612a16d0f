"""Test batches: every image once per epoch, for all sizes of data and batches, and with unchanged bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mnist_job.data.dataset import Split
from mnist_job.training.batches import ResidentBatches, Share, on_device, plan


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("samples", "batch_size"), [(100, 32), (96, 32), (33, 32), (32, 32), (50, 7)])
def test_every_image_counts_once_and_every_batch_as_a_mean(samples, batch_size, workers):
    parts = [plan(samples, batch_size, Share(rank, workers), 0, 0) for rank in range(workers)]
    weights = np.concatenate([weights for _, weights in parts], axis=1)
    indices = np.concatenate([indices for indices, _ in parts], axis=1)
    assert sorted(indices[weights > 0]) == list(range(samples))
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights[:-1][weights[:-1] > 0] == np.float32(1 / batch_size)).all()
    assert len({indices.shape for indices, _ in parts}) == 1


def test_the_order_follows_from_seed_and_epoch_and_not_from_the_workers():
    def global_batches(workers, seed, epoch):
        parts = [plan(100, 30, Share(rank, workers), seed, epoch) for rank in range(workers)]
        return [[int(i) for indices, weights in parts for i in indices[step][weights[step] > 0]] for step in range(4)]

    assert global_batches(1, 5, 3) == global_batches(2, 5, 3) == global_batches(4, 5, 3)
    assert global_batches(1, 5, 3) != global_batches(1, 5, 4)
    assert global_batches(1, 5, 3) != global_batches(1, 6, 3)


def test_without_a_seed_the_order_is_that_of_the_data():
    indices, weights = plan(10, 4, Share(0, 1), None, 3)
    assert list(indices[weights > 0]) == list(range(10))


@pytest.mark.parametrize("shape", [(28, 28), (4, 5), (3, 3, 3), (1, 1)])
def test_a_batch_holds_the_images_and_labels_that_the_plan_names(shape):
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (50, *shape), dtype=np.uint8), np.arange(50, dtype=np.int32))
    batches = ResidentBatches(split, 16, Share(1, 3), seed=0)
    epoch = batches.plan(2)
    for step in range(batches.steps):
        images, labels, weights = batches.batch(epoch, tf.constant(step))
        chosen = epoch[0][step].numpy()
        assert images.dtype == tf.uint8
        assert np.array_equal(images, split.images[chosen])
        assert np.array_equal(labels, chosen)
        assert np.array_equal(weights, epoch[1][step])


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
from mnist_job.data import dataset as data
from mnist_job.config.settings import JobConfig
from mnist_job.training.batches import ResidentBatches, Share
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
tf.constant(0)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
training = data.load_training(JobConfig(data=sys.argv[1]))
parts = [ResidentBatches(split, 32, Share(0, 2)) for split in (training.train, training.validation)]
print(peak() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "data.npz")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert x.nbytes < grown < 2 * x.nbytes
