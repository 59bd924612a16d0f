"""What can end a job early: one exception for each exit code.

Raise them with one sentence that says what is wrong, where, and what to do; the command line prints it as it is.
Whatever else is raised is a fault of this program and ends as the stage in which it was raised.
"""

from typing import ClassVar


class JobError(Exception):
    """Base of everything that ends a job with a code of its own."""

    exit_code: ClassVar[int]


class UsageError(JobError):
    """A flag, an environment variable or the configuration file is wrong. One line a fault."""

    exit_code = 2


class DataError(JobError):
    """The data set is missing, unreadable or not what a classifier can be trained on."""

    exit_code = 3


class ClusterError(JobError):
    """The cluster, Ray's or Kubernetes', cannot hold the job, or cannot be reached."""

    exit_code = 4


class TrainingError(JobError):
    """Training failed, and failed again as often as it may be retried."""

    exit_code = 5


class EvaluationError(JobError):
    """The evaluation failed, or gave a value that is not finite."""

    exit_code = 6


class QualityError(JobError):
    """The model was trained and evaluated, and is below `--min-accuracy` or `--min-recall`."""

    exit_code = 7


class DeliveryError(JobError):
    """The model was trained and evaluated, but a result could not be delivered."""

    exit_code = 8


class Interrupted(JobError):  # noqa: N818 it is no error
    """Ctrl-C or SIGTERM."""

    exit_code = 130

    def __init__(
        self, told: str = "interrupted; nothing was published, and the same command goes on from the last epoch"
    ) -> None:
        super().__init__(told)


NAMES = {error.exit_code: error.__name__ for error in JobError.__subclasses__()}
"""What each exit code is called."""


def last_line(error: BaseException) -> str:
    """The exception's own line of a text that may hold a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def one_line(text: object, most: int) -> str:
    """A text of any origin in one line of at most so many characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
