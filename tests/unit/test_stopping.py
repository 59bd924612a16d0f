"""Test when training ends, and which epoch is kept: functions of the history, so a resume decides the same."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_job.bounds import CHECKPOINTS_TO_KEEP
from mnist_job.config.settings import JobConfig
from mnist_job.errors import UsageError
from mnist_job.training import stopping
from mnist_job.training.progress import Epoch

LOSSES = [0.5, 0.3, 0.4, 0.3, 0.2, None, 0.2, 0.3]  # None: not finite


def history(losses: list[float | None], stopped_by: str | None = None) -> list[Epoch]:
    return [
        Epoch(n, loss, loss, accuracy, 1e-3, 1.5, stopped_by=stopped_by, validation_metrics={"auc": loss})
        for n, loss in enumerate(losses, 1)
        for accuracy in [None if loss is None else 1 - loss]
    ]


@pytest.mark.parametrize(
    ("settings", "epochs", "reason", "kept"),
    [
        ({}, 8, "all epochs are trained", 8),
        ({"keep": "best"}, 8, "all epochs are trained", 5),
        ({"patience": 1}, 3, "validation_loss has not improved for 1 epoch", 3),
        ({"patience": 2, "keep": "best"}, 4, "validation_loss has not improved for 2 epochs", 2),
        ({"patience": 3, "keep": "best"}, 8, "all epochs are trained", 5),  # both, and this one is told
        ({"patience": 3, "epochs": 9}, 8, "validation_loss has not improved for 3 epochs", 8),
        ({"patience": 4, "keep": "best"}, 8, "all epochs are trained", 5),
        ({"patience": 1, "keep": "best", "monitor": "validation_accuracy"}, 3, "validation_accuracy has not", 2),
        ({"patience": 2, "monitor": "validation_auc"}, 3, "validation_auc has not improved for 2 epochs", 3),
        ({"patience": 1, "monitor": "validation_auc:min"}, 3, "validation_auc has not improved for 1 epoch", 3),
        ({"patience": 1, "monitor": "train_loss:max"}, 2, "train_loss has not improved for 1 epoch", 2),
    ],
)
def test_training_ends_and_an_epoch_is_kept(settings, epochs, reason, kept):
    config = JobConfig(**{"epochs": 8} | settings)
    rows = history(LOSSES)
    going = [stopping.ended(rows[:length], config) for length in range(epochs + 1)]
    assert going[:-1] == [None] * epochs
    assert str(going[-1]).startswith(reason)
    assert stopping.kept_epoch(rows[:epochs], config) == kept


def test_a_callback_ends_it_too():
    rows = [*history([0.5]), *history([0.4], "Own")]
    assert stopping.ended(rows, JobConfig(epochs=2)) == "the callback Own stopped it"
    assert stopping.ended(rows[:1], JobConfig(epochs=2)) is None


def keras_stops(losses: list[float], patience: int) -> tuple[int, int]:
    """Do what Keras's EarlyStopping does. Return the number of epochs, and the best one."""
    best, best_epoch, wait = math.inf, 1, 0
    for epoch, loss in enumerate(losses, 1):
        wait += 1
        if loss < best:
            best, best_epoch, wait = loss, epoch, 0
        elif wait >= patience:
            return epoch, best_epoch
    return len(losses), best_epoch


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=20), st.integers(1, 5))
def test_it_is_the_rule_of_keras_wherever_a_run_was_killed(losses, patience):
    config = JobConfig(epochs=len(losses), patience=patience, keep="best")
    rows, trained = history(losses), 0
    while stopping.ended(rows[:trained], config) is None:  # each pass is a resume: it knows the history alone
        trained += 1
    assert (trained, stopping.kept_epoch(rows[:trained], config)) == keras_stops(losses, patience)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, None]), min_size=1, max_size=20))
def test_the_best_epoch_of_every_checkpoint_that_a_run_may_resume_from_is_kept(losses):
    config = JobConfig(epochs=len(losses), keep="best")
    rows, kept = history(losses), set()
    for length in range(1, len(losses) + 1):
        newest = set(range(length, max(length - CHECKPOINTS_TO_KEEP, 0), -1))
        kept = (kept | {length}) & (newest | stopping.epochs_to_keep(rows[:length], config))
        assert len(kept) <= 2 * CHECKPOINTS_TO_KEEP
        assert {stopping.best_epoch(rows[:resumed], config) for resumed in newest} <= kept
    assert stopping.epochs_to_keep(rows, JobConfig(epochs=len(losses))) == set()


@pytest.mark.parametrize(
    ("name", "greatest"),
    [
        ("validation_loss", False),
        ("train_mean_squared_error", False),
        ("validation_binary_crossentropy", False),
        ("validation_mae", False),
        ("train_accuracy", True),
        ("validation_sparse_top_k_categorical_accuracy", True),
        ("validation_auc_1", True),
        ("validation_precision", True),
        ("validation_f1_score", True),
        ("validation_binary_io_u", True),
        ("validation_r2_score", True),
        ("validation_top3:max", True),
        ("validation_recall:min", False),
    ],
)
def test_the_direction_follows_from_the_name(name, greatest):
    assert stopping.monitor(name) == (name.partition(":")[0], greatest)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("loss", "is not NAME, NAME:min or NAME:max, with a NAME like validation_loss or train_accuracy"),
        ("learning_rate", "is not NAME"),
        ("validation_loss:least", "is not NAME"),
        ("validation_loss:", "is not NAME"),
        (
            "validation_top3",
            "is the least value of validation_top3 the best, or the greatest? Give validation_top3:min",
        ),
        ("validation_true_positives", "Give validation_true_positives:min or validation_true_positives:max"),
        ("validation_recall_error", "is the least value"),
        ("validation_mae", "the model does not measure it; it measures validation_loss, validation_top3"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, refusal):
    with pytest.raises(UsageError, match=r"^--monitor ") as refused:
        stopping.check(JobConfig(monitor=name), ["loss", "top3"])
    assert refusal in str(refused.value)
