"""A parent that only supervises: it outlives whatever the run dies of, and tells of it.

The run is a child, forked before anything large is imported. Ray's C++ ends a driver whose raylet or GCS has gone, the
kernel kills one for its memory, a library may never return to Python: then the parent ends what is left, publishes the
failure, and its caller says the one sentence. A child that ends by itself has said and published how.

Both are in one process group, as their terminal and whoever stops a whole group expect. So a Ctrl-C reaches both, and a
SIGTERM perhaps the parent alone, which passes it on: the child is interrupted by the first signal that it hears, and
ignores all others. The parent counts them: the third ends all at once.
"""

import contextlib
import os
import select
import signal
import socket
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mnist_job.bounds import CONNECT_SECONDS, DEAF_SECONDS, HASTY_SECONDS, IMPORT_SECONDS, LAST_WORDS_SECONDS
from mnist_job.config.setting import declared
from mnist_job.config.settings import JobConfig, Settings
from mnist_job.errors import ClusterError, Interrupted, JobError, UsageError
from mnist_job.log import Log
from mnist_job.system import processes, temporary
from mnist_job.system.fork import SIGNALS, Fork, signals_wait, tell

_RAYS_OWN = {processes.RAYLET: "raylet", "raylet": "raylet", "gcs_server": "GCS"}


def supervised(config: Settings, log: Log, work: Callable[[], int], *, dry_run: bool) -> int:
    """Do `work` in a child, and give its exit code. `work` says itself how it ended, unless it dies.

    Raises ClusterError where it died, Interrupted where it had to be killed after several signals, and the JobError of
    its stage where it did not hear its `--timeout`; that has then been published, unless this is a `dry_run`. Raises
    UsageError where no temporary folder can be made. Belongs into a main thread without others beside it.
    """
    with _private_folder():
        spared = set(processes.children(os.getpid()))  # of the shell that became this program
        processes.adopt_orphans()
        with signals_wait() as mask:
            supervisor = _Supervisor(config, log, Fork(work, log, mask, quiet=not config.verbose))
            former = {number: signal.signal(number, supervisor.heard) for number in SIGNALS}
        try:
            error = supervisor.death()
            processes.end_all_children(spared)
            if error is None:
                return int(supervisor.run.told["done"])
            log.restore_terminal()
            if not dry_run and _has_places(config):
                supervisor.publish(error)
                processes.end_all_children(spared)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
    raise error


@contextlib.contextmanager
def _private_folder() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:  # not below TMPDIR, which may be too long for the name of a socket of Ray's
            stack.enter_context(temporary.private(["/tmp"]))  # noqa: S108 with a random name, for this user alone
        except OSError as error:
            raise UsageError(f"no temporary folder can be made: {error}; free some space, or set TMPDIR") from error
        yield


def _has_places(config: Settings) -> bool:
    """Whether a failure is published anywhere."""
    for name, field in type(config).model_fields.items():
        if declared(field, "group") == "where results go" and field.default is None and getattr(config, name):
            return True
    return False


