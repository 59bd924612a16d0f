"""Seconds an epoch of MNIST: Keras's `fit`, and this loop with one and two workers; as a Markdown table.

    .venv/bin/python ops/benchmark_speed.py MNIST.npz

All three are measured in turn for each setting, on the same machine in the same run; the ratios are what to quote. A
worker owns one CPU; `fit` runs in one process with the CPUs of both. The first epoch, which compiles, is left out.
"""

import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCHS = 6
SETTINGS = ((32, "128,64"), (256, "128,64"), (2048, "128,64"), (2048, "1024,1024"))

FIT = """
import sys, time
import keras, numpy as np
data, batch, hidden, epochs = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
with np.load(data) as arrays:
    x = arrays["x_train"].reshape(-1, 784).astype("float32") / 255
    y = keras.utils.to_categorical(arrays["y_train"], 10)
layers = [keras.layers.Dense(int(units), activation="relu") for units in hidden.split(",")]
model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10, activation="softmax")])
model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
class Clock(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
    def on_epoch_end(self, epoch, logs=None):
        print(time.perf_counter() - self.started)
model.fit(x, y, batch_size=batch, epochs=epochs, validation_split=0.2, verbose=0, callbacks=[Clock()])
"""


def fit(data: str, batch: int, hidden: str) -> float:
    command = [sys.executable, "-c", FIT, data, str(batch), hidden, str(EPOCHS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return statistics.median(float(line) for line in done.stdout.split()[1:])


def loop(data: str, batch: int, hidden: str, workers: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        command = [str(Path(sys.executable).with_name("mnist-job")), "run", "--data", data, "--output", output]
        command += ["--workers", str(workers), "--batch-size", str(batch), "--hidden-layers", hidden]
        subprocess.run([*command, "--epochs", str(EPOCHS)], check=True, stdout=sys.stderr)
        with (Path(output) / "mnist-job/history.csv").open() as file:
            return statistics.median(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])


def main(data: str) -> None:
    print("| global batch | hidden layers | Keras `fit` | 1 worker | 2 workers | fit / 1 worker | 1 / 2 workers |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for batch, hidden in SETTINGS:
        keras, one, two = fit(data, batch, hidden), loop(data, batch, hidden, 1), loop(data, batch, hidden, 2)
        print(
            f"| {batch} | {hidden.replace(',', ', ')} | {keras:.2f} s | {one:.2f} s | {two:.2f} s "
            f"| {keras / one:.1f} | {one / two:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
