"""Test whether a model is good enough: both gates, and the reason that is reported."""

from dataclasses import replace

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.log import Log
from mnist_job.pipeline import gates
from mnist_job.pipeline.display import Display
from tests.unit.test_metrics import outcome

# Accuracy 0.75. Recall 0.5 of class 0, none of class 1 (which has no test images), and 1 of class 2.
ACCURACY = "test accuracy 0.7500 is below --min-accuracy 0.8"
RECALL = "the recall of class 0, 0.5000, is below --min-recall 0.6"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, None),
        ({"min_accuracy": 0.75, "min_recall": 0.5}, None),
        ({"min_accuracy": 0.8}, ACCURACY),
        ({"min_recall": 0.6}, RECALL),
        ({"min_accuracy": 0.7, "min_recall": 0.6}, RECALL),
        ({"min_accuracy": 0.8, "min_recall": 0.6}, f"{ACCURACY}, and {RECALL}"),
    ],
)
def test_a_model_is_as_good_as_wanted_or_all_that_is_too_low_is_told(wanted, reason):
    judged = gates.judged(JobConfig(**wanted), outcome(exit_code=8, reason="before"))
    assert (judged.exit_code, judged.reason) == (0 if reason is None else 7, reason)


def test_classes_that_are_never_recognized_are_told_and_not_all_of_many(capsys):
    measured = replace(outcome().evaluation, recall=[0.5, None, *[0.0] * 12])
    Display(Log()).evaluation(outcome(evaluation=measured))
    told = "".join(capsys.readouterr())
    assert "recall 0: not one test image of classes 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more is recognized" in told
    Display(Log()).evaluation(outcome())
    assert "recall 0" not in "".join(capsys.readouterr())
