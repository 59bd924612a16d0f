"""How much of a busy machine a thread takes. (Linux; elsewhere nothing changes.)"""

import contextlib
import os
import sys
from pathlib import Path


def yield_to_others() -> None:
    """From now on this thread, and what it starts, runs only where a CPU has nothing else to do."""
    if sys.platform == "linux":  # of which this is a thread's, not the process's
        with contextlib.suppress(OSError):  # a sandbox's kernel may not know of it: then the thread takes its share
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def take_full_share() -> bool:
    """Let no thread of this process yield any more. False where that is not allowed.

    Without privileges Linux allows it within RLIMIT_NICE (sched(7)), whose usual value allows it to nobody.
    """
    if sys.platform != "linux":
        return True
    while yielding := [thread for thread in _threads() if _yields(thread)]:  # one may have started another meanwhile
        for thread in yielding:
            try:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            except ProcessLookupError:
                continue
            except OSError:
                return False
    return True


def _threads() -> list[int]:
    return [int(thread.name) for thread in Path("/proc/self/task").iterdir()]


def _yields(thread: int) -> bool:
    try:
        return os.sched_getscheduler(thread) == os.SCHED_IDLE
    except OSError:  # it has ended, or a sandbox does not tell
        return False
