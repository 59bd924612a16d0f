"""The reference network. No other module depends on its layers."""

import keras


def build(image_shape: tuple[int, ...], classes: int, scale: float, hidden_layers: tuple[int, ...]) -> keras.Model:
    """Build the multilayer perceptron of the reference notebook, from raw images to class probabilities.

    The input is numbers up to `scale`, (batch, *image_shape), as they are in the data set. The output is
    probabilities that sum to 1, (batch, classes). The scaling is a layer, so the saved model needs no preprocessing.
    All layers are Keras's own, so it loads without this package. With mixed precision, the scaling and the softmax stay
    in float32.
    """
    inputs = keras.Input(image_shape, name="image")
    x = keras.layers.Rescaling(1 / scale, dtype="float32")(inputs)
    x = keras.layers.Flatten()(x)
    for units in hidden_layers:
        x = keras.layers.Dense(units, activation="relu")(x)
    outputs = keras.layers.Dense(classes, activation="softmax", name="probabilities", dtype="float32")(x)
    return keras.Model(inputs, outputs)
