"""Reserve CPUs for each worker of a local Ray.

The threads of a worker wake each other at every message. Without an affinity, the kernel also wakes them on the CPUs of
other workers. Two workers on two cores then take 1.5 ms for a step; with one core for each they take 1.0 ms
(784-128-64-10, batch 32).
"""

import os
import re
import socket
import sys
from pathlib import Path

HOST = 0xEFFFFFFC  # the inode of the first PID namespace, in every Linux (include/linux/proc_ns.h)

_claims: list[socket.socket] = []  # kept open until this process ends


def keep_to_own_cpus(count: int) -> set[int] | None:
    """Run the calling thread, and those that it starts from now on, on `count` CPUs that no other worker of a job has.

    Returns the CPUs, or None if fewer are free. Returns None in a container too: it may share its CPUs with processes
    that it cannot see.
    """
    if sys.platform != "linux" or Path("/proc/self/ns/pid").stat().st_ino != HOST:
        return None
    claimed: dict[int, socket.socket] = {}
    for cpu in sorted(os.sched_getaffinity(0), key=_order):
        if len(claimed) < count and (claim := _claim(cpu)) is not None:
            claimed[cpu] = claim
    if len(claimed) < count:
        for claim in claimed.values():
            claim.close()
        return None
    _claims.extend(claimed.values())
    os.sched_setaffinity(0, claimed)
    return set(claimed)


def _claim(cpu: int) -> socket.socket | None:
    """Return a socket with an abstract name for this CPU, or None if another process has taken the name.

    The kernel frees the name when the process ends, even if it was killed.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0mnist-job-cpu-{cpu}")
    except OSError:
        claim.close()
        return None
    return claim


def _order(cpu: int) -> tuple[bool, int]:
    """Return a sort key that puts the first hardware thread of each core before the second ones."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    first = re.match(r"\d+", siblings.read_text()) if siblings.exists() else None
    return first is not None and int(first[0]) != cpu, cpu
