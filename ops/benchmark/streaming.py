"""Measure the training on data that are read as they are needed: `python -m ops.benchmark.streaming MNIST.npz`.

Prints two tables. The first compares, in interleaved repetitions, MNIST in memory with MNIST in shards, for one and two
workers, and both with other ways that read files. The second trains an epoch on many times as much data
(`--gigabytes`, made of altered images of MNIST) with two workers, and has the memory of each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from mnist_job.data import manifest, shards
from mnist_job.data.arrays import Split
from mnist_job.data.manifest import Form, Manifest, Shard
from ops.benchmark import measure, rows, streaming_peers
from ops.benchmark.streaming_peers import BATCH, EPOCHS

JOB = str(Path(sys.executable).with_name("mnist-job"))
IMAGES = 48_000
SHARD_ROWS = 10_000
TRAIN = ("--batch-size", str(BATCH), "--learning-rate", "0.004")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="MNIST as an .npz file")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=12.0, help="0: leave out the second table")
    options = parser.parse_args()
    data = str(Path(options.data).resolve())
    with tempfile.TemporaryDirectory() as folder:
        if options.repetitions:
            print(compared(data, Path(folder), options.repetitions))
        if options.gigabytes:
            print(large(data, Path(folder) / "large", options.gigabytes))


def compared(data: str, folder: Path, repetitions: int) -> str:
    """Return the table of images a second and of the peak of memory."""
    streaming_peers.write(data, folder)
    prepare = [JOB, "prepare", "--data", data, "--validation-split", "tail", "--destination", str(folder / "shards")]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    ways = {
        **{
            f"this job, in memory, workers: {n}": [data, "--validation-split", "tail", "--workers", str(n)]
            for n in (1, 2)
        },
        **{f"this job, shards, workers: {n}": [str(folder / "shards"), "--workers", str(n)] for n in (1, 2)},
        "tf.data from TFRecord, Keras `fit`": "tf.data",
        "Ray Data `iter_tf_batches` from Parquet, Keras `fit`": "ray.data",
    }
    speed, peak = defaultdict(list), defaultdict(list)
    for _ in range(repetitions):
        for title, way in ways.items():
            if isinstance(way, str):
                cost = measure.run([sys.executable, "-m", "ops.benchmark.streaming_peers", way, str(folder)])
                seconds = json.loads(cost.stdout.splitlines()[-1])["training"]
            else:
                with tempfile.TemporaryDirectory() as output:
                    how = ["--epochs", str(EPOCHS), *TRAIN, "--output", output]
                    cost = measure.run([JOB, "run", "--data", *way, *how])
                    outcome = json.loads(Path(output, "mnist-job/outcome.json").read_text())
                    seconds = sum(outcome["phases"][phase] for phase in rows.COUNTED)
            speed[title].append(IMAGES * EPOCHS / seconds)
            peak[title].append(cost.peak / 2**30)
            print(title, speed[title][-1], peak[title][-1], file=sys.stderr, flush=True)
    lines = ["| | images/s | peak of all processes, GiB |", "| --- | --- | --- |"]
    for title in ways:
        found = sorted(speed[title])
        lines.append(
            f"| {title} | {statistics.median(found):,.0f} ({found[0]:,.0f}..{found[-1]:,.0f}) | "
            f"{statistics.median(peak[title]):.2f} |"
        )
    return "\n".join(lines) + "\n"


def large(data: str, folder: Path, gigabytes: float) -> str:
    """Return what an epoch on so much data takes, with the largest resident memory of each worker."""
    made = written(data, folder, gigabytes)
    with tempfile.TemporaryDirectory() as output:
        command = [JOB, "run", "--data", str(folder), "--workers", "2", "--epochs", "1", *TRAIN, "--output", output]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        largest: dict[int, int] = defaultdict(int)
        curve: list[float] = []
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(1):
                sizes = _workers(process.pid)
                for pid, size in sizes.items():
                    largest[pid] = max(largest[pid], size)
                curve.append(max(sizes.values(), default=0) / 2**30)

        thread = threading.Thread(target=look)
        thread.start()
        process.wait()
        ended.set()
        thread.join()
        if process.returncode:
            raise SystemExit(process.returncode)
        outcome = json.loads(Path(output, "mnist-job/outcome.json").read_text())
    seconds = outcome["phases"]["training"]
    samples = made.samples("train")
    size = samples * made.form.row_bytes / 1e9
    stored = sum(file.stat().st_size for file in folder.rglob("*.arrow")) / 1e9
    each = ", ".join(f"{value / 2**30:.2f}" for value in sorted(largest.values()))
    tenths = curve[:: max(len(curve) // 20, 1)]
    return "\n".join(
        [
            f"{size:.1f} GB of images ({stored:.1f} GB of shards), {samples:,} images, 2 workers:",
            f"{samples / seconds:,.0f} images/s, largest resident memory of a worker, GiB: {each}",
            "over time, GiB: " + " ".join(f"{value:.2f}" for value in tenths),
        ]
    )


def _workers(root: int) -> dict[int, int]:
    """Return the resident bytes of the workers below this process."""
    found = {}
    try:
        for process in psutil.Process(root).children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found[process.pid] = process.memory_info().rss
    except psutil.Error:
        return found
    return found


def written(data: str, folder: Path, gigabytes: float) -> Manifest:
    """Write a prepared data set of so much data. Each image is one of MNIST, shifted, with noise."""
    number = int(gigabytes * 1e9 / (SHARD_ROWS * 784))
    (folder / "train").mkdir(parents=True)
    with ProcessPoolExecutor() as processes:
        train = list(processes.map(_shard, [data] * number, [folder] * number, range(number), chunksize=8))
    with np.load(data) as arrays:
        held_out = Split(arrays["x_test"], arrays["y_test"].astype(np.int32))
    others = tuple(_put(folder, f"{start}.arrow", held_out[start : start + 1000]) for start in range(0, 10_000, 1000))
    parts = {"train": tuple(train), "val": others, "test": others}
    examples = _put(folder, "examples.arrow", held_out[:16])
    counts = tuple(np.bincount(held_out.targets).tolist())
    of_class = {"train": tuple(count * number for count in counts), "val": counts, "test": counts}
    form = Form.of(held_out)
    made = Manifest(data, "", form, parts, examples, of_class, None, 255.0, 33.3, 78.6)
    (folder / manifest.FILE).write_text(made.to_json())
    return made


def _shard(data: str, folder: Path, number: int) -> Shard:
    random = np.random.default_rng(number)
    with np.load(data) as arrays:
        chosen = random.permutation(len(arrays["y_train"]))[:SHARD_ROWS]
        images, labels = arrays["x_train"][chosen], arrays["y_train"][chosen].astype(np.int32)
    images = np.roll(images, random.integers(-3, 4, 2), axis=(1, 2)) ^ random.integers(0, 4, images.shape, np.uint8)
    return _put(folder, f"train/{number:06}.arrow", Split(images, labels))


def _put(folder: Path, file: str, split: Split) -> Shard:
    content = shards.written(split)
    (folder / file).write_bytes(content)
    return Shard.of(file, len(split), content)


if __name__ == "__main__":
    main()
