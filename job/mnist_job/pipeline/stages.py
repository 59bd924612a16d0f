"""The state that all stages of a run share (identity, log, display, clock, deadline), and their exit codes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

from mnist_job.bounds import HASTY_SECONDS, Deadline
from mnist_job.config.settings import Settings
from mnist_job.errors import DeliveryError, Interrupted, JobError
from mnist_job.log import Log
from mnist_job.phases import Clock
from mnist_job.pipeline import delivery
from mnist_job.pipeline.display import Display, Stage
from mnist_job.results.outcome import Identity, Outcome
from mnist_job.system.fork import tell


class Run:
    """The state of one execution of `run` or `evaluate`."""

    def __init__(self, config: Settings, log: Log) -> None:
        self.config = config
        self.log = log
        self.identity = Identity.of(config)
        self.display = Display(log)
        self.clock = Clock()
        self.deadline = Deadline(config.timeout)

    @property
    def identity(self) -> Identity:
        """The identity of this run. The supervising parent gets it too, to publish the failure of a run that died."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self._identity = identity
        tell(identity=asdict(identity))

    @contextmanager
    def stage(
        self, phase: str, kind: type[JobError], doing: str | None = None, epochs: int | None = None
    ) -> Iterator[Stage | None]:
        """Run a stage in this context: show it as `doing`, and count its time as `phase`.

        Raises an error of `kind` instead of an exception that has no exit code of its own.
        """
        self.deadline.stage = kind
        tell(stage=kind.__name__)
        try:
            with nullcontext() if doing is None else self.display.stage(doing, epochs) as shown:
                yield shown
        except JobError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            raise kind(f"{type(error).__name__}: {text} (--verbose shows where)") from error
        self.clock.ended(phase)

    @contextmanager
    def failure_is_published(self, *, dry_run: bool) -> Iterator[None]:
        """Publish a failure in the metrics before it leaves this context.

        If it cannot be published, add a note to it that says so. Its exit code stays the same.
        """
        try:
            with self.deadline.running():
                yield
        except (JobError, KeyboardInterrupt) as stop:
            late = self.deadline.passed
            error = stop if isinstance(stop, JobError) else self.deadline.error() if late else Interrupted()
            if not dry_run:
                hasty = isinstance(error, Interrupted | DeliveryError)
                timeout = self.config.delivery_timeout
                outcome = Outcome(self.identity, time.time(), error.exit_code, str(error))
                try:
                    delivery.deliver(outcome, self.config, min(timeout, HASTY_SECONDS) if hasty else timeout)
                except DeliveryError as undelivered:
                    if str(undelivered) != str(error):  # if they are equal, this delivery is the failure itself
                        error.add_note(f"the failure could not be reported: {undelivered}")
            if error is stop:
                raise
            raise error from stop
