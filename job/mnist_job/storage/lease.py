"""A run's lease on its folder where the store has no locks: a small object, written again every few seconds.

Who wants the lease announces that first, and then looks for others: a store that shows what was written to whoever
lists it later (S3, GCS and Azure do) shows at least one of two runs the other, and a run that sees another one does not
go on. So of two runs that start at once one may be refused that could have gone on, but both never go on. A lease that
is there is watched: while it is renewed its run lives, and the new one is refused; one that is not renewed was left by
a run that was killed, and is taken over. Its age is by the store's own clock; those of machines do not matter.

What remains possible: a run that did not run for longer than its lease lasts (its machine was suspended, or it could
not reach the store) and is taken over may still write, until it next renews its lease, what it was writing at that
moment: a checkpoint under its own name, or, within its last step, results. Workers that outlive their driver write
checkpoints only, under their run's name. (pyarrow 26 offers no conditional writes, which would close this for results.)
"""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pyarrow as pa
from pyarrow import fs

from mnist_job import bounds
from mnist_job.errors import UsageError
from mnist_job.storage import owned

_NAME = re.compile(rf"(?P<run>{owned.RUN})\.(?P<state>announced|held)")


@dataclass(frozen=True)
class _Other:
    """Another run's lease. `age` is in seconds by the store's clock, 0 where the store tells no times."""

    path: str
    run: str
    held: bool
    content: bytes
    age: float


class Lease:
    """A lease on a run's folder, `lease/` in it."""

    def __init__(self, filesystem: fs.FileSystem, folder: str, run: str) -> None:
        self._filesystem, self._folder, self.run = filesystem, f"{folder}/lease", run
        self._announced, self._held = f"{self._folder}/{run}.announced", f"{self._folder}/{run}.held"
        self._writes = 0
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._renewing = threading.Lock()
        self.lost: UsageError | None = None

    @classmethod
    @contextmanager
    def taken(
        cls, filesystem: fs.FileSystem, folder: str, run: str, tell: Callable[[str], object]
    ) -> Iterator["Lease"]:
        """Hold the lease. If it is lost, the main thread gets a KeyboardInterrupt, and `lost` says why.

        Raises UsageError if another run has it, OSError where the store fails.
        """
        lease = cls(filesystem, folder, run)
        try:
            lease._take(tell)
            lease._renewal.start()
            yield lease
        finally:
            lease.stop()
            for path in (lease._announced, lease._held):
                lease._delete(path)

    def renew(self) -> None:
        """Show that this run is alive. Raises UsageError if another has taken over, OSError where the store fails."""
        with self._renewing:
            gone = owned.kind(self._filesystem, self._held) is None
            held = [other.run for other in self._others(None if gone else self._write(self._held)) if other.held]
            if gone or held:
                who = f"another run of this name ({held[0]})" if held else "another run of this name"
                self.lost = UsageError(
                    f"{self._folder.rpartition('/')[0]}: {who} took over while this one did not run or could not reach "
                    "the store; it has ended and writes nothing more"
                )
                raise self.lost

    def stop(self) -> None:
        """Renew no more; the lease itself is removed when `taken` ends."""
        self._ended.set()
        if self._renewal.is_alive():
            self._renewal.join(bounds.CONNECT_SECONDS)  # a store that is silent does not keep the run

    def look(self, now: datetime | None, tell: Callable[[str], object]) -> None:
        """Return when no other run has the lease; `now` is the store's. Takes nothing. Raises UsageError, OSError."""
        watched: dict[str, tuple[bytes, float]] = {}
        while self._alive(self._others(now), watched, tell):
            time.sleep(bounds.LEASE_LOOK_SECONDS)

    def _take(self, tell: Callable[[str], object]) -> None:
        watched: dict[str, tuple[bytes, float]] = {}
        while True:
            others = self._others(self._write(self._announced))
            if not self._alive(others, watched, tell):
                now = self._write(self._held)
                if not self._alive([other for other in self._others(now) if other.held], watched, tell):
                    break  # still nobody, even if the end of a third run removed what another one had announced
                self._delete(self._held)
            self._delete(self._announced)  # or two runs that start at once would watch each other
            time.sleep(bounds.LEASE_LOOK_SECONDS)
        for path in (self._announced, *(other.path for other in others)):
            self._delete(path)

    def _alive(
        self, others: list[_Other], watched: dict[str, tuple[bytes, float]], tell: Callable[[str], object]
    ) -> bool:
        """Whether one of the others may be alive. Raises UsageError if one is, by what was `watched` of it."""
        alive = False
        for other in others:
            content, since = watched.get(other.path, (None, 0.0))
            if content == other.content:
                if max(other.age, time.monotonic() - since) > bounds.LEASE_SECONDS:
                    continue
            elif content is not None and (other.held or other.run < self.run):  # of two that start, one goes on
                raise UsageError(
                    f"{self._folder.rpartition('/')[0]}: another run of this name ({other.run}) is in progress; "
                    "wait for its end, or take another --name"
                )
            elif other.age > bounds.LEASE_SECONDS:
                continue
            if not watched:
                tell(
                    f"run {other.run} of this name has not ended; watching for up to {bounds.LEASE_SECONDS:.0f} s "
                    "whether it is in progress"
                )
            if content != other.content:
                watched[other.path] = (other.content, time.monotonic())
            alive = True
        return alive

    def _keep(self) -> None:
        while not self._ended.wait(bounds.LEASE_RENEWAL_SECONDS):
            try:
                self.renew()
            except UsageError:
                main = threading.main_thread().ident
                while main is not None and not self._ended.is_set():
                    signal.pthread_kill(main, signal.SIGINT)
                    self._ended.wait(bounds.DEAF_SECONDS)  # it may have begun to wait for something just then
                return
            except (OSError, pa.ArrowException):
                continue  # the store may answer the next time; if not for long, another run may take over

    def _others(self, now: datetime | None) -> list[_Other]:
        others = []
        for entry in self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True)):
            name = _NAME.fullmatch(entry.base_name)
            if name is None or name["run"] == self.run:
                continue
            with suppress(FileNotFoundError):  # it has ended meanwhile
                content = bounds.patiently(
                    partial(self._read, entry.path), bounds.CONNECT_SECONDS, (OSError,), _may_pass
                )
                age = (now - entry.mtime).total_seconds() if now is not None and entry.mtime is not None else 0.0
                others.append(_Other(entry.path, name["run"], name["state"] == "held", content, age))
        return others

    def _read(self, path: str, _seconds_left: float) -> bytes:
        with self._filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def _write(self, path: str) -> datetime | None:
        """Write an object that differs from what it was; gives its time by the store's clock."""
        self._writes += 1
        content = {"run": self.run, "written": self._writes, "time": datetime.now().astimezone().isoformat()}
        owned.make_folders(self._filesystem, self._folder)
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(json.dumps(content).encode())
        time_of: datetime | None = self._filesystem.get_file_info(path).mtime
        return time_of

    def _delete(self, path: str) -> None:
        with suppress(OSError, pa.ArrowException):  # one that stays is seen to be dead
            self._filesystem.delete_file(path)


def _may_pass(error: BaseException) -> bool:
    return not isinstance(error, FileNotFoundError)
