"""All uses of TensorFlow's private interface. If a later TensorFlow does not have it, the run works without it."""

import functools
import inspect
from typing import Any

from tensorflow.python.eager import context


def leave_silent_workers_to_ray(worker_timeout: float) -> None:
    """Let TensorFlow wait longer for a silent worker than Ray Train, which waits for `worker_timeout` seconds.

    By default TensorFlow waits for 10 s, and then the workers that still answer raise an error, not the silent one.
    Call this before the strategy is made.
    """
    here: Any = context.context()
    configure = getattr(here, "configure_coordination_service", None)
    if configure is not None and "heartbeat_timeout_in_ms" in inspect.signature(configure).parameters:
        longer = int(2000 * worker_timeout) + 10_000
        here.configure_coordination_service = functools.partial(configure, heartbeat_timeout_in_ms=longer)
