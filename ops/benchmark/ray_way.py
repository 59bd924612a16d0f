"""Train as in Ray's TensorFlow example: TensorflowTrainer, and Keras 2's `fit` with MultiWorkerMirroredStrategy.

`python -m ops.benchmark.ray_way MNIST.npz STEPS_PER_EXECUTION`, on the notebook's model and data with two workers. It
runs only 2 of the notebook's 10 epochs, because all of them take minutes. The first epoch includes the tracing, and the
second one stands for each of the other nine. Both end with their validation and their checkpoint. Prints the computed
seconds of 10 epochs as JSON. Like the example, it evaluates nothing.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

BATCH = 32
EPOCHS = 2


def train(config: dict[str, Any]) -> None:
    # Ray's callback is a callback of Keras 2 only if TF_USE_LEGACY_KERAS is set in all processes (see `main`).
    import tensorflow as tf
    import tf_keras
    from ray.train.tensorflow.keras import ReportCheckpointCallback

    class Clock(tf_keras.callbacks.Callback):  # type: ignore[misc]
        """A callback that stores the time at which each epoch starts."""

        def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
            self.began: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
            self.began.append(time.perf_counter())

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with np.load(config["data"]) as arrays:
        images = arrays["x_train"].reshape(-1, 784).astype("float32") / 255
        labels = tf_keras.utils.to_categorical(arrays["y_train"], 10)
    at = len(images) * 4 // 5
    training = tf.data.Dataset.from_tensor_slices((images[:at], labels[:at])).shuffle(at).batch(BATCH)
    validation = tf.data.Dataset.from_tensor_slices((images[at:], labels[at:])).batch(BATCH)
    with strategy.scope():
        model = tf_keras.Sequential(
            [
                tf_keras.Input((784,)),
                tf_keras.layers.Dense(128, activation="relu"),
                tf_keras.layers.Dense(64, activation="relu"),
                tf_keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile(
            "adam", "categorical_crossentropy", metrics=["accuracy"], steps_per_execution=config["steps_per_execution"]
        )
    clock, started = Clock(), time.perf_counter()
    callbacks = [ReportCheckpointCallback(), clock]
    model.fit(training, epochs=EPOCHS, validation_data=validation, verbose=0, callbacks=callbacks)
    ended = time.perf_counter()
    if ray.train.get_context().get_world_rank() == 0:
        first, second = clock.began[1] - started, ended - clock.began[1]
        Path(config["seconds"]).write_text(str(first + 9 * second))


def main(data: str, steps_per_execution: str, folder: str) -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    ray.init(address="local")  # do not connect to a cluster that may already run on this machine
    seconds = Path(folder, "seconds")
    trainer = TensorflowTrainer(
        train,
        train_loop_config={
            "data": data,
            "steps_per_execution": int(steps_per_execution),
            "seconds": str(seconds),
        },
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=folder, checkpoint_config=CheckpointConfig(num_to_keep=1)),
    )
    trainer.fit()
    print(json.dumps({"training": float(seconds.read_text())}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], sys.argv[2], folder)
