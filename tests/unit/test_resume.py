"""Test that a model with batch statistics, noise and augmentation ends the same wherever its training was killed."""

import re
from dataclasses import replace

import pytest
from pyarrow import fs

from mnist_job.config.settings import JobConfig
from mnist_job.errors import TrainingError
from mnist_job.models import origin
from mnist_job.training import pace
from mnist_job.training.checkpoint import Checkpoints
from tests.networks import STATEFUL
from tests.store import RUN
from tests.unit.test_callbacks import Killed, train


def test_it_has_the_digits_of_an_undisturbed_training_after_a_kill_at_every_epoch(tmp_path, monkeypatch):
    (tmp_path / "notebook.py").write_text(STATEFUL)
    own = {"model": f"{tmp_path}/notebook.py:model", "model_args": {"averages": True}}
    config = JobConfig(data="digits", epochs=4, batch_size=128, **own)
    start = origin.read(config)
    whole = train(config, start, tmp_path / "whole", monkeypatch)
    for epoch in (1, 2, 3, 4):
        history = train(config, start, tmp_path / "killed", monkeypatch, until=epoch)
        assert len(history) == epoch
    for ours, theirs in zip(history, whole, strict=True):
        for part in ("train", "validation"):
            assert ours.measured(part) == pytest.approx(theirs.measured(part), abs=1e-6)


CALLBACKS = """
from keras.callbacks import *

def callbacks():
    slower = LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    return [ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.5), slower]
"""


def test_it_has_the_digits_of_an_undisturbed_training_after_a_kill_within_an_epoch(tmp_path, monkeypatch):
    """Each start takes four or five steps. The noise, the metrics and the callbacks continue where they were."""
    (tmp_path / "notebook.py").write_text(STATEFUL + CALLBACKS)
    own = {"model": f"{tmp_path}/notebook.py:model", "callbacks": f"{tmp_path}/notebook.py:callbacks"}
    config = JobConfig(data="digits", epochs=3, batch_size=128, learning_rate_schedule="constant", **own)
    start = origin.read(config)
    whole = train(config, start, tmp_path / "whole", monkeypatch)
    monkeypatch.setattr(pace, "FIRST_STEPS", 1)
    save, saved = Checkpoints.save, []

    def save_and_die(self, model, history, workers, callbacks, keep, middle=None):
        save(self, model, history, workers, callbacks, keep, middle)
        saved.append((len(history), middle.step if middle else 0))
        if len(saved) % 4 == 0:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    often = config.model_copy(update={"checkpoint_minutes": 1e-9})
    while len(history := train(often, start, tmp_path / "killed", monkeypatch)) < 3:
        pass
    assert len(saved) == 27  # nine in each epoch: no step was taken twice
    assert saved == sorted(set(saved))
    assert history == [replace(row, seconds=0) for row in whole]


STOPS = """
import keras

class Enough(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.stop_training = True

def callbacks():
    return [Enough()]
"""


def test_a_callback_that_has_stopped_training_as_an_epoch_began_is_not_forgotten(tmp_path, monkeypatch):
    """The run is killed in the middle of that epoch."""
    (tmp_path / "notebook.py").write_text(STATEFUL + STOPS)
    own = {"model": f"{tmp_path}/notebook.py:model", "callbacks": f"{tmp_path}/notebook.py:callbacks"}
    config = JobConfig(data="digits", epochs=4, batch_size=128, checkpoint_minutes=1e-9, **own)
    start = origin.read(config)
    monkeypatch.setattr(pace, "FIRST_STEPS", 1)
    save = Checkpoints.save

    def save_and_die(self, model, history, workers, callbacks, keep, middle=None):
        save(self, model, history, workers, callbacks, keep, middle)
        if len(history) == 1 and middle:
            raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(Checkpoints, "save", save_and_die)
        assert len(train(config, start, tmp_path / "run", killed)) == 1
    history = train(config, start, tmp_path / "run", monkeypatch)
    assert [row.stopped_by for row in history] == [None, "Enough"]


DIVERGES = """
import keras
from keras import layers

def model(classes):
    network = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(classes)])
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([3], [1e-4, 1e38])  # the fifth update overflows
    network.compile(keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network
"""


def test_no_checkpoint_within_an_epoch_has_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    """The last good ones stay, so that the run can go on from there with `--on-nan ignore`."""
    (tmp_path / "notebook.py").write_text(DIVERGES)
    monkeypatch.setattr(pace, "FIRST_STEPS", 1)
    config = JobConfig(data="digits", batch_size=128, model=f"{tmp_path}/notebook.py:model", checkpoint_minutes=1e-9)
    with pytest.raises(TrainingError, match=r"epoch 1, step (\d): the training loss is not finite") as error:
        train(config, origin.read(config), tmp_path / "run", monkeypatch)
    bad = int(re.findall(r"step (\d)", str(error.value))[0])
    newest = Checkpoints(fs.LocalFileSystem(), str(tmp_path / "run/checkpoints"), RUN).newest()
    assert newest is not None
    assert newest.step == bad - 1
