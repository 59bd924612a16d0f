"""What a run uses of TensorFlow beyond its public interface. What a later TensorFlow does not have is done without."""

import functools
import inspect
from typing import Any

from tensorflow.python.eager import context


def leave_silent_workers_to_ray(worker_timeout: float) -> None:
    """Have TensorFlow wait for a silent worker for longer than Ray Train does, which is `worker_timeout` seconds.

    TensorFlow itself gives it up after 10 s, and then its error is that of a worker that answers. To be called before
    the strategy is made, which leaves this to its default.
    """
    here: Any = context.context()
    configure = getattr(here, "configure_coordination_service", None)
    if configure is not None and "heartbeat_timeout_in_ms" in inspect.signature(configure).parameters:
        longer = int(2000 * worker_timeout) + 10_000
        here.configure_coordination_service = functools.partial(configure, heartbeat_timeout_in_ms=longer)
