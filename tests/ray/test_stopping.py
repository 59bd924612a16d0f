"""Test a run that ends early, keeps its best epoch and calls callbacks: killed and resumed, it ends as undisturbed."""

import json
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from tests.conftest import job, start
from tests.ray.test_lost import end

NOTEBOOK = """
import keras

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
SETTINGS = {
    "data": "digits",
    "learning_rate": 0.02,
    "learning_rate_schedule": "constant",
    "batch_size": 4,
    "hidden_layers": 16,
    "epochs": 40,
    "patience": 3,
    "keep": "best",
    "monitor": "validation_accuracy",
    "callbacks": "notebook.py:callbacks",
}
RUN = ("run", *(word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))))


def outcome(folder: Path) -> dict:
    return json.loads((folder / "mnist-job/outcome.json").read_text())


def test_it_ends_early_with_the_best_epoch_and_the_same_digits_after_a_kill(tmp_path):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    result = job(*RUN, "--output", "undisturbed", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    end(start(*RUN, cwd=tmp_path), signal.SIGTERM, 130, after="epoch  2/40")
    result = job(*RUN, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "from epoch " in result.stdout
    ended, whole = outcome(tmp_path / "runs"), outcome(tmp_path / "undisturbed")
    kept, history = ended["training"]["kept_epoch"], ended["training"]["history"]
    assert (kept, ended["training"]["ended"]) == (
        len(history) - 3,
        "validation_accuracy has not improved for 3 epochs",
    )
    assert f"training ended after {len(history)} of 40 epochs: validation_accuracy has not impr" in result.stdout
    assert len({row["learning_rate"] for row in history}) > 2
    for ours, theirs in zip(history, whole["training"]["history"], strict=True):
        for column in ("train_loss", "validation_loss", "validation_accuracy", "learning_rate"):
            assert ours[column] == pytest.approx(theirs[column], abs=1e-6), column
    assert ended["evaluation"]["loss"] == pytest.approx(whole["evaluation"]["loss"], abs=1e-6)
    assert list(ended["identity"]["code"]) == ["notebook.py"]
    validation = dataset.load_training(JobConfig(), sources.read("digits")).validation
    saved = keras.saving.load_model(tmp_path / "runs/mnist-job/model.keras")
    probabilities = saved.predict(validation.inputs, verbose=0)[np.arange(len(validation)), validation.targets]
    losses = [row["validation_loss"] for row in history]
    assert float(-np.log(probabilities).mean()) == pytest.approx(losses[kept - 1], rel=1e-4)
    assert losses[-1] != pytest.approx(losses[kept - 1], rel=1e-3)


FAILS = """
import keras

class Own(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise ConnectionError("no one listens")

def callbacks():
    return [Own()]
"""


def test_an_exception_of_a_callback_ends_the_run_without_a_retry(tmp_path):
    """Also one that may pass if a worker of ours has it."""
    (tmp_path / "notebook.py").write_text(FAILS)
    arguments = ("run", "--data", "digits", "--workers", "1", "--callbacks", "notebook.py:callbacks")
    result = job(*arguments, cwd=tmp_path)
    told = "notebook.py:callbacks: Own: notebook.py:7: in on_epoch_end(): ConnectionError: no one listens"
    assert (result.returncode, result.stderr) == (5, f"mnist-job: --callbacks {told}\n")
    assert "restart" not in result.stdout
