"""A run's lease on its folder, for stores without locks: a small object that is written again every few seconds.

A run that wants the lease first writes an announcement, and then lists the objects of other runs. S3, GCS and Azure
list every object that was written before. So of two runs that start at the same time, at least one sees the other, and
a run that sees another does not start. It may happen that neither starts, but never that both do.

If there is a lease already, the new run watches it. If it is renewed, its run is alive and the new run is refused. If
it is not renewed, its run was killed and the new run takes over. The age of a lease is measured by the store's clock;
the clocks of the machines do not matter.

One gap remains: a run may pause for longer than its lease lasts, because its machine was suspended or it could not
reach the store, and another run takes over. Until the first run renews its lease, it may still finish what it was
writing: a checkpoint under its own name or, in its last step, results. Workers that outlive their driver write only
checkpoints, under their run's name. (Conditional writes would close the gap for results; pyarrow 26 has none.)
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
    """Another run's lease. `age` is in seconds by the store's clock, or 0 if the store has no times."""

    path: str
    run: str
    held: bool
    content: bytes
    age: float


class Lease:
    """A run's lease on its folder. Its objects are in the folder's `lease/`."""

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
        """Hold the lease in this context. If it is lost, the main thread gets a KeyboardInterrupt, and `lost` says why.

        Raises UsageError if another run has the lease, and OSError if the store fails.
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
        """Renew the lease. Raises UsageError if another run has taken over, and OSError if the store fails."""
        with self._renewing:
            gone = owned.kind(self._filesystem, self._held) is None
            held = [other.run for other in self._others(None if gone else self._write(self._held)) if other.held]
            if gone or held:
                who = f"another run of this name ({held[0]})" if held else "another run of this name"
                self.lost = UsageError(
                    f"{self._folder.rpartition('/')[0]}: {who} took over while this one did not run or could not reach "
                    "the store; this run has ended and writes nothing more"
                )
                raise self.lost

    def stop(self) -> None:
        """Stop renewing. The lease itself is removed at the end of `taken`."""
        self._ended.set()
        if self._renewal.is_alive():
            self._renewal.join(bounds.CONNECT_SECONDS)  # do not wait longer for a store that does not answer

    def look(self, now: datetime | None, tell: Callable[[str], object]) -> None:
        """Wait until no other run has the lease, but do not take it. `now` is the time by the store's clock.

        Raises UsageError if another run is alive, and OSError if the store fails.
        """
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
                    break  # looked again, because the end of a third run may have removed another's announcement
                self._delete(self._held)
            self._delete(self._announced)  # two runs that start at the same time must not wait for each other
            time.sleep(bounds.LEASE_LOOK_SECONDS)
        for path in (self._announced, *(other.path for other in others)):
            self._delete(path)

    def _alive(
        self, others: list[_Other], watched: dict[str, tuple[bytes, float]], tell: Callable[[str], object]
    ) -> bool:
        """Return whether another run may be alive. Raises UsageError if one is: it has changed since `watched`."""
        alive = False
        for other in others:
            content, since = watched.get(other.path, (None, 0.0))
            if content == other.content:
                if max(other.age, time.monotonic() - since) > bounds.LEASE_SECONDS:
                    continue
            elif content is not None and (other.held or other.run < self.run):  # of two that start, the older one wins
                raise UsageError(
                    f"{self._folder.rpartition('/')[0]}: another run of this name ({other.run}) is in progress; "
                    "wait for its end, or take another --name"
                )
            elif other.age > bounds.LEASE_SECONDS:
                continue
            if not watched:
                tell(
                    f"run {other.run} of this name has not ended; waiting up to {bounds.LEASE_SECONDS:.0f} s "
                    "to see whether it is in progress"
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
                    self._ended.wait(bounds.DEAF_SECONDS)  # then again: a library may have missed the signal
                return
            except (OSError, pa.ArrowException):
                continue  # try again at the next renewal; the lease expires if the store does not answer for long

    def _others(self, now: datetime | None) -> list[_Other]:
        others = []
        for entry in self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True)):
            name = _NAME.fullmatch(entry.base_name)
            if name is None or name["run"] == self.run:
                continue
            with suppress(FileNotFoundError):  # that run has just ended
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
        """Write the object with a new content. Return its time by the store's clock."""
        self._writes += 1
        content = {"run": self.run, "written": self._writes, "time": datetime.now().astimezone().isoformat()}
        owned.make_folders(self._filesystem, self._folder)
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(json.dumps(content).encode())
        time_of: datetime | None = self._filesystem.get_file_info(path).mtime
        return time_of

    def _delete(self, path: str) -> None:
        with suppress(OSError, pa.ArrowException):  # if it stays, it expires
            self._filesystem.delete_file(path)


def _may_pass(error: BaseException) -> bool:
    return not isinstance(error, FileNotFoundError)
