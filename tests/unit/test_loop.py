"""Test the compiled epoch in this process: it does what Keras's optimizer does, with operations that a GPU supports."""

import queue

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from mnist_job.config.settings import JobConfig
from mnist_job.data.arrays import Split
from mnist_job.models import reference
from mnist_job.training import loop, optimizer, private, reporter, states
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Training, Validation
from mnist_job.training.progress import Progress
from mnist_job.training.reporter import Reporter

IMAGES, BATCH, CLASSES = 50, 16, 3


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(0)
    return Split(
        random.integers(0, 256, (IMAGES, 4, 5), dtype=np.uint8), random.integers(0, CLASSES, IMAGES).astype(np.int32)
    )


def build(split: Split, batch: int = BATCH):
    keras.utils.set_random_seed(0)
    model = Compiled(reference.build((4, 5), CLASSES, 255, (6,)), 1e-2, split[:2])
    update = optimizer.update(model.optimizer, model.variables)
    training = ResidentBatches(split, batch, Share(0, 1), seed=0)
    validation = ResidentBatches(split, 32, Share(0, 1))
    strategy = tf.distribute.get_strategy()
    return Training(strategy, model, update, training), training, Validation(strategy, model, validation), validation


def test_every_epoch_runs_the_same_compiled_function(split):
    training, _, validating, _ = build(split)
    for epoch in range(3):
        training.whole(epoch)
        validating.whole(0)
    functions = (*training.functions, *validating.functions)
    assert [function.experimental_get_tracing_count() for function in functions] == [1, 1, 1, 1]


class Journal(queue.Queue):
    """A queue of what a reporter has written."""

    write = queue.Queue.put

    def all(self) -> list[Progress]:
        return [self.get() for _ in range(self.qsize())]


def test_an_epoch_can_be_watched_while_it_runs(split, monkeypatch):
    monkeypatch.setattr(reporter, "REPORT_SECONDS", 0)
    training, batches, _, _ = build(split, batch=1)
    journal = Journal()
    told_by = Reporter(journal.put, training.sums, batches, 2, done=0)
    for epoch in (1, 2):
        training.begin()
        with told_by.epoch(epoch):
            training.advance(batches.plan(epoch), 0, IMAGES)
            loss = training.end()[0]["loss"]
            seen = [journal.get(timeout=60)]  # a thread writes it, perhaps after the last step
        seen += journal.all()
        assert [told.step for told in seen] == sorted(told.step for told in seen)
        assert {(told.epoch, told.steps) for told in seen} == {(epoch, IMAGES)}
        assert (seen[-1].step, seen[-1].train_loss) == (IMAGES, pytest.approx(loss))
        assert seen[-1].images_per_second > 0
        assert (seen[-1].remaining_seconds > 0) == (epoch == 1)


@pytest.mark.parametrize(
    ("seen", "step", "images"),
    [(6, 1, 16), (12, 2, 32), (18, 3, 48), (20, 4, IMAGES)],  # the first of 3 workers takes 6 of 16 images
)
def test_how_far_all_workers_are_by_what_the_first_one_has_seen(split, seen, step, images):
    batches = ResidentBatches(split, BATCH, Share(0, 3), seed=0)
    assert batches.reached(seen, 0) == (step, images)
    journal, so_far = Journal(), tf.Variable(tf.zeros(3, tf.float64))
    with Reporter(journal.put, so_far, batches, 4, done=8).epoch(3):
        so_far.assign([seen / 2, seen, 0])
    (told,) = journal.all()
    assert told[:4] == (3, step, 4, 0.5)


def test_nothing_is_told_before_the_first_step(split, monkeypatch):
    monkeypatch.setattr(reporter, "REPORT_SECONDS", 0)
    journal, so_far = Journal(), tf.Variable(tf.zeros(3, tf.float64))
    with Reporter(journal.put, so_far, ResidentBatches(split, BATCH, Share(0, 1)), 1, done=0).epoch(1):
        pass
    assert journal.all() == []


# Operations for control flow, constants and reshapes: they run on the host or compute nothing.
HOST = {"Const", "While", "StatelessWhile", "Placeholder", "NoOp", "Identity", "IdentityN", "Range"}


def test_every_tensor_operation_of_an_epoch_has_a_gpu_kernel(split):
    """Without a GPU, this checks TensorFlow's list of kernels. Without a kernel, a step would copy data to the CPU."""
    training, _, validating, _ = build(split)
    functions = (*training.functions, *validating.functions)
    graphs = [function.get_concrete_function().graph.as_graph_def() for function in functions]
    nodes = [node for graph in graphs for function in graph.library.function for node in function.node_def]
    used = {(node.op, tuple(sorted((k, v.type) for k, v in node.attr.items() if v.type))) for node in nodes}
    missing = sorted({op for op, types in used if op not in HOST and not has_gpu_kernel(op, dict(types))})
    assert {"GatherV2", "MatMul"} <= {op for op, _ in used}
    assert missing == []


def has_gpu_kernel(op: str, types: dict[str, int]) -> bool:
    return any(
        kernel.device_type in ("GPU", "DEFAULT")
        and all(
            types.get(constraint.name) in (None, *constraint.allowed_values.list.type)
            for constraint in kernel.constraint
        )
        for kernel in kernels.get_registered_kernels_for_op(op).kernel
    )


def test_a_gather_of_bytes_would_have_no_gpu_kernel():
    """This is the reason why `on_device` packs pixels into words. If this test fails, that is no longer needed."""
    assert not has_gpu_kernel("GatherV2", {"Tparams": tf.uint8.as_datatype_enum})


def test_the_cosine_schedule_starts_at_the_learning_rate_and_ends_at_zero():
    schedule = loop.learning_rate(JobConfig(epochs=3, learning_rate=0.5), steps_per_epoch=7)
    assert [float(schedule(step)) for step in (0, 21)] == pytest.approx([0.5, 0])
    assert loop.learning_rate(JobConfig(learning_rate_schedule="constant", learning_rate=0.5), 7) == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_progress_of_a_loss_that_is_not_finite_has_none(split, value):
    journal, so_far = Journal(), tf.Variable(tf.zeros(3, tf.float64))
    with Reporter(journal.put, so_far, ResidentBatches(split, BATCH, Share(0, 1)), 1, done=0).epoch(1):
        so_far.assign([value, 16, 0])
    (told,) = journal.all()
    assert told.train_loss is None


def test_frozen_weights_are_no_states(monkeypatch):
    """A Keras that does not tell them apart is used as it is: the workers then exchange them, too."""
    frozen, norm = keras.layers.Dense(3, trainable=False), keras.layers.BatchNormalization()
    network = keras.Sequential([keras.Input((2,)), keras.Sequential([frozen]), norm, keras.layers.Dropout(0.5)])
    assert states.of(network) == [norm.moving_mean, norm.moving_variance]
    monkeypatch.setattr(private, "frozen", lambda _: iter(()))
    assert states.of(network) == [frozen.kernel, frozen.bias, norm.moving_mean, norm.moving_variance]
