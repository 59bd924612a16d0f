"""Test that a model with batch statistics, noise and augmentation ends the same wherever its training was killed."""

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.models import origin
from tests.unit.test_callbacks import train

NOTEBOOK = """
import keras
from keras import layers

def model(classes):
    network = keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Reshape((8, 8, 1)),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(classes),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(0.01, global_clipnorm=1.0, use_ema=True, ema_momentum=0.9)
    network.compile(optimizer, loss, metrics=["accuracy", "sparse_top_k_categorical_accuracy"])
    return network
"""


def test_it_has_the_digits_of_an_undisturbed_training_after_a_kill_at_every_epoch(tmp_path, monkeypatch):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    config = JobConfig(data="digits", model=f"{tmp_path}/notebook.py:model", epochs=4, batch_size=128)
    start = origin.read(config)
    whole = train(config, start, tmp_path / "whole", monkeypatch)
    for epoch in (1, 2, 3, 4):
        history = train(config, start, tmp_path / "killed", monkeypatch, until=epoch)
        assert len(history) == epoch
    for ours, theirs in zip(history, whole, strict=True):
        for part in ("train", "validation"):
            assert ours.measured(part) == pytest.approx(theirs.measured(part), abs=1e-6)
