"""Test callbacks: called as `fit` calls them, with a state that survives every kill, and refused with the reason."""

import queue
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from pyarrow import fs

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset
from mnist_job.data.dataset import Split
from mnist_job.errors import TrainingError, UsageError
from mnist_job.models import source
from mnist_job.models.source import Shapes
from mnist_job.phases import Clock
from mnist_job.training import callback_state, loop, optimizer, preflight, stopping
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.callbacks import INSTEAD, NOT_CALLED, Callbacks
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.compiled import Compiled
from mnist_job.training.progress import Epoch
from tests.store import RUN

HEAD = "import keras\nfrom keras.callbacks import *\n"
NOTEBOOK = """
class Notes(Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_begin(self, logs=None):
        self.rate = self.model.optimizer.learning_rate

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["val_loss"])
        if len(self.losses) == 5:
            self.model.stop_training = True

def callbacks():
    seen = []

    def halved(epoch, rate):
        return rate / 2 if len(seen) == 2 else rate

    return [
        ReduceLROnPlateau("val_accuracy", mode="max", factor=0.5, patience=2, min_delta=0.5),
        LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"])),
        LearningRateScheduler(halved),
        Notes(),
    ]
"""


def written(folder: Path, text: str) -> source.Source:
    (folder / "notebook.py").write_text(HEAD + text)
    return source.read(None, {}, None, (8,), f"{folder}/notebook.py:callbacks")


class Killed(BaseException):
    """Ends the loop as a kill would, after an epoch's checkpoint."""


def train(config: JobConfig, network: source.Source, folder: Path, monkeypatch, *, until: int = 1000) -> list[Epoch]:
    """Run the loop on one worker without Ray, and end it after the epoch `until`. Return the history of its folder."""
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    collective = SimpleNamespace(broadcast_from_rank_zero=lambda value: value)
    node = SimpleNamespace(get_node_id=lambda: "node")
    ray = SimpleNamespace(
        train=SimpleNamespace(get_context=lambda: alone, collective=collective), get_runtime_context=lambda: node
    )
    monkeypatch.setattr(loop, "ray", ray)
    monkeypatch.setattr(loop, "joined", lambda config: tf.distribute.get_strategy())

    def tell(entry):
        if isinstance(entry, Epoch) and entry.epoch == until:
            raise Killed

    checkpoints = Checkpoints(fs.LocalFileSystem(), str(folder / "checkpoints"), RUN)
    checked = dataset.check(config).training_facts
    (folder / str(until)).mkdir(exist_ok=True, parents=True)
    with network.code.importable(folder / str(until)):
        try:
            loop.train(config, network, checked, checkpoints, tell, Clock())
        except Killed:
            pass
    newest = checkpoints.newest()
    assert newest is not None
    return [replace(row, seconds=0) for row in newest.history]


CONFIG = JobConfig(
    data="digits",
    hidden_layers=(8,),
    epochs=9,
    batch_size=256,
    learning_rate=0.05,
    learning_rate_schedule="constant",
    callbacks="notebook.py:callbacks",
)


def test_a_run_that_is_killed_after_every_epoch_has_the_digits_of_an_undisturbed_one(tmp_path, monkeypatch):
    """The plateau, the list that two functions have enclosed, and the list of the user's class."""
    network = written(tmp_path, NOTEBOOK)
    whole = train(CONFIG, network, tmp_path / "whole", monkeypatch)
    for epoch in (1, 2, 3, 4, 5, 6):
        history = train(CONFIG, network, tmp_path / "killed", monkeypatch, until=epoch)
    assert history == whole
    assert [row.learning_rate for row in whole] == pytest.approx([0.05, 0.05, 0.025, 0.0125, 0.0125])
    assert [row.stopped_by for row in whole] == [None] * 4 + ["Notes"]
    assert stopping.ended(whole, CONFIG) == "the callback Notes stopped it"
