"""What a whole process costs, with all that it starts: wall time, CPU seconds, peak memory."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

# Seconds. To look costs CPU time, which the measured processes lack; what one uses after it was last seen is missed.
CPU_INTERVAL = 1.0
MEMORY_INTERVAL = 5.0


@dataclass(frozen=True)
class Cost:
    """Seconds, CPU seconds, and bytes at the highest moment (proportional set size: shared pages count once)."""

    wall: float
    cpu: float
    peak: int
    stdout: str
    cpu_until: float


class Watch(threading.Thread):
    """Adds up the processes below one: those that end keep what they had used when they were last seen."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root, self._ended = psutil.Process(root), threading.Event()
        self._used: dict[tuple[int, float], float] = {}
        self.peak = 0

    def cpu(self) -> float:
        """CPU seconds until now, of all processes."""
        for process in self._processes():
            self._see(process)
        return sum(list(self._used.values()))

    def run(self) -> None:
        """Until `stop`."""
        memory_due = 0.0
        while not self._ended.wait(CPU_INTERVAL):
            self.cpu()
            if time.monotonic() >= memory_due:
                self.peak = max(self.peak, sum(map(_memory, self._processes())))
                memory_due = time.monotonic() + MEMORY_INTERVAL

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()
        self.join()

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _see(self, process: psutil.Process) -> None:
        try:
            with process.oneshot():
                key, times = (process.pid, process.create_time()), process.cpu_times()
                self._used[key] = times.user + times.system
        except psutil.Error:
            return  # it has ended


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def run(command: Sequence[str], until: str | None = None) -> Cost:
    """Run a command to its end; `cpu_until` is what it had used when it printed a line that holds `until`.

    Raises CalledProcessError if it fails.
    """
    started, lines, cpu_until = time.monotonic(), [], 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        watch = Watch(process.pid)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if until is not None and until in line:
                cpu_until = watch.cpu()
        process.wait()
        wall = time.monotonic() - started
        watch.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(lines))
    return Cost(wall, watch.cpu(), watch.peak, "".join(lines), cpu_until)
