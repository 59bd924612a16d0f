"""Models as the cells of a notebook make them."""

import keras
from keras import layers


def convolutional(classes: int) -> keras.Model:
    """Return a compiled CNN with all that needs the global batch: batch statistics, and a norm of the gradients."""
    network = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Rescaling(1 / 16),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(
                8, 3, use_bias=False, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(1.0)
            ),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes),
        ]
    )
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01, global_clipnorm=0.5)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return network
