"""Test callbacks: called as `fit` calls them, with a state that survives every kill, and refused with the reason."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count, pairwise
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
from mnist_job.data.arrays import Split
from mnist_job.errors import TrainingError, UsageError
from mnist_job.models import origin
from mnist_job.models.origin import Origin
from mnist_job.models.source import Shapes
from mnist_job.phases import Clock
from mnist_job.training import loop, optimizer, preflight, stopping
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.callbacks import INSTEAD, NOT_CALLED, Callbacks
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training, Validation
from mnist_job.training.progress import Epoch
from mnist_job.usercode import function
from tests.store import RUN
from tests.unit.here import here

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
        if len(self.losses) == 4:
            self.model.stop_training = True

def callbacks():
    seen = []

    def halved(epoch, rate):
        return rate / 2 if len(seen) == 2 else rate

    return [
        ReduceLROnPlateau("val_accuracy", mode="max", factor=0.5, patience=1, min_delta=0.5),
        LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"])),
        LearningRateScheduler(halved),
        Notes(),
    ]
"""


def written(folder: Path, text: str) -> Origin:
    (folder / "notebook.py").write_text(HEAD + text)
    return origin.read(JobConfig(data="digits", hidden_layers=(8,), callbacks=f"{folder}/notebook.py:callbacks"))


class Killed(BaseException):
    """Ends the loop as a kill would, after an epoch's checkpoint."""


def train(config: JobConfig, start: Origin, folder: Path, monkeypatch, *, until: int = 1000) -> list[Epoch]:
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
    checked = dataset.check(config, start.data).training_facts
    (folder / str(until)).mkdir(exist_ok=True, parents=True)
    with here(start.code, folder / str(until)), suppress(Killed):
        loop.train(config, start, checked, checkpoints, tell, Clock())
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
    start = written(tmp_path, NOTEBOOK)
    whole = train(CONFIG, start, tmp_path / "whole", monkeypatch)
    for epoch in (1, 2, 3, 9):
        history = train(CONFIG, start, tmp_path / "killed", monkeypatch, until=epoch)
    assert history == whole
    assert [row.learning_rate for row in whole] == pytest.approx([0.05, 0.05, 0.0125, 0.00625])
    assert [row.stopped_by for row in whole] == [None, None, None, "Notes"]
    assert stopping.ended(whole, CONFIG) == "the callback Notes stopped it"


IMAGES = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
SPLIT = Split(IMAGES, IMAGES.reshape(200, -1)[:, :3].argmax(axis=1).astype(np.int32))


