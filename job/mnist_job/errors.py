"""The exceptions that end a job early: one for each exit code.

Raise them with one sentence that says what is wrong, where, and what to do; the command line prints it unchanged.
Any other exception is a fault of this program. It gets the exit code of the stage that raised it.
"""

from typing import ClassVar


class JobError(Exception):
    """Base class of all errors that have their own exit code."""

    exit_code: ClassVar[int]


class UsageError(JobError):
    """A flag, an environment variable or the configuration file is wrong. The message has one line for each fault."""

    exit_code = 2


class DataError(JobError):
    """The data set is missing, unreadable or not what a classifier can be trained on."""

    exit_code = 3


class ClusterError(JobError):
    """The Ray or Kubernetes cluster has no room for the job, or cannot be reached."""

    exit_code = 4


class TrainingError(JobError):
    """Training failed, and no retry is left."""

    exit_code = 5


class EvaluationError(JobError):
    """The evaluation failed, or gave a value that is not finite."""

    exit_code = 6


class QualityError(JobError):
    """The model was trained and evaluated, but it is below `--min-accuracy` or `--min-recall`."""

    exit_code = 7


class DeliveryError(JobError):
    """The model was trained and evaluated, but a result could not be delivered."""

    exit_code = 8


class Interrupted(JobError):  # noqa: N818 it is no error
    """The run got Ctrl-C or SIGTERM."""

    exit_code = 130

    def __init__(
        self, told: str = "interrupted; nothing was published, and the same command resumes from the last checkpoint"
    ) -> None:
        super().__init__(told)


NAMES = {error.exit_code: error.__name__ for error in JobError.__subclasses__()}
"""The name of each exit code."""


def last_line(error: BaseException) -> str:
    """Return the last line of the exception's text, which may be a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def one_line(text: object, most: int) -> str:
    """Return the text as one line of at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