class _Supervisor:
    def __init__(self, config: Settings, log: Log, run: Fork) -> None:
        self.run = run
        self._config, self._log = config, log
        self._interrupts = 0
        self._verdict: JobError | None = None
        self._end_at: float | None = None
        if config.timeout is not None:
            self._end_at = time.monotonic() + config.timeout + DEAF_SECONDS
        self._rays_own: dict[int, tuple[int, str]] = {}  # by the file that tells of its end: its id, and what it is
        self._lost: dict[str, int | None] = {}  # of these, with their statuses
        self._lost_at = 0.0
        self._can_watch = (probe := processes.watched(run.pid)) is not None
        if probe is not None:
            os.close(probe)
        again = "goes on from the last epoch" if isinstance(config, JobConfig) else "evaluates anew"
        self._again = f"the same command {again}"

    def heard(self, number: int, _frame: types.FrameType | None) -> None:
        """Ctrl-C or SIGTERM: pass it on; by the third, end the run."""
        self._interrupts += 1
        if self._interrupts == 1:
            self.run.kill(number)
        elif self._interrupts == 2:
            self._log.warning("still stopping; once more ends it at once")
        else:
            self._end(Interrupted(f"interrupted, and ended at once; {self._again}"))

    def death(self) -> JobError | None:
        """Wait for the run's end: None if it has said itself how that was, else what is to be said."""
        while not self.run.look():
            self._watch_rays_own()
            now = time.monotonic()
            if self._end_at is not None and now > self._end_at:
                self._end(self._late())
            elif self._lost and now > self._lost_at + LAST_WORDS_SECONDS:
                self.run.kill()
            missing = self._is_local and self._can_watch and len(self._rays_own) < len(set(_RAYS_OWN.values()))
            tick = 0.002 if self.run.is_ending else 0.05 if missing else 1.0
            select.select([*self.run.pipes, *self._rays_own], [], [], tick)
        self._watch_rays_own()  # the driver may have been quicker
        for file in self._rays_own:
            os.close(file)
        self.run.close()
        if "done" in self.run.told:
            return None
        died = Interrupted(f"interrupted; {self._again}") if self._interrupts else None
        return self._verdict or died or ClusterError(f"{self._cause()}; {self._again}")

    def publish(self, error: JobError) -> None:
        """Where it cannot be, that becomes a note on it. Done by a child: it may need Ray, which may end it, too."""
        timeout = self._config.delivery_timeout
        if isinstance(error, Interrupted):
            timeout = min(timeout, HASTY_SECONDS)
        ends_at = time.monotonic() + IMPORT_SECONDS + 5 * timeout
        identity = self.run.told.get("identity")
        with signals_wait() as mask:
            publish = partial(_published, self._config, error, identity, timeout)
            publisher = Fork(publish, self._log, mask, quiet=True)
        heard = self._interrupts
        while not publisher.look():
            if time.monotonic() > ends_at or self._interrupts > heard:
                publisher.kill()
            select.select(list(publisher.pipes), [], [], 0.05)
        publisher.close()
        undelivered = publisher.told.get("undelivered", None if "done" in publisher.told else "it took too long")
        if undelivered:
            error.add_note(f"the failure could not be reported: {undelivered}")

    @property
    def _is_local(self) -> bool:
        return self.run.told.get("ray") == "local"

    def _end(self, verdict: JobError) -> None:
        self._verdict = self._verdict or verdict
        self.run.kill()

    def _late(self) -> JobError:
        stage = self.run.told.get("stage")
        kind = next((kind for kind in JobError.__subclasses__() if kind.__name__ == stage), UsageError)
        return kind(f"--timeout {self._config.timeout:g}: the run took longer, and did not let itself be ended")

    def _watch_rays_own(self) -> None:
        """A driver may take a minute to see that its GCS was killed, and may call that something else."""
        if self._is_local:
            known = {process for process, _ in self._rays_own.values()}
            for process, name in processes.children(self.run.pid).items():
                if name in _RAYS_OWN and process not in known and (file := processes.watched(process)) is not None:
                    self._rays_own[file] = (process, _RAYS_OWN[name])
        for file in select.select(list(self._rays_own), [], [], 0)[0]:
            process, name = self._rays_own.pop(file)
            os.close(file)
            status = processes.exit_status(process)
            self.run.look()
            driver = self.run.status if self.run.status is not None else processes.exit_status(self.run.pid)
            if not self._is_local or (driver is not None and os.WIFSIGNALED(driver)):
                continue  # it was the driver that ended it, or that was killed and took it along
            self._lost[name] = status
            self._lost_at = time.monotonic()
            if status is not None and os.WIFSIGNALED(status):
                self.run.kill()

    def _cause(self) -> str:
        status, ray, last = self.run.status or 0, self.run.told.get("ray"), self.run.last_line
        for name, lost in self._lost.items():
            killed = lost is not None and os.WIFSIGNALED(lost)
            how = f"was killed by {processes.signal_name(os.WTERMSIG(lost or 0))}" if killed else "ended"
            return f"the local Ray has ended: its {name} {how}"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            memory = "perhaps for its memory: give it more (on Kubernetes head.resources)"
            return f"the driver was killed by SIGKILL (137), {memory}"
        if ray is not None and ray != "local" and not _answers(ray):
            return f"the Ray cluster at {ray} went away"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            how = f"died of {processes.signal_name(number)} ({128 + number})"
        else:
            how = f"ended with exit code {os.WEXITSTATUS(status)} before it was done"
        return f"the driver {how}" + (f": {last}" if last else "")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError):
        return False
    except ValueError:  # `auto`
        return True
    return True


def _published(config: Settings, error: JobError, identity: dict[str, Any] | None, timeout: float) -> int:
    try:
        from mnist_job.pipeline import delivery
        from mnist_job.results.outcome import Identity, Outcome

        known = Identity.of(config) if identity is None else Identity(**identity)
        delivery.deliver(Outcome(known, time.time(), error.exit_code, str(error)), config, timeout)
    except Exception as undelivered:  # noqa: BLE001 of whichever kind, the failure is told without it
        tell(undelivered=" ".join(str(undelivered).split()))
    return 0
