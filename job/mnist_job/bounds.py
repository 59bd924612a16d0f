"""What is tried again, how often, and for how long: every bound of a run that is not a setting stands here.

A worker that is lost, or fails in a way that may pass, is started again with all others from the last good checkpoint,
`max_failures` times; whatever else a worker raises is the fault of the data, the model or this program, and ends the
run at once. `errors.py` says with which code.
"""

import signal
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from mnist_job.errors import JobError, UsageError

CHECKPOINTS_TO_KEEP = 2  # the last, and the one before it in case the last is damaged
RESIZE_SECONDS = 20.0  # between two looks whether an elastic run can have more workers
EVALUATION_RETRIES = 2  # of the evaluate task, when its process or node is lost
HEAD_START_SECONDS = 5.0  # of an evaluation's process that runs only in idle moments, before another one starts
CONNECT_SECONDS = 10.0  # Ray itself would ask an address that does not answer for minutes
LOOK_SECONDS = 20.0  # at each node, for what it knows of workers that died: a process has to start there
LEASE_RENEWAL_SECONDS = 10.0  # of a run's lease on its folder, where the store has no locks
LEASE_SECONDS = 45.0  # after its last renewal; then another run may take the folder over
LEASE_LOOK_SECONDS = 2.0  # between two looks whether another run renews its lease
ROOM_SECONDS = 300.0  # for an autoscaler to make room for the evaluation
EXPORTER_START_SECONDS = 60.0  # a process, on a head that may be busy
# `ray job stop` kills 3 s after its SIGTERM; and a place that failed is not waited for twice.
HASTY_SECONDS = 2.0
# A main thread that is inside a library does not hear its deadline. Long enough to clear up, if it does.
DEAF_SECONDS = 30.0
LAST_WORDS_SECONDS = 10.0  # for the driver to say why its Ray ended, where that was not killed
IMPORT_SECONDS = 30.0  # of what publishes a failure in the place of a driver that died, on a busy machine

# What a worker gets to hear when another one, its node or the network is gone, or a port was taken from under it (ray
# issue 34271). TensorFlow's classes by name: a driver that imported them would pay for TensorFlow.
_MAY_PASS = frozenset(
    {"OSError", "EOFError", "RayError"}
    | {"AbortedError", "CancelledError", "DeadlineExceededError", "InternalError", "UnavailableError", "UnknownError"}
)

ResultT = TypeVar("ResultT")


def worth_a_restart(error: BaseException) -> bool:
    """Whether a worker's exception may pass when all workers start again."""
    return any(kind.__name__ in _MAY_PASS for kind in type(error).__mro__)


def patiently(
    attempt: Callable[[float], ResultT],
    seconds: float,
    errors: tuple[type[Exception], ...],
    worth: Callable[[BaseException], bool] = lambda _: True,
) -> ResultT:
    """Call `attempt` with the seconds that are left, again while it raises one of `errors` that is `worth` it.

    Raises the last error when `seconds` have passed.
    """
    deadline = time.monotonic() + seconds
    attempts = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, errors) and worth(error)),
        stop=stop_after_delay(seconds),
        wait=wait_exponential_jitter(multiplier=0.2, max=5),
        reraise=True,
    )
    return attempts(lambda: attempt(max(deadline - time.monotonic(), 0.1)))


class Deadline:
    """The whole run's. When it has passed, the main thread gets a KeyboardInterrupt, as from a signal."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.passed = False
        self.stage: type[JobError] = UsageError  # what the run would end as now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts while this is open. At most one at a time in a process, and in its main thread."""
        if self.seconds is None:
            yield
            return
        former = signal.signal(signal.SIGALRM, self._interrupt)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)

    def error(self) -> JobError:
        """What a run that ends by its deadline ends with."""
        return self.stage(f"--timeout {self.seconds:g}: the run took longer")

    def _interrupt(self, _number: int, _frame: types.FrameType | None) -> NoReturn:
        self.passed = True
        raise KeyboardInterrupt
