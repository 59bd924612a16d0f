"""Measure the costs of a process and all processes that it starts: wall time, CPU seconds, peak memory."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Seconds between two looks. Each look costs CPU time, which the measured processes then lack. The CPU time that a
# process uses after the last look at it is not counted.
INTERVAL = 0.25


@dataclass(frozen=True)
class Cost:
    """The costs of a command: seconds, CPU seconds, largest number of bytes (see `Watch`), and its output."""

    wall: float
    cpu: float
    peak: int
    stdout: str


class Watch(threading.Thread):
    """A thread that looks at a process and all its descendants, every `INTERVAL`.

    `peak` is the largest number of bytes at one look: the anonymous memory of all processes, and shared memory once. It
    does not contain files that they map, such as libraries. The proportional set size would contain these too, but the
    kernel reads every page to compute it, which takes too long to do often.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root, self._ended = psutil.Process(root), threading.Event()
        self._used: dict[tuple[int, float], float] = {}
        self.peak = 0

    @property
    def cpu(self) -> float:
        """CPU seconds, system and user. A process that has ended counts with its value at the last look."""
        return sum(self._used.values())

    def look(self) -> None:
        """Read the CPU time and the memory of all processes now."""
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
        """Look again and again, until `stop` is called."""
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
    """Return the bytes of each kind; 0 if the process has ended but is not reaped. Raises OSError if it is gone."""
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
