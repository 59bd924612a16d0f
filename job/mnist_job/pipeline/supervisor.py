"""The supervising parent: it survives when the run's process dies, and reports how.

The run is a child process, forked before any large import. It can die without a Python exception: Ray's C++ code exits
when the raylet or the GCS is gone, the kernel kills a process that runs out of memory, or a library call never returns.
Then the parent ends the processes that are left and publishes the failure, and its caller prints it. A child that ends
normally has already printed and published its result or its failure.

Both are in one process group, because a terminal sends its signals to the whole group. So a Ctrl-C reaches both. A
SIGTERM may reach only the parent, which forwards it. The first signal interrupts the child, which ignores all later
ones. The parent counts the signals: the third one kills everything.
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

# Not below TMPDIR: its path may be too long for Ray's sockets.
_PLACES = ["/tmp"]  # noqa: S108 the folder has a random name, and is for this user alone
_RAYS_OWN = {processes.RAYLET: "raylet", "raylet": "raylet", "gcs_server": "GCS"}


def supervised(config: Settings, log: Log, work: Callable[[], int], *, dry_run: bool) -> int:
    """Run `work` in a child process and return its exit code. Unless the child dies, `work` itself reports a failure.

    Raises ClusterError if the child died, Interrupted if it was killed after several signals, and the JobError of its
    stage if it did not stop at its `--timeout`; these failures have been published, except in a `dry_run`. Raises
    UsageError if no temporary folder can be made. Call this in the main thread, before any other thread starts.
    """
    with _private_folder():
        spared = set(processes.children(os.getpid()))  # children of a shell that has replaced itself by this program
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
        try:
            stack.enter_context(temporary.private(_PLACES))
        except OSError as error:
            raise UsageError(f"no temporary folder can be made: {error}; free some space, or set TMPDIR") from error
        yield


def _has_places(config: Settings) -> bool:
    """Return whether the settings name a place to publish a failure to."""
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
        # The raylet and the GCS of a local Ray: the process id and the name, by the file descriptor that watches it.
        self._rays_own: dict[int, tuple[int, str]] = {}
        self._lost: dict[str, int | None] = {}  # those of them that have died, with their exit statuses
        self._lost_at = 0.0
        self._can_watch = (probe := processes.watched(run.pid)) is not None
        if probe is not None:
            os.close(probe)
        again = "resumes from the last checkpoint" if isinstance(config, JobConfig) else "starts the evaluation again"
        self._again = f"the same command {again}"

    def heard(self, number: int, _frame: types.FrameType | None) -> None:
        """Handle Ctrl-C or SIGTERM: forward the first one, warn at the second, kill the run at the third."""
        self._interrupts += 1
        if self._interrupts == 1:
            self.run.kill(number)
        elif self._interrupts == 2:
            self._log.warning("still stopping; a third signal ends it immediately")
        else:
            self._end(Interrupted(f"interrupted, and ended immediately; {self._again}"))

    def death(self) -> JobError | None:
        """Wait for the run's end. Return None if the run has reported its end itself, or the error to report."""
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
        self._watch_rays_own()  # Ray's processes may have died just before the driver
        for file in self._rays_own:
            os.close(file)
        self.run.close()
        if "done" in self.run.told:
            return None
        died = Interrupted(f"interrupted; {self._again}") if self._interrupts else None
        return self._verdict or died or ClusterError(f"{self._cause()}; {self._again}")

    def publish(self, error: JobError) -> None:
        """Publish the error. If that fails, add a note to the error that says so.

        Another child process does it, because it may need Ray, which may end that process too.
        """
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
        return kind(
            f"--timeout {self._config.timeout:g}: the run took longer, and did not stop when it was interrupted"
        )

    def _watch_rays_own(self) -> None:
        """Watch the raylet and the GCS of a local Ray.

        A driver may need a minute to notice that its GCS was killed, and may then give another reason.
        """
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
                continue  # the driver has stopped its Ray, or was killed and its Ray ended with it
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
            memory = "perhaps because it ran out of memory: give it more (on Kubernetes head.resources)"
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
    except Exception as undelivered:  # noqa: BLE001 any error here must not hide the failure itself
        tell(undelivered=" ".join(str(undelivered).split()))
    return 0