def compiled(rate=0.02) -> Compiled:
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((8, 8)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    network.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model = Compiled(network, 1e-3, SPLIT[:4])
    model.optimizer.build(model.variables)
    return model


MODULES = count()


def made(text: str, folder: Path, model: Compiled | None = None, agree=lambda value: value) -> Callbacks:
    """Return the callbacks of a file, whose module is another one each time."""
    name = f"notebook{next(MODULES)}"
    (folder / f"{name}.py").write_text(HEAD + text)
    found = function.read("--callbacks", f"{folder}/{name}.py:callbacks", None)
    assert found is not None
    with found.code.importable(folder / "there"):
        return Callbacks(found, model or compiled(), agree, epochs=3, steps=13)


def row(epoch: int, loss: float | None = 0.5) -> Epoch:
    return Epoch(epoch, loss, loss, 0.9, 1e-3, 1.5, train_accuracy=0.8)


def test_a_plateau_is_found_as_fit_finds_it(tmp_path):
    """16 epochs of 13 steps: the learning rates, the losses, the metrics and the final weights."""
    text = "def callbacks():\n    return [ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.01, cooldown=1)]"
    model, theirs = compiled(1.0), compiled(1.0).network
    batches, validation = (ResidentBatches(SPLIT, size, Share(0, 1), seed=0) for size in (16, 64))
    callbacks = made(text, tmp_path, model)
    strategy, update = tf.distribute.get_strategy(), optimizer.update(model.optimizer, model.variables)
    training, validating = Training(strategy, model, update, batches), Validation(strategy, model, validation)
    callbacks.train_begin()
    ours = []
    for epoch in range(16):
        callbacks.epoch_begin(epoch)
        trained, validated = training.whole(epoch)[0], validating.whole(0)[0]
        ended = Epoch(
            epoch + 1,
            trained["loss"],
            validated["loss"],
            validated["accuracy"],
            float(model.optimizer.learning_rate.numpy()),
            0,
            train_accuracy=trained["accuracy"],
        )
        ours.append(callbacks.epoch_end(ended))
    callbacks.train_end(ours[-1])

    def in_our_order() -> Iterator[tuple]:
        for epoch in range(16):
            indices, starts, _ = (part.numpy() for part in batches.plan(epoch))
            for start, end in pairwise(starts):
                yield SPLIT.inputs[indices[start:end]], SPLIT.targets[indices[start:end]]

    history = theirs.fit(
        in_our_order(),
        steps_per_epoch=batches.steps,
        shuffle=False,
        validation_data=(SPLIT.inputs, SPLIT.targets),
        validation_batch_size=64,
        epochs=16,
        callbacks=[keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.01, cooldown=1)],
        verbose=0,
    ).history
    rates = history["learning_rate"]
    assert len(set(rates)) > 3
    assert [row.learning_rate for row in ours] == pytest.approx(rates)
    assert [row.train_loss for row in ours] == pytest.approx(history["loss"], rel=1e-5)
    assert [row.validation_loss for row in ours] == pytest.approx(history["val_loss"], rel=1e-5)
    for mine, other in zip(model.network.get_weights(), theirs.get_weights(), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_the_job_does_itself_is_refused_with_what_to_use(tmp_path, name):
    argument = {"ModelCheckpoint": "'model.keras'", "BackupAndRestore": "'there'", "CSVLogger": "'log.csv'"}
    with pytest.raises(UsageError) as refusal:
        made(f"def callbacks():\n    return [{name}({argument.get(name, '')})]", tmp_path)
    assert f".py:callbacks: {name}: leave it out: {INSTEAD[name]}" in str(refusal.value)


@pytest.mark.parametrize(
    "how", ["class Own(Callback):\n    def {}(self, *_, **__): ...", "Own = lambda: LambdaCallback({}=print)"]
)
def test_a_hook_that_is_never_called_is_refused(tmp_path, how):
    model = compiled()
    for hook in NOT_CALLED:
        text = f"{how.format(hook)}\ndef callbacks():\n    return [Own()]"
        with pytest.raises(UsageError, match=rf": (Own|LambdaCallback): has its own {hook}\(\), but an epoch is one "):
            made(text, tmp_path, model)


@pytest.mark.parametrize(
    ("returned", "refusal"),
    [
        ("5", "callbacks() returned int, no list of callbacks"),
        ("Callback()", "callbacks() returned Callback, no list of callbacks"),
        ("[5]", "int: is no keras.callbacks.Callback"),
        ("[1 / 0]", "4: in callbacks(): ZeroDivisionError: division by zero"),
        ("[ReduceLROnPlateau('val_auc')]", "does not measure val_auc; it measures loss, accuracy, val_loss, val_acc"),
    ],
)
def test_a_fault_is_told_in_a_line(tmp_path, returned, refusal):
    with pytest.raises(UsageError) as refused:
        made(f"def callbacks():\n    return {returned}", tmp_path)
    assert refusal in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_exception_is_told_with_the_users_line(tmp_path):
    callbacks = made(
        "class Own(Callback):\n    def on_epoch_end(self, epoch, logs):\n        logs['none']\n"
        "def callbacks():\n    return [Own()]",
        tmp_path,
    )
    callbacks.train_begin()
    callbacks.epoch_begin(0)
    with pytest.raises(
        TrainingError, match=r"callbacks: Own: notebook\d+\.py:5: in on_epoch_end\(\): KeyError: 'none'$"
    ):
        callbacks.epoch_end(row(1))


SETS = """
class Own(Callback):
    def on_epoch_begin(self, epoch, logs):
        self.model.optimizer.learning_rate = {}
"""


def test_a_learning_rate_with_a_schedule_cannot_be_set(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
    with pytest.raises(UsageError, match="ReduceLROnPlateau: sets the learning rate, but the optimizer has a schedule"):
        made("def callbacks():\n    return [ReduceLROnPlateau()]", tmp_path, compiled(schedule))
    callbacks = made(f"{SETS.format(0.1)}def callbacks():\n    return [Own()]", tmp_path, compiled(schedule))
    with pytest.raises(TrainingError, match=r"py:6: in on_epoch_begin\(\): TypeError: .*; compile it with a number$"):
        callbacks.epoch_begin(0)


def test_a_schedule_instead_of_a_number_would_have_no_effect(tmp_path):
    decay = SETS.format("keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)")
    callbacks = made(f"{decay}def callbacks():\n    return [Own()]", tmp_path)
    with pytest.raises(
        TrainingError, match="a callback has replaced the optimizer, or its learning rate by a schedule"
    ):
        callbacks.epoch_begin(0)


def test_the_first_worker_decides_what_could_differ(tmp_path):
    """Here the other worker has found a stop and a learning rate of its own."""
    model = compiled()
    text = SETS.format(0.25) + "        self.model.stop_training = True\ndef callbacks():\n    return [Own()]"
    first = iter([0.125, 0.0625, None])
    callbacks = made(text, tmp_path, model, lambda value: next(first))
    callbacks.epoch_begin(0)
    assert float(model.optimizer.learning_rate.numpy()) == 0.125
    assert callbacks.epoch_end(row(1)).stopped_by is None
    assert float(model.optimizer.learning_rate.numpy()) == 0.0625


def test_a_loss_that_is_not_a_number_terminates_at_the_end_of_its_epoch(tmp_path, capfd):
    callbacks = made("def callbacks():\n    return [Callback(), TerminateOnNaN()]", tmp_path)
    assert callbacks.epoch_end(row(1)).stopped_by is None
    assert callbacks.epoch_end(row(2, None)).stopped_by == "TerminateOnNaN"


LOCKED = """
import threading

class Own(Callback):
    def on_train_begin(self, logs):
        self.lock = threading.Lock()
"""


def test_a_state_that_cannot_be_saved_is_refused_unless_it_is_left_out(tmp_path):
    text = f"{LOCKED}def callbacks():\n    return [Own()]"
    with pytest.raises(
        TrainingError, match=r"Own: the checkpoints cannot have its attribute lock, .* TypeError: cannot"
    ):
        made(text, tmp_path).train_begin()
    state = "    def __getstate__(self):\n        return {'lines': 3}\n"
    state += "    def __setstate__(self, state):\n        self.lines = state['lines']\n"
    callbacks = made(text.replace("def callbacks", f"{state}def callbacks"), tmp_path)
    callbacks.train_begin()
    callbacks.restore(callbacks.state())
    (own,) = callbacks._callbacks
    assert (own.lines, own.lock.locked()) == (3, False)


def test_the_model_and_its_parts_are_those_of_the_new_process(tmp_path):
    text = """
class Own(Callback):
    def on_train_begin(self, logs):
        self.parts = [self.model, self.model.layers[-1], self.model.optimizer, self.model.layers[-1].kernel, self]

def callbacks():
    return [Own(), Own()]
"""
    model = compiled()
    former, new = made(text, tmp_path), made(text, tmp_path, model)
    former.train_begin()
    new.restore(former.state())
    network = model.network
    first, second = new._callbacks
    parts = [network, network.layers[-1], network.optimizer, network.layers[-1].kernel]
    assert all(mine is theirs for mine, theirs in zip(first.parts, [*parts, first], strict=True))
    assert second.parts[-1] is second


def test_a_dry_run_tries_the_callbacks_and_calls_none_of_their_methods(tmp_path):
    shapes, examples = Shapes((8, 8), 3, 255, 5), SPLIT[:16]
    written_down = f"open({str(tmp_path / 'called')!r}, 'w')"
    text = f"class Own(Callback):\n    def on_train_begin(self, logs):\n        {written_down}\n"
    start = written(tmp_path, f"{text}def callbacks():\n    return [Own(), ReduceLROnPlateau('val_accuracy')]")
    assert list(start.checksums) == ["notebook.py"]
    with (
        here(start.code, tmp_path / "imported") as apart,
        pytest.raises(
            UsageError, match=r"the optimizer has a schedule for it; give --learning-rate-schedule constant$"
        ),
    ):
        preflight.check(apart, start.model, start.callbacks, shapes, examples)
    assert not (tmp_path / "called").exists()
