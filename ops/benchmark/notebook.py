"""Run the reference notebook as a script: `python -m ops.benchmark.notebook MNIST.npz [STEPS_PER_EXECUTION]`.

Prints its result as JSON. Like the notebook, it saves nothing. KERAS_BACKEND names the backend of Keras.
"""

import json
import sys
import time

import keras
import numpy as np


def main(data: str, steps_per_execution: str = "1") -> None:
    with np.load(data) as arrays:
        x_train, x_test = (arrays[name].reshape(-1, 784).astype("float32") / 255 for name in ("x_train", "x_test"))
        y_train, y_test = (keras.utils.to_categorical(arrays[name], 10) for name in ("y_train", "y_test"))
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        "adam", "categorical_crossentropy", metrics=["accuracy"], steps_per_execution=int(steps_per_execution)
    )
    started = time.perf_counter()
    model.fit(x_train, y_train, batch_size=32, epochs=10, validation_split=0.2, verbose=0)
    training = time.perf_counter() - started
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(json.dumps({"training": training, "accuracy": accuracy, "loss": loss}))


if __name__ == "__main__":
    main(*sys.argv[1:])
