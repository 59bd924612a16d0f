"""The CPU priority of threads on Linux. On other systems, nothing changes."""

import contextlib
import os
import sys
from pathlib import Path


def yield_to_others() -> None:
    """Run this thread, and those that it starts, only when a CPU is idle."""
    if sys.platform == "linux":  # where the scheduling policy belongs to the thread, not to the process
        with contextlib.suppress(OSError):  # a sandbox may not support it: then the priority stays normal
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def take_full_share() -> bool:
    """Give all threads of this process the normal priority again. Return whether that is allowed.

    Without privileges, Linux allows it only within RLIMIT_NICE (sched(7)), whose usual value does not allow it.
    """
    if sys.platform != "linux":
        return True
    while yielding := [thread for thread in _threads() if _yields(thread)]:  # a thread may have started another one
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
    except OSError:  # the thread has ended, or a sandbox does not support it
        return False
