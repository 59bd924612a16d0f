"""A forked child process, with pipes to its parent for its messages and for the standard error of its C code."""

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
_KEPT = 65_536  # bytes of the standard error that the parent keeps

_words: int | None = None


def tell(**words: Any) -> None:
    """Send facts to the parent, if there is one. The parent needs them to report the failure if this process dies.

    `stage` is the name of the JobError for a failure in the current stage. `identity` is the run's Identity, as from
    `dataclasses.asdict`. `ray` is `local` while a local Ray runs, the address of a cluster while the process is
    connected to it, and else None.
    """
    line = json.dumps(words).encode() + b"\n"
    while _words is not None and line:
        line = line[os.write(_words, line) :]


@contextlib.contextmanager
def signals_wait() -> Iterator[set[Any]]:
    """Block SIGNALS in this context; their handlers run at its end. Yield the former signal mask."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield former
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class Fork:
    """A child process that runs `work` and exits with the exit code that `work` returns. It never outlives its parent.

    The child's last message is `done`, its exit code. Without this message, it has died. If `quiet`, the output of C
    and C++ code to standard error goes to the parent, which keeps the end of it; Python's sys.stderr and `log` do not
    change. Create the child inside `signals_wait`, with the `mask` that it yields, so that no signal comes before the
    handlers are set.
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
        self.status: int | None = None  # the status from `waitpid`, after the child has ended
        self._words, self._stderr, self._lifeline = words[0], stderr[0], lifeline[1]
        self.pipes = {self._words, self._stderr}  # those that the child has not closed yet
        self._unread = self._written = b""
        for pipe in self.pipes:
            os.set_blocking(pipe, False)

    def look(self) -> bool:
        """Read what the child has written. Return whether it has ended."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if ended else None
        *lines, self._unread = (self._unread + self._taken(self._words)).split(b"\n")
        for line in lines:
            self.told |= json.loads(line)
        self._written = (self._written + self._taken(self._stderr))[-_KEPT:]
        return self.status is not None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child, unless it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Close the pipes of a child that has ended."""
        for end in (self._words, self._stderr, self._lifeline):
            os.close(end)

    @property
    def is_ending(self) -> bool:
        """Whether the child has closed its pipe, so that no more messages come."""
        return self._words not in self.pipes

    @property
    def last_line(self) -> str:
        """The last line that C and C++ code wrote to standard error."""
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
    """Redirect file descriptor 2, which C and C++ code writes to, to the pipe. Keep Python's standard error."""
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
    except KeyboardInterrupt:  # a signal after the last line of `work`
        pass
    except BaseException:  # noqa: BLE001 it must not reach the frames of the parent's code
        traceback.print_exc()
        code = 1
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        tell(done=code)
        os._exit(code)  # Python's exit handlers run only in the parent
