"""Test that a model with batch statistics, noise and augmentation ends the same wherever its training was killed."""

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.models import origin
from tests.networks import STATEFUL
from tests.unit.test_callbacks import train


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
