"""What a whole process costs, with all that it starts: wall time, CPU seconds, peak memory."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Seconds. To look costs CPU time, which the measured processes lack; what one uses after it was last seen is missed.
INTERVAL = 0.25


@dataclass(frozen=True)
class Cost:
    """Seconds, CPU seconds, bytes at the highest moment (see `Watch`), and what it printed."""

    wall: float
    cpu: float
    peak: int
    stdout: str


class Watch(threading.Thread):
    """Looks at a process and all those below it, every `INTERVAL`.

    `peak` is in bytes: the most that they held at one look, the anonymous memory of each, and shared memory once. Files
    that they map, such as libraries, are not in it. The proportional set size would have these as well, but the kernel
    walks through every page to give it: too long to look often.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root, self._ended = psutil.Process(root), threading.Event()
        self._used: dict[tuple[int, float], float] = {}
        self.peak = 0

    @property
    def cpu(self) -> float:
        """CPU seconds, system and user. Processes that end keep what they had used when they were last seen."""
        return sum(self._used.values())

    def look(self) -> None:
        """See what all processes have used and hold now."""
        own, shared = [], [0]
        for process in self._processes():
            try:
                with process.oneshot():
                    key, times = (process.pid, process.create_time()), process.cpu_times()
                memory = _memory(process.pid)
            except (psutil.Error, OSError):
                continue  # it has ended
            self._used[key] = times.user + times.system
            own.append(memory["RssAnon"])
            shared.append(memory["RssShmem"])
        self.peak = max(self.peak, sum(own) + max(shared))

    def run(self) -> None:
        """Until `stop`."""
        while True:
            self.look()
            if self._ended.wait(INTERVAL):
                return

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()
        self.join()

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _memory(process: int) -> dict[str, int]:
    """Bytes by kind; 0 of a process that has ended and is not reaped yet. Raises OSError where it is gone."""
    kinds = {"RssAnon": 0, "RssShmem": 0}
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in kinds:
            kinds[name] = int(rest.split()[0]) * 1024
    return kinds


def run(command: Sequence[str]) -> Cost:
    """Run a command to its end.

    Raises CalledProcessError if it fails.
    """
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        watch = Watch(process.pid)
        watch.start()
        assert process.stdout is not None
        stdout = process.stdout.read()
        process.wait()
        wall = time.monotonic() - started
        watch.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stdout)
    return Cost(wall, watch.cpu, watch.peak, stdout)
