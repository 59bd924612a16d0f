"""Earlier runs of the same name: there is none, an unfinished one to resume, or a finished one with its result.

An unfinished run is resumed, and a finished one is not repeated, if the data and all settings that affect the result
are the same. If they differ, the run is refused, and the user chooses another `--name` or `--force`.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from mnist_job.config.settings import FORMER_DEFAULTS, JobConfig
from mnist_job.config.sources import flag, text
from mnist_job.errors import UsageError
from mnist_job.results.outcome import Outcome
from mnist_job.storage.folder import OUTCOME, RECORD, RunFolder


@dataclass(frozen=True)
class Record:
    """The settings that affect a run's result, and the checksums of its data and of the user's code."""

    settings: dict[str, Any]
    data_sha256: str | None
    code: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: dict[str, Any], data_sha256: str | None, code: dict[str, str] | None = None) -> "Record":
        """Make a record from `settings`, ignoring those that do not affect the result."""
        wanted = JobConfig.fields_affecting_result() - {"data"}  # the checksum is compared, not the path
        return cls({name: value for name, value in settings.items() if name in wanted}, data_sha256, code or {})

    def differences(self, former: "Record") -> str:
        """Return a text that lists the differences to `former`. It is empty if there are none."""
        before = FORMER_DEFAULTS | former.settings
        found = [
            f"{flag(name)} is {text(value)}, was {text(before.get(name))}"
            for name, value in self.settings.items()
            if value != before.get(name)
        ]
        if self.data_sha256 != former.data_sha256:
            found.append("--data holds other images or labels")
        changed = [name for name in self.code | former.code if self.code.get(name) != former.code.get(name)]
        if changed:
            found.append(f"the code has changed: {', '.join(changed)}")
        return "; ".join(found)


def settle(folder: RunFolder, mine: Record, run: str, *, force: bool, dry_run: bool) -> Outcome | None:
    """Return the result if the run has already finished. If not, prepare the folder for this run and return None.

    An unfinished run's checkpoints stay in the folder, so that this run resumes from them.

    Raises UsageError if the earlier run had other settings or data, if its files cannot be read, or if this program did
    not write all of them.
    """
    finished, unfinished = (None, None) if force else (_finished(folder), _unfinished(folder))
    if finished is not None and unfinished is not None and unfinished[1] == finished.identity.run:
        unfinished = None  # the run has finished, but was killed before it removed its work
    if unfinished is not None:
        _refuse(mine.differences(unfinished[0]), f"{folder.final}: an unfinished run of this name")
    elif finished is not None:
        former = Record.of(finished.identity.config, finished.identity.data_sha256, finished.identity.code)
        _refuse(mine.differences(former), f"{folder.final}: the run of this name")
        return finished
    folder.check_replaceable()
    if not dry_run:
        if unfinished is None:
            folder.clear()
        folder.write(RECORD, json.dumps({"run": run, "record": asdict(mine)}).encode())
    return None


def check_for_evaluation(folder: RunFolder) -> None:
    """Check that `evaluate` would not overwrite a trained model or the checkpoints of a run. Raises UsageError."""
    try:
        former = _finished(folder)
        trained = former is not None and former.training is not None
    except UsageError:
        trained = True  # not readable: assume that there is a model
    if folder.has_checkpoints():
        whose = "an unfinished run of this name"
    elif trained:
        whose = "a run of this name, with its model,"
    else:
        return
    raise UsageError(f"{folder.final}: {whose} is there, and the evaluation would overwrite it; take another --name")


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
        raise UsageError(f"{whose} differs: {differences}. Take another --name, or --force to replace it")
