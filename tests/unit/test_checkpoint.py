"""Test checkpoints: restored as they were saved, skipped if damaged, and never all ignored without an error."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from pyarrow import fs

from mnist_job.bounds import worth_a_restart
from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.data.arrays import Split
from mnist_job.errors import TrainingError
from mnist_job.evaluation.task import Evaluator
from mnist_job.log import Log
from mnist_job.models import origin as origins
from mnist_job.models import reference
from mnist_job.pipeline import train
from mnist_job.pipeline.stages import Run
from mnist_job.results.outcome import TrainingRecord
from mnist_job.storage.folder import RunFolder
from mnist_job.training import stopping
from mnist_job.training.checkpoint import HISTORY, MANIFEST, MODEL, OPTIMIZER, TRAINING, Changed, Checkpoints
from mnist_job.training.compiled import Compiled
from mnist_job.training.middle import Middle
from mnist_job.training.progress import Epoch
from mnist_job.usercode.files import Code
from tests.store import LATER, RUN

FILES = (MODEL, OPTIMIZER, HISTORY, TRAINING, MANIFEST)


def history(epochs: int) -> list[Epoch]:
    return [Epoch(epoch, 0.5, 0.4, 0.9, 1e-3, 1.5) for epoch in range(1, epochs + 1)]


@pytest.fixture
def trained():
    examples = Split(np.zeros((2, 4, 5), np.uint8), np.zeros(2, np.int32))
    model = Compiled(reference.build((4, 5), 3, 255, (6,)), 1e-2, examples)
    model.optimizer.build(model.variables)
    return model


def step(model) -> None:
    model.optimizer.apply([keras.ops.ones_like(v) for v in model.variables], model.variables)


@pytest.fixture
def saved(trained, tmp_path) -> tuple[Checkpoints, Path]:
    """Save a checkpoint after each of three epochs. The last two are kept."""
    checkpoints = Checkpoints(fs.LocalFileSystem(), str(tmp_path / "checkpoints"), RUN)
    for epochs in (1, 2, 3):
        checkpoints.save(trained, history(epochs), 2)
    return checkpoints, tmp_path / "checkpoints"


def test_the_last_two_are_kept(saved):
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == [f"0000002-{RUN}", f"0000003-{RUN}"]
    assert sorted(path.name for path in (folder / f"0000003-{RUN}").iterdir()) == sorted(FILES)


def test_model_optimizer_and_history_come_back(trained, saved):
    checkpoints, _ = saved
    step(trained)
    checkpoints.save(trained, history(4), 2)
    network, optimizer = trained.network, trained.optimizer
    expected = [np.asarray(v) for v in (*network.variables, *optimizer.variables)]
    step(trained)
    newest = checkpoints.newest()
    assert newest is not None
    assert checkpoints.restore(newest.path, newest.manifest, trained) == (history(4), None)
    assert newest.history == history(4)
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
def test_without_an_intact_checkpoint_training_does_not_start_again(saved, file, how):
    checkpoints, folder = saved
    for checkpoint in folder.iterdir():
        damage(checkpoint / file, how)
    with pytest.raises(TrainingError, match=r"no checkpoint is intact .*0000003-.*0000002-.*--force"):
        checkpoints.newest()


def test_an_unfinished_first_checkpoint_is_ignored(trained, tmp_path):
    checkpoints = Checkpoints(fs.LocalFileSystem(), str(tmp_path), RUN)
    assert checkpoints.newest() is None
    checkpoints.save(trained, history(1), 2)
    (tmp_path / f"0000001-{RUN}" / MANIFEST).unlink()
    assert checkpoints.newest() is None


def test_a_checkpoint_without_training_accuracy_is_resumed(saved):
    checkpoints, folder = saved
    former = [{k: v for k, v in asdict(row).items() if k != "train_accuracy"} for row in history(3)]
    newest = folder / f"0000003-{RUN}"
    (newest / HISTORY).write_text(json.dumps(former))
    manifest = json.loads((newest / MANIFEST).read_text())
    manifest[HISTORY] = hashlib.sha256((newest / HISTORY).read_bytes()).hexdigest()
    (newest / MANIFEST).write_text(json.dumps(manifest))
    assert checkpoints.newest().history == history(3)


def test_a_run_never_writes_into_anothers_checkpoint(trained, saved, tmp_path):
    """The last process of a killed run may still write. It must not damage what the next run saves."""
    _, folder = saved
    Checkpoints(fs.LocalFileSystem(), str(folder), LATER).save(trained, history(3), 2)
    assert sorted(path.name for path in folder.iterdir()) == [f"0000003-{RUN}", f"0000003-{LATER}"]


def test_a_checkpoint_that_a_killed_run_did_not_finish_counts_for_nothing_and_is_removed(trained, saved):
    """A run was killed while it saved epoch 4. The next run saves it again, and must keep epoch 3."""
    _, folder = saved
    unfinished = folder / f"0000004-{RUN}"
    unfinished.mkdir()
    (unfinished / MODEL).write_bytes(b"half")
    later = Checkpoints(fs.LocalFileSystem(), str(folder), LATER)
    later.save(trained, history(4), 2)
    assert sorted(path.name for path in folder.iterdir()) == [f"0000003-{RUN}", f"0000004-{LATER}"]
    damage(folder / f"0000004-{LATER}" / MODEL, "altered")
    newest = later.newest()
    assert newest is not None
    assert newest.path == str(folder / f"0000003-{RUN}")


def test_a_damaged_checkpoint_that_is_newer_does_not_push_out_an_intact_one(trained, saved):
    """After a start from epoch 2, because epoch 3 is damaged, the run saves within epoch 3, and then its end."""
    _, folder = saved
    damage(folder / f"0000003-{RUN}" / MODEL, "altered")
    later = Checkpoints(fs.LocalFileSystem(), str(folder), LATER)
    assert later.newest() is not None
    later.save(trained, history(2), 2, middle=Middle(5, 1.0, 0.1, [np.zeros((1, 3))]))
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"0000002-{RUN}", f"0000002.000000005-{LATER}", f"0000003-{RUN}")
    ]
    for epoch in (3, 4):
        later.save(trained, history(epoch), 2)
    assert sorted(path.name for path in folder.iterdir()) == [f"0000003-{LATER}", f"0000004-{LATER}"]


def test_an_unfinished_checkpoint_that_is_newer_is_left_to_who_writes_it(trained, saved):
    checkpoints, folder = saved
    (folder / f"0000009-{LATER}").mkdir()
    checkpoints.save(trained, history(4), 2)
    assert sorted(path.name[:7] for path in folder.iterdir()) == ["0000003", "0000004", "0000009"]


def test_other_files_among_the_checkpoints_are_left_alone(trained, saved):
    checkpoints, folder = saved
    theirs = [folder / "0000001-mine", folder / f"0000002-{RUN}" / "mine", folder / "notes.txt"]
    theirs[0].mkdir()
    for file in theirs[1:]:
        file.write_text("mine")
    checkpoints.save(trained, history(4), 2)
    assert all(path.exists() for path in theirs)
    assert [path.name for path in (folder / f"0000002-{RUN}").iterdir()] == ["mine"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.history == history(4)


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, HISTORY])
def test_a_checkpoint_that_is_replaced_after_it_was_chosen_is_not_restored(trained, saved, file):
    """It is not restored even if the new one is intact. The workers choose again when they restart."""
    checkpoints, folder = saved
    newest = checkpoints.newest()
    assert newest is not None
    place = folder / f"0000003-{RUN}"
    step(trained)
    manifest = json.loads((place / MANIFEST).read_text())
    (place / file).write_bytes(other := (place / file).read_bytes() + b" ")
    (place / MANIFEST).write_text(json.dumps(manifest | {file: hashlib.sha256(other).hexdigest()}))
    before = [np.asarray(variable) for variable in trained.network.variables]
    with pytest.raises(Changed, match=f"{file} has changed since it was written") as changed:
        checkpoints.restore(newest.path, newest.manifest, trained)
    assert worth_a_restart(changed.value)
    for ours, theirs in zip(trained.network.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def test_a_checkpoint_has_the_number_of_workers_unless_it_is_old(saved):
    checkpoints, folder = saved
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.workers == 2
    place = folder / f"0000003-{RUN}"
    (place / TRAINING).unlink()
    manifest = json.loads((place / MANIFEST).read_text())
    del manifest[TRAINING]
    (place / MANIFEST).write_text(json.dumps(manifest))
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest.workers, newest.history, newest.damaged) == (None, history(3), [])


def test_an_elastic_run_that_only_evaluates_reports_what_is_known_of_its_training(trained, tmp_path):
    config = JobConfig(data="digits", workers="1:8", epochs=3, output=str(tmp_path))
    with RunFolder.opened(config.output, config.name, RUN) as folder:
        Checkpoints(folder.filesystem, folder.checkpoints, RUN).save(trained, history(3), 3)
        summary = dataset.check(config, sources.read(config.data))
        origin = origins.read(config)
        _, record = train.train(Run(config, Log()), config, origin, summary, folder, Evaluator(config, Code()))
    assert record == TrainingRecord(3, None, None, history(3), 3, "all epochs are trained")


def rows(*losses: float | None) -> list[Epoch]:
    return [Epoch(epoch, loss, loss, 0.9, 1e-3, 1.5) for epoch, loss in enumerate(losses, 1)]


BEST = JobConfig(data="digits", epochs=5, keep="best")
WHOLE = rows(0.5, 0.2, 0.4, None, 0.3)


@pytest.fixture
def second_is_best(trained, tmp_path) -> Checkpoints:
    """Save a checkpoint after each of five epochs, of which the second is the best."""
    checkpoints = Checkpoints(fs.LocalFileSystem(), str(tmp_path / "checkpoints"), RUN)
    for epochs in range(1, 6):
        step(trained)
        checkpoints.save(trained, WHOLE[:epochs], 2, keep=stopping.epochs_to_keep(WHOLE[:epochs], BEST))
    return checkpoints


def test_the_best_epochs_checkpoint_is_kept_besides_the_newest_and_its_model_is_the_result(second_is_best, tmp_path):
    assert sorted(path.name[:7] for path in (tmp_path / "checkpoints").iterdir()) == ["0000002", "0000004", "0000005"]
    newest = second_is_best.newest()
    kept, record = train.kept(second_is_best, BEST, newest, 0, 1.0)
    assert kept.path == str(tmp_path / f"checkpoints/0000002-{RUN}")
    assert (record.kept.epoch, record.ended) == (2, "all epochs are trained")
    assert repr(record.history) == repr(WHOLE)
    assert kept.manifest[MODEL] != newest.manifest[MODEL]
    last, record = train.kept(second_is_best, BEST.model_copy(update={"keep": "last"}), newest, 0, 1.0)
    assert (last, record.kept.epoch) == (newest, 5)


@pytest.mark.parametrize("how", ["altered", "gone"])
def test_no_other_model_takes_the_place_of_the_best_one(second_is_best, tmp_path, how):
    damage(tmp_path / "checkpoints" / f"0000002-{RUN}" / MODEL, how)
    with pytest.raises(TrainingError, match=rf"the model of epoch 2, the best one, is lost \(0000002-{RUN}: .*--force"):
        train.kept(second_is_best, BEST, second_is_best.newest(), 0, 1.0)


def test_a_best_model_of_another_training_is_not_taken(trained, second_is_best, tmp_path):
    """A run that was lost with its best checkpoint trained on other workers, whose digits differ."""
    folder = tmp_path / "checkpoints"
    later = Checkpoints(fs.LocalFileSystem(), str(folder), LATER)
    later.save(trained, rows(0.5, 0.2001), 2, keep={2})
    assert second_is_best.of_epoch(2, WHOLE).path == str(folder / f"0000002-{RUN}")
    damage(folder / f"0000002-{RUN}" / MODEL, "altered")
    with pytest.raises(TrainingError, match=rf"0000002-{LATER} is of another training; 0000002-{RUN}: model.keras has"):
        second_is_best.of_epoch(2, WHOLE)


def half(policy: str) -> Compiled:
    keras.config.set_dtype_policy(policy)
    try:
        network = reference.build((4, 5), 3, 255, (6,))
    finally:
        keras.config.set_dtype_policy("float32")
    model = Compiled(network, 1e-2, Split(np.zeros((2, 4, 5), np.uint8), np.zeros(2, np.int32)))
    model.optimizer.build(model.variables)
    return model


def test_the_scale_of_the_loss_comes_back(tmp_path):
    model, checkpoints = half("mixed_float16"), Checkpoints(fs.LocalFileSystem(), str(tmp_path), RUN)
    step(model)
    model.optimizer.apply([keras.ops.full_like(v, np.inf) for v in model.variables], model.variables)  # halves it
    step(model)
    checkpoints.save(model, history(1), 2)
    newest, other = checkpoints.newest(), half("mixed_float16")
    assert newest is not None
    checkpoints.restore(newest.path, newest.manifest, other)
    assert float(other.optimizer.dynamic_scale) == other.optimizer.initial_scale / 2
    assert int(other.optimizer.step_counter) == 1
    for ours, theirs in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_of_half_precision_come_back(policy, tmp_path):
    model, checkpoints = half(policy), Checkpoints(fs.LocalFileSystem(), str(tmp_path), RUN)
    step(model)
    checkpoints.save(model, history(1), 2)
    newest, other = checkpoints.newest(), half(policy)
    assert newest is not None
    checkpoints.restore(newest.path, newest.manifest, other)
    for ours, theirs in zip(
        (*other.variables, *other.optimizer.variables), (*model.variables, *model.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
