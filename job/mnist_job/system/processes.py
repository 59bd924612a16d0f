"""What the supervising process asks of the system about processes; on Linux, where it can.

Elsewhere a parent learns no more than its child's end: processes that the child started are then ended by Ray alone.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

RAYLET = "mnist-job-node"
"""What the raylet of a local Ray is called, so that nobody else's Ray finds it."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # include/uapi/linux/prctl.h
_UNKILLABLE_SECONDS = 10.0  # a process that waits for a device does not hear SIGKILL


def adopt_orphans() -> None:
    """From now on, what this process's descendants leave behind becomes its child, and can be ended by it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int, lifeline: int) -> None:
    """End this process, whatever it is doing, when its parent ends.

    `lifeline` is the reading end of a pipe whose other end the parent holds: for systems without prctl.
    """
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        threading.Thread(target=_end_after, args=[lifeline], name="lifeline", daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_after(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    return False


def children(parent: int) -> dict[int, str]:
    """The programs' names of a process's children, by their ids; none where the system does not tell."""
    found = {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
    return found


def watched(process: int) -> int | None:
    """A file that becomes readable when the process ends; None where the system has no such files."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(process)
    return None


def exit_status(process: int) -> int | None:
    """The status, as of `waitpid`, of a process that has ended and that its parent has not asked for; else None."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            return int(fields[-1])
    return None


def signal_name(number: int) -> str:
    """`SIGKILL`, or its number where that has no name."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def end_all_children(spared: set[int]) -> None:
    """Kill this process's children but for the `spared` ones, and what they leave behind, until there are no more."""
    deadline = time.monotonic() + _UNKILLABLE_SECONDS
    while (left := set(children(os.getpid())) - spared) and time.monotonic() < deadline:
        for child in left:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
        for child in left:
            with contextlib.suppress(OSError):
                os.waitpid(child, os.WNOHANG)
