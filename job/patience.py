"""Trying again, for as long as a user said and no longer."""

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

ResultT = TypeVar("ResultT")


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
