"""Checkpoints: what is saved comes back, what is damaged is passed over, and nothing starts from nothing unnoticed."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from pyarrow import fs

from job import model
from job.checkpoint import HISTORY, MANIFEST, MODEL, OPTIMIZER, TRAINING, Changed, Checkpoints
from job.errors import TrainingError
from job.journal import Epoch
from tests.store import LATER, RUN

FILES = (MODEL, OPTIMIZER, HISTORY, TRAINING, MANIFEST)


def history(epochs: int) -> list[Epoch]:
    return [Epoch(epoch, 0.5, 0.4, 0.9, 1e-3, 1.5) for epoch in range(1, epochs + 1)]


@pytest.fixture
def trained():
    network = model.build((4, 5), 3, 255, (6,))
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(network.trainable_variables)
    return network, optimizer


def step(network, optimizer) -> None:
    optimizer.apply([keras.ops.ones_like(v) for v in network.trainable_variables], network.trainable_variables)


@pytest.fixture
def saved(trained, tmp_path) -> tuple[Checkpoints, Path]:
    """After three epochs: the last two are kept."""
    checkpoints = Checkpoints(fs.LocalFileSystem(), str(tmp_path / "checkpoints"), RUN)
    for epochs in (1, 2, 3):
        checkpoints.save(*trained, history(epochs), 2)
    return checkpoints, tmp_path / "checkpoints"


def test_the_last_two_are_kept(saved):
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == [f"0000002-{RUN}", f"0000003-{RUN}"]
    assert sorted(path.name for path in (folder / f"0000003-{RUN}").iterdir()) == sorted(FILES)


def test_model_optimizer_and_history_come_back(trained, saved):
    checkpoints, _ = saved
    step(*trained)
    checkpoints.save(*trained, history(4), 2)
    network, optimizer = trained
    expected = [np.asarray(v) for v in (*network.variables, *optimizer.variables)]
    step(*trained)
    newest = checkpoints.newest()
    assert newest is not None
    assert checkpoints.restore(newest.path, newest.manifest, *trained) == history(4) == newest.history
    for ours, theirs in zip((*network.variables, *optimizer.variables), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def damage(file: Path, how: str) -> None:
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        case "empty":
            file.write_bytes(b"")
        case "altered":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        case "gone":
            file.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "altered", "gone"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_passed_over_and_named(saved, file, how):
    checkpoints, folder = saved
    damage(folder / f"0000003-{RUN}" / file, how)
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.path, newest.history) == (str(folder / f"0000002-{RUN}"), history(2))
    assert len(newest.damaged) == 1
    assert newest.damaged[0].startswith(f"0000003-{RUN}")


@pytest.mark.parametrize("how", ["truncated", "empty", "altered", "gone"])
@pytest.mark.parametrize("file", FILES)
def test_where_none_is_intact_training_does_not_start_from_nothing(saved, file, how):
    checkpoints, folder = saved
    for checkpoint in folder.iterdir():
        damage(checkpoint / file, how)
    with pytest.raises(TrainingError, match=r"no checkpoint is intact .*0000003-.*0000002-.*--force"):
        checkpoints.newest()


def test_a_first_checkpoint_that_was_never_finished_is_none(trained, tmp_path):
    checkpoints = Checkpoints(fs.LocalFileSystem(), str(tmp_path), RUN)
    assert checkpoints.newest() is None
    checkpoints.save(*trained, history(1), 2)
    (tmp_path / f"0000001-{RUN}" / MANIFEST).unlink()
    assert checkpoints.newest() is None


def test_a_checkpoint_of_before_training_accuracy_was_measured_is_gone_on_with(saved):
    checkpoints, folder = saved
    former = [{k: v for k, v in asdict(row).items() if k != "train_accuracy"} for row in history(3)]
    newest = folder / f"0000003-{RUN}"
    (newest / HISTORY).write_text(json.dumps(former))
    manifest = json.loads((newest / MANIFEST).read_text())
    manifest[HISTORY] = hashlib.sha256((newest / HISTORY).read_bytes()).hexdigest()
    (newest / MANIFEST).write_text(json.dumps(manifest))
    assert checkpoints.newest().history == history(3)


def test_a_run_never_writes_into_anothers_checkpoint(trained, saved, tmp_path):
    """What a killed run's last process still writes cannot damage what the next run saves."""
    _, folder = saved
    Checkpoints(fs.LocalFileSystem(), str(folder), LATER).save(*trained, history(3), 2)
    assert sorted(path.name for path in folder.iterdir()) == [f"0000003-{RUN}", f"0000003-{LATER}"]
