"""Check a model against the least accuracy and recall that the user requires."""

from dataclasses import replace

from mnist_job.config.parts import GateSettings
from mnist_job.errors import QualityError
from mnist_job.results.outcome import Outcome


def judged(config: GateSettings, outcome: Outcome) -> Outcome:
    """Return the outcome with the exit code for the model's quality and, if it is too low, a sentence that says why."""
    evaluation = outcome.evaluation
    assert evaluation is not None
    too_low = []
    if config.min_accuracy is not None and evaluation.accuracy < config.min_accuracy:
        too_low.append(f"test accuracy {evaluation.accuracy:.4f} is below --min-accuracy {config.min_accuracy:g}")
    if config.min_recall is not None:
        label, recall = evaluation.worst_class()
        if recall < config.min_recall:
            too_low.append(f"the recall of class {label}, {recall:.4f}, is below --min-recall {config.min_recall:g}")
    if not too_low:
        return replace(outcome, exit_code=0, reason=None)
    return replace(outcome, exit_code=QualityError.exit_code, reason=", and ".join(too_low))
