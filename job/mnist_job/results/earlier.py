"""What the runs before have left under a name: nothing, a run to go on with, or a result.

A run goes on, or is known to be done, where settings that affect the result and the data are the same. Where they are
not, the user decides: another `--name`, or `--force`.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from mnist_job.config.settings import FORMER_DEFAULTS, JobConfig
from mnist_job.config.sources import flag, text
from mnist_job.errors import UsageError
from mnist_job.results.outcome import Outcome
from mnist_job.storage.folder import OUTCOME, RECORD, RunFolder


@dataclass(frozen=True)
class Record:
    """What decides a run's result: the settings that affect it, and the data by their checksum."""

    settings: dict[str, Any]
    data_sha256: str | None

    @classmethod
    def of(cls, settings: dict[str, Any], data_sha256: str | None) -> "Record":
        """From settings that may hold more than those that affect the result."""
        wanted = JobConfig.fields_affecting_result() - {"data"}  # where the data lie does not matter
        return cls({name: value for name, value in settings.items() if name in wanted}, data_sha256)

    def differences(self, former: "Record") -> str:
        """What of `former` is otherwise here, for people; empty if nothing is."""
        before = FORMER_DEFAULTS | former.settings
        found = [
            f"{flag(name)} is {text(value)}, was {text(before.get(name))}"
            for name, value in self.settings.items()
            if value != before.get(name)
        ]
        if self.data_sha256 != former.data_sha256:
            found.append("--data holds other images or labels")
        return "; ".join(found)


def settle(folder: RunFolder, mine: Record, run: str, *, force: bool, dry_run: bool) -> Outcome | None:
    """The result that is there already, or None: then the folder is this run's, to go on with or to begin in.

    Raises UsageError if what is there was made otherwise, cannot be read, or holds what is not this program's.
    """
    finished, unfinished = (None, None) if force else (_finished(folder), _unfinished(folder))
    if finished is not None and unfinished is not None and unfinished[1] == finished.identity.run:
        unfinished = None  # the run ended, and was killed before it had cleared up
    if unfinished is not None:
        _refuse(mine.differences(unfinished[0]), f"{folder.final}: an unfinished run of this name")
    elif finished is not None:
        former = Record.of(finished.identity.config, finished.identity.data_sha256)
        _refuse(mine.differences(former), f"{folder.final}: the run of this name")
        return finished
    folder.check_replaceable()
    if not dry_run:
        if unfinished is None:
            folder.clear()
        folder.write(RECORD, json.dumps({"run": run, "record": asdict(mine)}).encode())
    return None


def check_for_evaluation(folder: RunFolder) -> None:
    """Raises UsageError where an evaluation alone would replace a trained model, or what a run goes on from."""
    try:
        former = _finished(folder)
        trained = former is not None and former.training is not None
    except UsageError:
        trained = True  # nobody knows, and --force is not for evaluations
    if folder.has_checkpoints():
        whose = "an unfinished run of this name"
    elif trained:
        whose = "a run of this name, with its model,"
    else:
        return
    raise UsageError(f"{folder.final}: {whose} is there, which the evaluation would replace; take another --name")


def _finished(folder: RunFolder) -> Outcome | None:
    content = folder.read(f"{folder.final}/{OUTCOME}")
    try:
        return None if content is None else Outcome.from_json(content)
    except ValueError as error:
        raise UsageError(f"{folder.final}/{OUTCOME}: is damaged; --force runs the job again") from error


def _unfinished(folder: RunFolder) -> tuple[Record, str] | None:
    content = folder.read(f"{folder.work}/{RECORD}")
    try:
        if content is None and not folder.has_checkpoints():
            return None
        written = json.loads(content or b"")
        return Record(**written["record"]), written["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder.work}/{RECORD}: is missing or damaged; --force starts the run from the beginning"
        ) from error


def _refuse(differences: str, whose: str) -> None:
    if differences:
        raise UsageError(f"{whose} is another: {differences}. Take another --name, or --force to replace it")
