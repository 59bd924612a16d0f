"""Test models of all families of Keras's layers: two workers train them, and plain Keras loads and evaluates them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.evaluation import task
from mnist_job.evaluation.measures import Answers, measure
from mnist_job.models import saved_model
from mnist_job.training.checkpoint import Checkpoint
from tests.ray import families, group

ALWAYS = ("bidirectional", "multi_head_attention", "batch_normalization", "augmented", "embedding")
SELDOM = (
    *(
        "time_distributed",
        "separable",
        "spectral_normalization",
        "noise",
        "adapted",
        "lstm",
        "gru",
        "conv_lstm",
        "grouped_query_attention",
        "attention",
        "additive_attention",
        "conv_1d",
        "conv_2d",
    ),
    *("transposed", "conv_3d", "layer_normalization"),
)
CONFIG = JobConfig(
    data="digits", cpus_per_worker=0.5, epochs=2, batch_size=41
)  # the last batch is an image, so a worker has none of it
DATA = sources.read("digits")

PLAIN_KERAS = """
import json, sys
import keras, numpy as np
data, *models = sys.argv[1:]
with np.load(data) as arrays:
    parts = {part: (arrays["x_" + part], arrays["y_" + part]) for part in ("val", "test")}
for place in models:
    model = keras.saving.load_model(place)
    found = {}
    for part, (images, labels) in parts.items():
        if model.loss == "categorical_crossentropy":
            labels = keras.utils.to_categorical(labels)
        found[part] = model.evaluate(images, labels, verbose=0, return_dict=True)
    print(json.dumps(found))
assert "mnist_job" not in sys.modules
"""


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory) -> dict[str, Checkpoint | str]:
    """The last checkpoint of each model that a selected test asks for, or the error that its training ended with."""
    tests = [test for test in request.session.items if test.path == request.path]
    place = Path(families.__file__)
    runs = {test.callspec.params["name"]: place for test in tests}
    configs = {name: CONFIG.model_copy(update={"model": f"{place}:{name}"}) for name in runs}
    return group.trained(2, configs, tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def by_keras(trained, tmp_path_factory) -> dict[str, dict[str, dict[str, float]]]:
    """What plain Keras measures with each model: loss and accuracy on the validation and the test images."""
    validation, test = dataset.load_training(CONFIG, DATA).validation, dataset.load_test(DATA)[0]
    data = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(data, x_val=validation.inputs, y_val=validation.targets, x_test=test.inputs, y_test=test.targets)
    models = {name: one.model.path for name, one in trained.items() if isinstance(one, Checkpoint)}
    command = [sys.executable, "-I", "-c", PLAIN_KERAS, data, *models.values()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(zip(models, map(json.loads, result.stdout.splitlines()), strict=True))


def evaluated(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the evaluate task measures on the test images.

    Its loss is the cross-entropy alone. A model with regularizers has them in its own loss, which Keras measures, too.
    """
    test = dataset.load_test(DATA)[0]
    candidate = task.Candidate(checkpoint.model, "the model", trusted=True)
    network = task.loaded(checkpoint.model, candidate, compiled=True, on_gpu=False)
    answers = Answers.collected(saved_model.probabilities(network, test.inputs, "the model"), test.targets, "digits")
    found = measure(answers, test.targets)
    loss = task.compiled_metrics(network, test, "the model")["loss"] if network.losses else found.loss
    return {"accuracy": found.accuracy, "loss": loss}


@pytest.mark.parametrize("name", [*ALWAYS, *(pytest.param(name, marks=pytest.mark.full) for name in SELDOM)])
def test_plain_keras_measures_what_the_run_has_measured(trained, by_keras, name):
    checkpoint = trained[name]
    assert isinstance(checkpoint, Checkpoint), checkpoint
    first, last = checkpoint.history
    assert last.train_loss < first.train_loss
    ours = {"val": last.measured("validation"), "test": evaluated(checkpoint)}
    for part, theirs in by_keras[name].items():
        assert ours[part]["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-7), part  # the same images
        assert ours[part]["loss"] == pytest.approx(theirs["loss"], rel=1e-5), part
