"""Timeouts, intervals and numbers of retries that are not settings.

When a worker is lost, or fails with an error that a retry may solve, all workers restart from the last intact
checkpoint, at most `max_failures` times. Any other error of a worker is a fault of the data, the model or this program:
it ends the run at once. `errors.py` lists the exit codes.
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
RESIZE_SECONDS = 20.0  # interval at which an elastic run checks for room for more workers
EVALUATION_RETRIES = 2  # when the process or the node of the evaluate task is lost
HEAD_START_SECONDS = 5.0  # how long to wait for an evaluation process that started at low priority, before a new one
CONNECT_SECONDS = 10.0  # timeout of a connection; Ray itself retries an address for minutes
LOOK_SECONDS = 20.0  # timeout when asking all nodes for killed workers, and when waiting for the autoscaler's report
LEASE_RENEWAL_SECONDS = 10.0  # interval at which a run renews the lease on its folder, where the store has no locks
LEASE_SECONDS = 45.0  # a lease that was not renewed for this long has expired, and another run may take the folder
LEASE_LOOK_SECONDS = 2.0  # interval at which a run checks whether another run has renewed its lease
ROOM_SECONDS = 300.0  # how long to wait for an autoscaler to make room for the evaluation
EXPORTER_START_SECONDS = 60.0  # timeout for the start of the exporter's process on a head that may be busy
# Timeout where a run must end soon: `ray job stop` sends SIGKILL 3 s after SIGTERM. Also after a delivery that has
# failed, so that the full timeout is not spent twice.
HASTY_SECONDS = 2.0
# A main thread inside a C library does not notice its deadline. This is how long it may take to clean up if it does.
DEAF_SECONDS = 30.0
LAST_WORDS_SECONDS = 10.0  # how long to wait for the driver to say why its Ray ended, if it was not killed
IMPORT_SECONDS = 30.0  # timeout for the imports that publish a failure for a driver that died, on a busy machine

# Errors that a worker raises when another worker, its node or the network is lost, or when another process takes its
# port (ray issue 34271). TensorFlow's classes are given by name, so that the driver does not have to import TensorFlow.
_MAY_PASS = frozenset(
    {"OSError", "EOFError", "RayError"}
    | {"AbortedError", "CancelledError", "DeadlineExceededError", "InternalError", "UnavailableError", "UnknownError"}
)

ResultT = TypeVar("ResultT")


def worth_a_restart(error: BaseException) -> bool:
    """Return whether a restart of all workers may solve this exception of a worker."""
    return any(kind.__name__ in _MAY_PASS for kind in type(error).__mro__)


def patiently(
    attempt: Callable[[float], ResultT],
    seconds: float,
    errors: tuple[type[Exception], ...],
    worth: Callable[[BaseException], bool] = lambda _: True,
) -> ResultT:
    """Call `attempt` with the seconds that are left. Retry while it raises one of `errors` and `worth` returns True.

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
    """The deadline of the whole run. When it passes, the main thread gets a KeyboardInterrupt, as from a signal."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.passed = False
        self.stage: type[JobError] = UsageError  # the error that the run ends with if the deadline passes now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the timer in this context. Enter it in the main thread, at most one at a time in a process."""
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
        """Return the error of a run that the deadline has ended."""
        return self.stage(f"--timeout {self.seconds:g}: the run took longer")

    def _interrupt(self, _number: int, _frame: types.FrameType | None) -> NoReturn:
        self.passed = True
        raise KeyboardInterrupt
