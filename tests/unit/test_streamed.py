"""Test the training on a prepared data set: it reads shards as it goes, and computes what it computes in memory."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, prepared, shards, sources, stream, verify
from mnist_job.data.arrays import Split
from mnist_job.data.shards import Prepared
from mnist_job.data.streamed_part import StreamedPart
from mnist_job.errors import DataError, UsageError
from mnist_job.evaluation.measures import MOST_MISTAKES
from mnist_job.evaluation.task import classified, compiled_metrics
from mnist_job.models import origin, reference
from mnist_job.training import optimizer, pace
from mnist_job.training.batches import Batches, ResidentBatches, Share
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training
from mnist_job.training.streamed import StreamedBatches
from tests import prepared as written
from tests.unit.test_callbacks import Killed, train

ROWS, BATCH = 60, 32


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Prepared:
    """The digits in shards of 60 rows, in random order, as `prepare` would write them."""
    source = sources.read("digits")
    training = dataset.load_training(JobConfig(), source)
    order = np.random.default_rng(0).permutation(len(training.train))
    shuffled = Split(training.train.inputs[order], training.train.targets[order])
    parts = {"train": shuffled, "val": training.validation, "test": dataset.load_test(source)[0]}
    return written.prepared(tmp_path_factory.mktemp("digits"), parts, ROWS)


def losses(made: Batches, epochs: int) -> list[float]:
    keras.utils.set_random_seed(0)
    model = Compiled(reference.build((8, 8), 10, 16, (8,)), 1e-2, Split(*sources_examples()))
    training = Training(tf.distribute.get_strategy(), model, optimizer.update(model.optimizer, model.variables), made)
    return [training.whole(epoch)[0]["loss"] for epoch in range(epochs)]


def sources_examples() -> tuple[np.ndarray, np.ndarray]:
    return np.ones((2, 8, 8), np.uint8), np.zeros(2, np.int32)


def in_memory(reader: stream.Reader, epoch: int) -> Split:
    """Return the samples of an epoch in its order."""
    form = reader.data.manifest.form
    chunks = list(reader.chunks(0, epoch))
    inputs = np.concatenate([chunk.inputs[:, : form.row_bytes] for chunk in chunks])
    return Split(inputs.reshape(-1, *form.shape), np.concatenate([chunk.targets for chunk in chunks]))


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 1 << 24])
def test_it_has_the_losses_of_the_same_order_in_memory(digits, monkeypatch, chunk_bytes):
    part = StreamedPart(digits, "train")
    order = in_memory(part.reader(BATCH, 0, 1), 0)
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk_bytes)
    streamed = StreamedBatches(part, BATCH, Share(0, 1), seed=0)
    resident = ResidentBatches(order, BATCH, Share(0, 1))
    assert losses(streamed, 1) == losses(resident, 1)


def test_the_summary_is_that_of_the_manifest(digits):
    config = JobConfig(data=digits.place)
    source = sources.read(config.data)
    summary = dataset.check(config, source)
    assert (summary.train, summary.validation, summary.test, summary.classes) == (1149, 288, 360, 10)
    assert (summary.image_shape, summary.scale, summary.most_workers) == ((8, 8), 16.0, 5)
    assert verify.load_training(config, source, summary.training_facts).facts == summary.training_facts
    test = verify.load_test(source, summary.test_facts)
    in_memory = dataset.load_test(sources.read("digits"))[0].inputs_of(np.arange(360))
    np.testing.assert_array_equal(np.concatenate([piece.inputs for piece in test.pieces()]), in_memory)
    with pytest.raises(UsageError, match=r"--validation-fraction 0\.3: .* has its own validation part"):
        dataset.check(config.model_copy(update={"validation_fraction": 0.3}), source)
    with pytest.raises(DataError, match="1149 training images are fewer than one batch of 1150"):
        dataset.check(config.model_copy(update={"batch_size": 1150}), source)


def test_the_evaluation_reads_shard_by_shard_and_gives_the_digits_of_the_data_in_memory(digits, monkeypatch):
    network = reference.build((8, 8), 10, 16, (8,))
    network.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    there, whole = StreamedPart(digits, "test"), dataset.load_test(sources.read("digits"))[0]
    read, names = Prepared.read, []

    def noted(self, shard):
        names.append(shard.file)
        return read(self, shard)

    monkeypatch.setattr(Prepared, "read", noted)
    ours = classified(network, there, "the model", "digits")
    shards_of_test = [shard.file for shard in digits.manifest.parts["test"]]
    assert names[: len(shards_of_test)] == shards_of_test
    assert len(set(names[len(shards_of_test) :])) == len(names[len(shards_of_test) :])  # once more, for the mistakes
    expected = classified(network, whole, "the model", "digits")
    assert ours.loss == pytest.approx(expected.loss, rel=1e-6)
    assert replace(ours, loss=0, mistakes=[]) == replace(expected, loss=0, mistakes=[])
    assert len(ours.mistakes) == MOST_MISTAKES
    for mine, theirs in zip(ours.mistakes, expected.mistakes, strict=True):
        assert mine.probability == pytest.approx(theirs.probability, rel=1e-5)
        assert mine.index == theirs.index or mine.probability == pytest.approx(theirs.probability, rel=1e-6)
    measured = compiled_metrics(network, there, "the model")
    assert measured == pytest.approx(compiled_metrics(network, whole, "the model"), rel=1e-6)
    assert measured["accuracy"] == pytest.approx(ours.accuracy)
    rows = np.array([359, 0, 61, 60])
    np.testing.assert_array_equal(there.inputs_of(rows), whole.inputs_of(rows))


def test_classes_have_their_weights(digits):
    config = JobConfig(data=digits.place, class_weight={3: 2.5})
    training = prepared.training(config, digits)
    assert isinstance(training.train, StreamedPart)
    batches = StreamedBatches(training.train, BATCH, Share(0, 1), seed=0)
    piece = next(batches.pieces(0))
    batch = batches.batch(piece.plan, tf.constant(2))
    assert batch.weights is not None
    assert batch.weights.numpy().tolist() == [2.5 if label == 3 else 1.0 for label in batch.targets.numpy()]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 200), st.integers(2, 5))
def test_parts_are_called_never_empty_only_if_they_never_are(digits, batch_size, workers):
    readers = [StreamedPart(digits, "train").reader(batch_size, rank, workers) for rank in range(workers)]
    if readers[0].has_samples_in_each_batch:
        for reader in readers:
            assert all(np.diff(chunk.starts).min() > 0 for chunk in reader.chunks(0, 0))


def test_the_run_is_resumed_within_an_epoch_with_the_same_digits(digits, tmp_path, monkeypatch):
    """Each chunk has five steps, and each start of the run takes a few steps more than one chunk."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 5 * BATCH * 64)
    config = JobConfig(data=digits.place, epochs=3, batch_size=BATCH, hidden_layers=(16,), learning_rate=0.01)
    start = origin.read(config)
    undisturbed = train(config, start, tmp_path / "whole", monkeypatch)
    accuracy = undisturbed[-1].validation_accuracy
    assert accuracy is not None
    assert accuracy > 0.8
    monkeypatch.setattr(pace, "FIRST_STEPS", 7)
    save, saved = Checkpoints.save, []

    def save_and_die(self, model, history, workers, callbacks, keep, middle=None):
        save(self, model, history, workers, callbacks, keep, middle)
        saved.append((len(history), middle.step if middle else 0))
        if middle:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    often = config.model_copy(update={"checkpoint_minutes": 1e-9})
    while len(history := train(often, start, tmp_path / "killed", monkeypatch)) < 3:
        pass
    assert len([step for _, step in saved if step]) > 6
    assert history == [replace(row, seconds=0) for row in undisturbed]


def test_a_shard_that_is_missing_ends_the_training(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FIRST_PAUSE_SECONDS", 0.0)
    training = dataset.load_training(JobConfig(), sources.read("digits"))
    parts = {"train": training.train, "val": training.validation, "test": training.validation}
    made = written.prepared(tmp_path / "data", parts, ROWS)
    (Path(made.folder) / made.manifest.parts["train"][4].file).unlink()
    config = JobConfig(data=made.place, hidden_layers=(8,))
    with pytest.raises(DataError, match=r"train/000240\.arrow: no such file; prepare the data set again"):
        train(config, origin.read(config), tmp_path / "run", monkeypatch)
