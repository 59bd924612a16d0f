"""Models from the families of Keras's own layers, as a user writes and compiles them, for 8x8 images in 10 classes.

The families are recurrent, attention, convolutional, normalizing and preprocessing layers.
"""

import keras
import numpy as np
from keras import layers

SHAPE, CLASSES = (8, 8), 10
PLANE = (*SHAPE, 1)  # an image with a channel


def compiled(*inner: keras.Layer, optimizer: object = "adam") -> keras.Model:
    """Return a compiled classifier of these layers, which get the pixels as they are."""
    network = keras.Sequential([keras.Input(SHAPE), *inner, layers.Dense(CLASSES, activation="softmax")])
    network.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def scaled(*inner: keras.Layer, **options: object) -> keras.Model:
    return compiled(layers.Rescaling(1 / 16), *inner, **options)


def pooled(attended: object, inputs: object) -> keras.Model:
    """Return a compiled classifier of a sequence, by logits."""
    network = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(attended)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return network


# Recurrent


def lstm() -> keras.Model:
    return scaled(layers.LSTM(16, return_sequences=True), layers.LSTM(16, go_backwards=True), optimizer="rmsprop")


def gru() -> keras.Model:
    return scaled(layers.GRU(16, return_sequences=True, recurrent_dropout=0.1), layers.GlobalMaxPooling1D())


def bidirectional() -> keras.Model:
    return scaled(layers.Bidirectional(layers.SimpleRNN(12, dropout=0.1)))


def time_distributed() -> keras.Model:
    cells = [layers.GRUCell(8), layers.LSTMCell(8)]
    return scaled(layers.TimeDistributed(layers.Dense(12, activation="tanh")), layers.RNN(cells))


def conv_lstm() -> keras.Model:
    return scaled(layers.Reshape((8, 8, 1)), layers.ConvLSTM1D(4, 3), layers.Flatten())


# Attention


def multi_head_attention() -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = layers.Dense(16)(layers.Rescaling(1 / 16)(inputs))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8, dropout=0.1)(x, x))
    return pooled(x, inputs)


def grouped_query_attention() -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = layers.Dense(16)(layers.Rescaling(1 / 16)(inputs))
    return pooled(layers.GroupQueryAttention(8, 4, 2)(x, x), inputs)


def attention() -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 16)(inputs)
    keys = layers.Dense(16)(x)
    return pooled(layers.Attention(use_scale=True, dropout=0.1)([layers.Dense(16)(x), keys]), inputs)


def additive_attention() -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 16)(inputs)
    return pooled(layers.AdditiveAttention()([layers.Dense(16)(x), layers.Dense(16)(x)]), inputs)


# Convolutional


def conv_1d() -> keras.Model:
    convolution = layers.Conv1D(16, 3, padding="causal", dilation_rate=2, activation="relu")
    return scaled(convolution, layers.MaxPooling1D(), layers.SeparableConv1D(16, 2), layers.GlobalAveragePooling1D())


def conv_2d() -> keras.Model:
    return scaled(
        layers.Reshape(PLANE),
        layers.Conv2D(8, 3, kernel_regularizer="l2"),
        layers.PReLU(),
        layers.MaxPooling2D(),
        layers.Dropout(0.2),
        layers.Flatten(),
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    )


def separable() -> keras.Model:
    return scaled(
        layers.Reshape(PLANE),
        layers.DepthwiseConv2D(3, depth_multiplier=4),
        layers.SeparableConv2D(8, 3, activation="gelu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        optimizer="nadam",
    )


def transposed() -> keras.Model:
    return scaled(
        layers.Reshape(PLANE),
        layers.ZeroPadding2D(1),
        layers.Conv2D(4, 3, strides=2, activation="relu"),
        layers.Conv2DTranspose(4, 3, strides=2, activation="relu"),
        layers.Cropping2D(1),
        layers.UpSampling2D(),
        layers.GlobalMaxPooling2D(),
        optimizer=keras.optimizers.AdamW(0.01, weight_decay=0.01),
    )


def conv_3d() -> keras.Model:
    return scaled(
        layers.Reshape((2, 4, 8, 1)),
        layers.Conv3D(8, (1, 3, 3), activation="relu"),
        layers.MaxPooling3D(2),
        layers.Flatten(),
    )


# Normalizing, and noise


def batch_normalization() -> keras.Model:
    return scaled(
        layers.Flatten(),
        layers.Dense(32, use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.Activation("relu"),
        layers.ActivityRegularization(l2=1e-4),
    )


def layer_normalization() -> keras.Model:
    grouped = [layers.Reshape(PLANE), layers.Conv2D(8, 3), layers.GroupNormalization(4), layers.ReLU()]
    return scaled(*grouped, layers.Flatten(), layers.LayerNormalization(), layers.RMSNormalization())


def spectral_normalization() -> keras.Model:
    convolution = layers.SpectralNormalization(layers.Conv2D(8, 3, activation="relu"))
    return scaled(layers.Reshape(PLANE), convolution, layers.Flatten(), layers.UnitNormalization(), optimizer="lion")


def noise() -> keras.Model:
    return scaled(
        layers.GaussianNoise(0.1),
        layers.SpatialDropout1D(0.1),
        layers.Flatten(),
        layers.Dense(32, activation="selu", kernel_initializer="lecun_normal"),
        layers.AlphaDropout(0.1),
        layers.GaussianDropout(0.1),
    )


# Preprocessing


def adapted() -> keras.Model:
    """Adapt to pixels that are the same on each worker, as a notebook does with its data."""
    pixels = np.random.default_rng(0).integers(0, 17, (100, *SHAPE)).astype("float32")
    normalization = layers.Normalization(axis=None)
    normalization.adapt(pixels)
    edges = layers.Discretization(num_bins=4)
    edges.adapt(pixels)
    inputs = keras.Input(SHAPE)
    steps = layers.CategoryEncoding(4, output_mode="one_hot")(layers.Reshape((8, 8, 1))(edges(inputs)))
    x = layers.Concatenate()([layers.Flatten()(normalization(inputs)), layers.Flatten()(steps)])
    network = keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))
    network.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    return network


def augmented() -> keras.Model:
    return scaled(
        layers.Reshape(PLANE),
        layers.RandomFlip("horizontal"),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomRotation(0.05),
        layers.RandomZoom(0.1),
        layers.RandomContrast(0.1),
        layers.RandomBrightness(0.1, value_range=(0, 1)),
        layers.Resizing(12, 12),
        layers.CenterCrop(10, 10),
        layers.Conv2D(8, 3, activation="relu"),
        layers.Flatten(),
    )


def embedding() -> keras.Model:
    return compiled(
        layers.Flatten(),
        layers.Embedding(17, 4, embeddings_constraint="max_norm"),
        layers.Conv1D(8, 8, strides=8, activation="relu"),
        layers.Flatten(),
    )
