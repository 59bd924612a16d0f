"""Functions of the supervising process to watch and kill other processes, on Linux.

On other systems, a parent notices only the end of its child. The processes that the child has started are then stopped
only by Ray.
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
"""The name of the raylet's process in a local Ray, so that other programs do not find this Ray."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # include/uapi/linux/prctl.h
_UNKILLABLE_SECONDS = 10.0  # a process that waits for a device does not end at a SIGKILL


def adopt_orphans() -> None:
    """Become the parent of all orphaned descendants from now on, so that this process can kill them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(parent: int, lifeline: int) -> None:
    """Let the system kill this process when its parent ends.

    `lifeline` is used on systems without prctl: the reading end of a pipe whose other end the parent keeps open.
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
    """Return the program names of a process's children, by their ids. They are empty if the system has no such list."""
    found = {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/comm").read_text().strip()
    return found


def watched(process: int) -> int | None:
    """Return a file descriptor that becomes readable when the process ends, or None if the system has none."""
    with contextlib.suppress(OSError, AttributeError):
        return os.pidfd_open(process)
    return None


def exit_status(process: int) -> int | None:
    """Return the `waitpid` status of a process that has ended but was not waited for, else None."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            return int(fields[-1])
    return None


def signal_name(number: int) -> str:
    """Return the name of a signal, such as `SIGKILL`, or a text with its number if it has no name."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def end_all_children(spared: set[int]) -> None:
    """Kill all children of this process except `spared`, and then the orphans that they leave, until none is left."""
    deadline = time.monotonic() + _UNKILLABLE_SECONDS
    while (left := set(children(os.getpid())) - spared) and time.monotonic() < deadline:
        for child in left:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
        for child in left:
            with contextlib.suppress(OSError):
                os.waitpid(child, os.WNOHANG)
