"""The Keras models. Nothing outside this module knows the reference network."""

import keras


def build(image_shape: tuple[int, ...], classes: int, scale: int, hidden_layers: tuple[int, ...]) -> keras.Model:
    """The reference notebook's multilayer perceptron: raw images in, class probabilities out.

    Takes (batch, *image_shape) pixels from 0 to `scale` as they are in the data set; gives (batch, classes)
    probabilities that sum to 1. The scaling is a layer, so the saved model needs no preprocessing and, made of Keras's
    own layers alone, loads without this package.
    """
    inputs = keras.Input(image_shape, name="image")
    x = keras.layers.Rescaling(1 / scale)(inputs)
    x = keras.layers.Flatten()(x)
    for units in hidden_layers:
        x = keras.layers.Dense(units, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs)
