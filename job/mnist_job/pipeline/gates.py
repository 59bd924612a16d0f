"""Check a model against the least accuracy and recall that the user requires."""

from dataclasses import replace

from mnist_job.config.parts import GateSettings
from mnist_job.config.sources import flag
from mnist_job.errors import QualityError, UsageError
from mnist_job.results.outcome import Outcome


def check(config: GateSettings, *, is_classifier: bool) -> None:
    """Check that the model will have what the user requires a least value of. Raises UsageError."""
    for name in ("min_accuracy", "min_recall"):
        if not is_classifier and getattr(config, name) is not None:
            raise UsageError(f"{flag(name)}: the model is no classifier, and has no accuracy and no recall; remove it")


def judged(config: GateSettings, outcome: Outcome) -> Outcome:
    """Return the outcome with the exit code for the model's quality and, if it is too low, a sentence that says why.

    Raises UsageError, as `check` does.
    """
    evaluation = outcome.evaluation
    assert evaluation is not None
    check(config, is_classifier=evaluation.accuracy is not None)
    too_low = []
    if (
        evaluation.accuracy is not None
        and config.min_accuracy is not None
        and evaluation.accuracy < config.min_accuracy
    ):
        too_low.append(f"test accuracy {evaluation.accuracy:.4f} is below --min-accuracy {config.min_accuracy:g}")
    if config.min_recall is not None:
        label, recall = evaluation.worst_class()
        if recall < config.min_recall:
            name = evaluation.name(label)
            too_low.append(f"the recall of class {name}, {recall:.4f}, is below --min-recall {config.min_recall:g}")
    if not too_low:
        return replace(outcome, exit_code=0, reason=None)
    return replace(outcome, exit_code=QualityError.exit_code, reason=", and ".join(too_low))
