"""Test the model and its loss against the notebook's."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from mnist_job.models import reference
from mnist_job.models.source import Shapes, Source


def test_it_is_the_notebooks_network():
    network = reference.build((28, 28), 10, 255, (128, 64))
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert [(layer.units, layer.activation.__name__) for layer in dense] == [
        (128, "relu"),
        (64, "relu"),
        (10, "softmax"),
    ]
    assert network.count_params() == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10


@pytest.mark.parametrize("shape", [(8, 8), (4, 5, 3)])
def test_it_takes_raw_images_and_gives_probabilities(shape):
    network = reference.build(shape, 3, 16, (5,))
    images = np.random.default_rng(0).integers(0, 17, (7, *shape), dtype=np.uint8)
    probabilities = network.predict_on_batch(images)
    assert probabilities.shape == (7, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    scaled = keras.Model(network.layers[1].output, network.output)  # after the scaling layer
    assert scaled.predict_on_batch(images / np.float32(16)) == pytest.approx(probabilities, abs=1e-6)


def test_without_hidden_layers_it_is_a_linear_classifier():
    assert reference.build((8, 8), 3, 16, ()).count_params() == 64 * 3 + 3


def test_it_loads_in_plain_keras_without_this_package(tmp_path):
    reference.build((8, 8), 3, 16, (5,)).save(tmp_path / "model.keras")
    script = (
        "import keras, sys, numpy as np\n"
        "network = keras.saving.load_model(sys.argv[1])\n"
        "print(network.predict_on_batch(np.zeros((2, 8, 8), np.uint8)).shape, 'mnist_job' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, tmp_path / "model.keras"], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[-2] == "(2, 3) False"


def test_the_loss_is_categorical_cross_entropy_on_one_hot_labels():
    random = np.random.default_rng(0)
    logits = random.normal(0, 5, (200, 10)).astype(np.float32)
    labels = random.integers(0, 10, 200)
    probabilities = keras.ops.softmax(logits)
    ours = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
    notebook = keras.losses.categorical_crossentropy(keras.utils.to_categorical(labels, 10), probabilities)
    assert np.asarray(ours) == pytest.approx(np.asarray(notebook), rel=1e-5, abs=1e-6)


@pytest.fixture
def policy():
    """Keras's policy is one for the whole process."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_its_hidden_layers_have_the_precision_that_is_asked_for(precision, tmp_path):
    """Its weights, its scaling and its softmax stay in float32, and so do they when it is loaded."""
    network = Source((5,), precision=precision).build(Shapes((8, 8), 3, 16, 0))
    network.save(tmp_path / "model.keras")
    for one in (network, keras.saving.load_model(tmp_path / "model.keras")):
        scaling, flat, dense, softmax = one.layers[1:]
        assert [scaling.compute_dtype, flat.compute_dtype, dense.compute_dtype, softmax.compute_dtype] == [
            "float32",
            precision,
            precision,
            "float32",
        ]
        assert {weight.dtype for weight in one.weights} == {"float32"}
