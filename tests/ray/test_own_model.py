"""Test a model of the user: trained by several workers as by one, resumed, evaluated, and recorded with its code."""

import json
import re
import signal
import zipfile
from pathlib import Path

import keras
import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from tests.conftest import job, start
from tests.networks import STATEFUL
from tests.ray.test_lost import end

# What a user has of a notebook: a model with all kinds of state, and callbacks, of which one is the user's own.
NOTEBOOK = (
    STATEFUL
    + """

class Slower(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["val_loss"])
        if len(self.seen) % 3 == 0:  # it counts on after a resume
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

def callbacks():
    return [keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.02), Slower()]
"""
)
RUN = ("run", "--data", "digits", "--model", "notebook.py:model", "--batch-size", "16", "--name", "own")
ENDS_EARLY = ("--epochs", "40", "--patience", "3", "--keep", "best", "--monitor", "validation_accuracy")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    return tmp_path


def outcome(folder: Path) -> dict:
    return json.loads((folder / "runs/own/outcome.json").read_text())


def test_it_is_killed_resumed_ended_early_and_evaluated_with_the_digits_of_an_undisturbed_run(folder):
    """The result is the best epoch, not the last one, and its record has the user's code."""
    run = (*RUN, *ENDS_EARLY, "--callbacks", "notebook.py:callbacks")
    assert job(*run, "--output", "undisturbed", cwd=folder).returncode == 0
    whole = json.loads((folder / "undisturbed/own/outcome.json").read_text())
    end(start(*run, cwd=folder), signal.SIGTERM, 130, after="epoch  2/40")
    result = job(*run, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "trying the model notebook.py:model" in result.stdout
    assert "from epoch " in result.stdout
    ended = outcome(folder)

    kept, history = ended["training"]["kept_epoch"], ended["training"]["history"]
    why = "validation_accuracy has not improved for 3 epochs"
    assert (kept, ended["training"]["ended"]) == (len(history) - 3, why)
    assert f"training ended after {len(history)} of 40 epochs: {why}" in result.stdout
    assert len({row["learning_rate"] for row in history}) > 2
    for ours, theirs in zip(history, whole["training"]["history"], strict=True):
        for column in ("train_loss", "validation_loss", "validation_accuracy", "learning_rate"):
            assert ours[column] == pytest.approx(theirs[column], abs=1e-6), column
        assert ours["validation_metrics"]["top3"] == pytest.approx(theirs["validation_metrics"]["top3"], abs=1e-6)
    found = ended["evaluation"]
    assert found["loss"] == pytest.approx(whole["evaluation"]["loss"], abs=1e-6)
    assert found["accuracy"] > 0.8
    assert found["metrics"]["loss"] == pytest.approx(found["loss"], rel=1e-5)  # the same, by Keras from the logits
    assert found["metrics"]["accuracy"] == pytest.approx(found["accuracy"])
    assert list(ended["identity"]["code"]) == ["notebook.py"]
    header = (folder / "runs/own/history.csv").read_text().splitlines()[0].split(",")
    assert {"train_top3", "validation_top3"} <= set(header)

    saved = keras.saving.load_model(folder / "runs/own/model.keras")
    assert [layer.synchronized for layer in saved.layers if isinstance(layer, keras.layers.BatchNormalization)] == [
        False
    ]
    validation = dataset.load_training(JobConfig(), sources.read("digits")).validation
    measured = saved.evaluate(validation.inputs, validation.targets, verbose=0, return_dict=True)
    losses = [row["validation_loss"] for row in history]
    assert measured["loss"] == pytest.approx(losses[kept - 1], rel=1e-4)
    assert losses[-1] != pytest.approx(losses[kept - 1], rel=1e-3)

    (folder / "notebook.py").write_text(NOTEBOOK.replace("0.25", "0.2"))
    result = job(*run, cwd=folder)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "the code has changed: notebook.py" in result.stderr


FAILS = """
import keras

class Own(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise ConnectionError("no one listens")

def callbacks():
    return [Own()]
"""


@pytest.mark.full
def test_an_exception_of_a_callback_ends_the_run_without_a_retry(tmp_path):
    """Also one that may pass if a worker of ours has it."""
    (tmp_path / "notebook.py").write_text(FAILS)
    arguments = ("run", "--data", "digits", "--workers", "1", "--callbacks", "notebook.py:callbacks")
    result = job(*arguments, cwd=tmp_path)
    told = "notebook.py:callbacks: Own: notebook.py:7: in on_epoch_end(): ConnectionError: no one listens"
    assert (result.returncode, result.stderr) == (5, f"mnist-job: --callbacks {told}\n")
    assert "restart" not in result.stdout


REGRESSION = """
import keras
import numpy as np
from keras import layers

def data():
    x = np.random.rand(600, 4)
    y = x @ [1.0, -2.0, 3.0, 0.5]
    return (x[:500], y[:500], x[:500, 0]), (x[500:], y[500:])

def model(input_shape):
    network = keras.Sequential([keras.Input(input_shape), layers.Dense(1)])
    network.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return network
"""


@pytest.mark.full
def test_quantities_are_learned_from_a_function_and_have_no_accuracy(tmp_path):
    (tmp_path / "notebook.py").write_text(REGRESSION)
    own = ("--data", "notebook.py:data", "--model", "notebook.py:model")
    run = ("run", *own, "--epochs", "20", "--workers", "1", "--name", "own")
    refused = job(*run, "--min-accuracy", "0.5", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--min-accuracy: the model is no classifier" in refused.stderr
    result = job(*run, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = outcome(tmp_path)["evaluation"]
    assert (found["samples"], found["accuracy"], found["recall"], found["image_shape"]) == (100, None, [], [4])
    assert found["loss"] == found["metrics"]["loss"] < 1e-2
    metrics = (tmp_path / "runs/own/metrics.prom").read_text()
    assert 'mnist_job_test_metric{dataset="notebook:data",metric="mae"}' in metrics
    assert "accuracy" not in metrics
    assert "Confusion" not in (tmp_path / "runs/own/report.html").read_text()
    assert job(*run, cwd=tmp_path).returncode == 0
    again = job("evaluate", "--data", "notebook.py:data", "--model", "runs/own/model.keras", cwd=tmp_path)
    assert f"test loss {found['loss']:.4f} (100 samples)" in again.stdout


def test_a_fault_ends_a_dry_run_with_a_line_and_nothing_written(folder):
    (folder / "notebook.py").write_text(NOTEBOOK.replace("Flatten", "Flat"))
    result = job(*RUN, "--dry-run", cwd=folder)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "notebook.py:14: in model(): AttributeError: " in result.stderr
    assert [path.name for path in folder.iterdir()] == ["notebook.py"]


def test_an_optimizer_of_its_own_has_its_own_learning_rate(folder):
    result = job(*RUN, "--dry-run", "--learning-rate", "0.1", cwd=folder)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "--learning-rate: notebook.py:model compiles an optimizer of its own" in result.stderr


DIVERGING = """
import keras
from keras import layers

def model(classes):
    network = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(classes)])
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([30], [1e-4, 1e38])  # the 32nd update overflows
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(rate), loss)
    return network

@keras.saving.register_keras_serializable()
class Gone(layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False)

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1)
            self.add_loss(keras.ops.where(self.calls == 30, float("nan"), 0.0))
        return x

def recovering(classes):
    network = keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Flatten(),
        Gone(),
        layers.Dense(32, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(classes),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    return network
"""
SHORT = ("run", "--data", "digits", "--batch-size", "50", "--epochs", "3", "--workers", "2", "--name", "own")


@pytest.mark.full
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(folder):
    """And so does the same command again, from the checkpoint before it."""
    (folder / "notebook.py").write_text(DIVERGING)
    for started in ("epoch 1/3", "from epoch 2"):
        result = job(*SHORT, "--model", "notebook.py:model", cwd=folder)
        assert (result.returncode, result.stderr.count("\n")) == (5, 1)
        assert "epoch 2, step 10: the training loss is not finite; lower the learning rate, or" in result.stderr
        assert "--on-nan ignore" in result.stderr
        assert started in result.stdout
        assert "restart" not in result.stdout
        (checkpoint,) = (folder / "runs").glob("**/checkpoints/*")
        assert checkpoint.name.startswith("0000001-")


@pytest.mark.full
def test_it_trains_on_without_it_by_halves_and_with_statistics_of_each_worker(folder):
    """Nothing that is published has a NaN, and the saved model is evaluated with its own precision."""
    (folder / "notebook.py").write_text(DIVERGING)
    own = ("--model", "notebook.py:recovering", "--on-nan", "ignore")
    result = job(*SHORT, *own, "--precision", "bfloat16", "--batch-norm", "per-worker", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "loss not finite" in result.stdout
    ended = outcome(folder)
    first, second, third = (row["train_loss"] for row in ended["training"]["history"])
    assert second is None
    assert first > third
    assert ended["evaluation"]["accuracy"] > 0.5
    assert ended["evaluation"]["metrics"]["loss"] == pytest.approx(ended["evaluation"]["loss"], rel=0.05)
    for file in ("outcome.json", "history.csv", "metrics.prom"):
        assert not re.search(r"\bnan\b", (folder / "runs/own" / file).read_text().replace("on-nan", ""), re.I)
    with zipfile.ZipFile(folder / "runs/own/model.keras") as saved:
        assert b"mixed_bfloat16" in saved.read("config.json")
