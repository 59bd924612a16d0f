"""Train the user's CNN by Keras's own `fit`, on all CPUs: `python -m ops.benchmark.cnn_fit MNIST.npz [EPOCHS]`.

Prints its result as JSON. Like a notebook, it saves nothing.
"""

import json
import sys
import time

import numpy as np

from ops.benchmark import cnn


def main(data: str, epochs: str = "6") -> None:
    with np.load(data) as arrays:
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    model = cnn.model()
    started = time.perf_counter()
    model.fit(x_train, y_train, batch_size=32, epochs=int(epochs), validation_split=0.2, verbose=0)
    training = time.perf_counter() - started
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(json.dumps({"training": training, "accuracy": accuracy, "loss": loss}))


if __name__ == "__main__":
    main(*sys.argv[1:])
