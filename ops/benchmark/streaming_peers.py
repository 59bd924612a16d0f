"""Train on files that are read as they are needed, by other ways: `python -m ops.benchmark.streaming_peers WAY FOLDER`.

WAY is `tf.data` (TFRecord, as TensorFlow's guides read it) or `ray.data` (Parquet, by `iter_tf_batches`). Both train
by Keras's `fit`. `write` has written the folder. Prints the seconds of training, with validation, as JSON.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH, EPOCHS, SHUFFLED = 256, 5, 10_000  # as many samples as a shard of this job has


def write(data: str, folder: Path) -> None:
    """Write the training part of MNIST, without its last fifth, as TFRecord and Parquet. The last fifth is an .npz."""
    import ray.data
    import tensorflow as tf

    with np.load(data) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"].astype(np.int64)
    at = len(labels) * 4 // 5
    np.savez(folder / "val.npz", x=images[at:], y=labels[at:])
    for number, rows in enumerate(np.array_split(np.arange(at), 5)):
        with tf.io.TFRecordWriter(str(folder / f"train-{number}.tfrecord")) as writer:
            for row in rows:
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[images[row].tobytes()]))
                label = tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[row]]))
                features = tf.train.Features(feature={"image": image, "label": label})
                writer.write(tf.train.Example(features=features).SerializeToString())
    ray.init(logging_level=logging.ERROR, include_dashboard=False)
    columns = {"image": images[:at], "label": labels[:at]}
    blocks = [{name: column[rows] for name, column in columns.items()} for rows in np.array_split(np.arange(at), 5)]
    ray.data.from_items(list(range(5))).map_batches(lambda batch: blocks[batch["item"][0]], batch_size=1).write_parquet(
        str(folder / "parquet")
    )
    ray.shutdown()


def main(way: str, folder: str) -> None:
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with np.load(Path(folder) / "val.npz") as arrays:
        held_out = arrays["x"], arrays["y"]
    training, steps = {"tf.data": _tf_data, "ray.data": _ray_data}[way](Path(folder))
    started = time.perf_counter()
    model.fit(training, epochs=EPOCHS, steps_per_epoch=steps, validation_data=held_out, verbose=0)
    print(json.dumps({"training": time.perf_counter() - started}))


def _tf_data(folder: Path) -> tuple[Any, int | None]:
    import tensorflow as tf

    form = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parsed(records: Any) -> Any:
        found = tf.io.parse_example(records, form)
        return tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), (-1, 28, 28)), found["label"]

    files = sorted(map(str, folder.glob("*.tfrecord")))
    records = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE).shuffle(SHUFFLED, seed=0)
    return records.batch(BATCH).map(parsed, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE), None


def _ray_data(folder: Path) -> tuple[Any, int]:
    import ray.data

    ray.init(logging_level=logging.ERROR, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    there = ray.data.read_parquet(str(folder / "parquet"))
    rows = there.count()

    def batches() -> Iterator[Any]:
        for epoch in range(EPOCHS):
            for batch in there.iter_tf_batches(
                batch_size=BATCH, local_shuffle_buffer_size=SHUFFLED, local_shuffle_seed=epoch
            ):
                yield batch["image"], batch["label"]

    return batches(), -(-rows // BATCH)


if __name__ == "__main__":
    main(*sys.argv[1:])
