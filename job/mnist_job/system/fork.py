"""A child by fork, and what it tells its parent: words, its standard error in C and C++, and its end."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from mnist_job.errors import Interrupted
from mnist_job.log import Log
from mnist_job.system import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KEPT = 65_536  # bytes of standard error

_words: int | None = None


def tell(**words: Any) -> None:
    """Tell the parent, if there is one, what it would need to speak in this process's place.

    `stage`: the name of the JobError that the run would end as now. `identity`: the run's, as of `dataclasses.asdict`.
    `ray`: `local` while a Ray of its own is up, the address of a cluster while it is joined, else None.
    """
    line = json.dumps(words).encode() + b"\n"
    while _words is not None and line:
        line = line[os.write(_words, line) :]


@contextlib.contextmanager
def signals_wait() -> Iterator[set[Any]]:
    """No handler of SIGNALS runs meanwhile; what comes is heard at the end. Gives the mask of before."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield former
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class Fork:
    """A child that does `work`, and ends with the exit code that this gives. It ends with its parent, at the latest.

    Its last word is `done`, that code: without it, it died. By `quiet`, what C and C++ write to its standard error goes
    to the parent, which keeps the end of it; Python's sys.stderr and `log` remain what they are. Begin it while
    `signals_wait`, with the `mask` that this gives: no signal then comes before its handler.
    """

    def __init__(self, work: Callable[[], int], log: Log, mask: set[Any], *, quiet: bool) -> None:
        words, lifeline, stderr = os.pipe(), os.pipe(), os.pipe()
        for file in (sys.stdout, sys.stderr):
            if file is not None:
                file.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            processes.end_with_parent(parent, lifeline[0])
            for end in (words[0], lifeline[1], stderr[0]):
                os.close(end)
            if quiet:
                _part_from_stderr(log, stderr[1])
            _do(work, words[1], mask)
        for end in (words[1], lifeline[0], stderr[1]):
            os.close(end)
        self.told: dict[str, Any] = {}
        self.status: int | None = None  # as of `waitpid`, when it has ended
        self._words, self._stderr, self._lifeline = words[0], stderr[0], lifeline[1]
        self.pipes = {self._words, self._stderr}  # that it may still write to
        self._unread = self._written = b""
        for pipe in self.pipes:
            os.set_blocking(pipe, False)

    def look(self) -> bool:
        """Take what it has written; whether it has ended."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if ended else None
        *lines, self._unread = (self._unread + self._taken(self._words)).split(b"\n")
        for line in lines:
            self.told |= json.loads(line)
        self._written = (self._written + self._taken(self._stderr))[-_KEPT:]
        return self.status is not None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it lives."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Give back what a child that has ended took."""
        for end in (self._words, self._stderr, self._lifeline):
            os.close(end)

    @property
    def is_ending(self) -> bool:
        """Whether it can say nothing more."""
        return self._words not in self.pipes

    @property
    def last_line(self) -> str:
        """The end of what C and C++ wrote to standard error."""
        lines = [line.strip() for line in self._written.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][-300:] if lines else ""

    def _taken(self, pipe: int) -> bytes:
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while pipe in self.pipes:
                part = os.read(pipe, _KEPT)
                taken += part
                if not part:
                    self.pipes.discard(pipe)
        return taken


def _part_from_stderr(log: Log, pipe: int) -> None:
    """Standard error remains Python's; what writes to its number, as C and C++ do, writes to the pipe."""
    with contextlib.suppress(OSError):  # it may be closed
        real = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        log.follow(sys.stderr, real)
        sys.stderr = real
        os.dup2(pipe, 2)


def _do(work: Callable[[], int], words: int, mask: set[Any]) -> NoReturn:
    global _words
    _words = words
    code = Interrupted.exit_code
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = work()
    except KeyboardInterrupt:  # between its last line and here
        pass
    except BaseException:  # noqa: BLE001 the frames below are the parent's
        traceback.print_exc()
        code = 1
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        tell(done=code)
        os._exit(code)  # what Python does at its end is the parent's to do
