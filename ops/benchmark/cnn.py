"""A convolutional network as a user's notebook has it, with about 120,000 weights.

Its test accuracy: `.venv/bin/python -m ops.benchmark.accuracy MNIST.npz --model ops/benchmark/cnn.py:model --epochs 6`.
"""

import keras
from keras import layers


def model(classes: int = 10, steps: int = 6 * 1500) -> keras.Model:
    """Return the compiled network for images of 28x28 pixels. Its learning rate decays to 0 in so many steps."""
    network = keras.Sequential(
        [
            keras.Input((28, 28)),
            layers.Rescaling(1 / 255),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network
