"""Test the memory of a worker that trains on a prepared data set larger than that."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from mnist_job.data import stream, streamed_part
from mnist_job.data.arrays import Split
from tests.prepared import prepared

MEGA = 1 << 20
SIDE, ROWS, SHARDS = 32, 1024, 400  # shards of 1 MiB, together 400 MiB

TRAIN = """
import sys
from pathlib import Path

import tensorflow as tf

from mnist_job.data import shards
from mnist_job.data.streamed_part import StreamedPart
from mnist_job.models import reference
from mnist_job.training import optimizer
from mnist_job.training.batches import Share
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training
from mnist_job.training.streamed import StreamedBatches

def peak():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) >> 10

data = shards.opened(sys.argv[1])
batches = StreamedBatches(StreamedPart(data, "train"), 1024, Share(0, 1), seed=0)
model = Compiled(reference.build((32, 32), 10, 255, (8,)), 1e-3, data.read(data.manifest.examples))
training = Training(tf.distribute.get_strategy(), model, optimizer.update(model.optimizer, model.variables), batches)
before = peak()
metrics, _ = training.whole(0)
print(before, peak(), int(training.sums.numpy()[1]))
"""


def test_a_worker_holds_two_shards_of_each_stream_and_three_chunks(tmp_path):
    """The data set is several times as large. All images of a shard are alike, so it takes little space on the disk."""
    images = np.repeat(np.arange(SHARDS, dtype=np.uint16) % 255 + 1, ROWS).astype(np.uint8)
    whole = Split(
        np.broadcast_to(images[:, None, None], (len(images), SIDE, SIDE)), np.arange(len(images), dtype=np.int32) % 10
    )
    prepared(tmp_path, {"train": whole}, ROWS)
    ended = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    before, after, seen = map(int, ended.stdout.split())
    assert seen == len(images)
    bound = streamed_part.STREAMS * 2 * 1 + 3 * (stream.CHUNK_BYTES // MEGA)
    assert after - before < bound + 64 < SHARDS / 2  # TensorFlow needs some for itself
