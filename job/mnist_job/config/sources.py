"""The sources of settings: flags, then `MNIST_JOB_*` variables, then a YAML file, then the defaults.

Each value keeps the name that its user wrote, so that an error message can say `--epochs`, `MNIST_JOB_EPOCHS` or
`job.yaml: epochs`. All faults are reported together. pydantic-settings cannot do this: it merges the sources before it
checks the values, so its errors name the field alone, and it ignores a misspelt variable (pydantic-settings 2.16).
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from mnist_job.config.parts import LogSettings
from mnist_job.config.setting import declared
from mnist_job.config.settings import FORMER_DEFAULTS, EvaluateConfig, JobConfig, PrepareConfig, Settings
from mnist_job.errors import UsageError

ENVIRONMENT_PREFIX = "MNIST_JOB_"
# Kubernetes sets such variables in every pod for each Service. Those of a Service `mnist-job-...` are not settings.
_SERVICE_LINK = re.compile(r"(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)$")
_KNOWN = frozenset().union(*(kind.model_fields for kind in (JobConfig, EvaluateConfig, PrepareConfig)))

SettingsT = TypeVar("SettingsT", bound=LogSettings)


class Written(NamedTuple):
    """A value, and the flag, variable or key that the user wrote it with."""

    value: Any
    where: str


def flag(field: str) -> str:
    """Return the flag of a field: `batch_size` -> `--batch-size`."""
    return "--" + field.replace("_", "-")


def variable(field: str) -> str:
    """Return the environment variable of a field: `batch_size` -> `MNIST_JOB_BATCH_SIZE`."""
    return ENVIRONMENT_PREFIX + field.upper()


def load(
    settings: type[SettingsT],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: str | None,
) -> SettingsT:
    """Read the settings from all sources. Raises UsageError, as `checked` does."""
    faults: list[str] = []
    return checked(settings, gathered(settings, flags, environment, file, faults), faults)


def gathered(
    settings: type[LogSettings],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: str | None,
    faults: list[str],
) -> dict[str, Written]:
    """Return each field that a source sets, with the value of the source that comes first. Add errors to `faults`.

    `flags` are the fields from the command line. Variables and keys that only the other command knows are ignored, so
    that `run` and `evaluate` can share them.
    """
    written: dict[str, Written] = {}
    for source in (_from_file(file, faults), _from_environment(environment, faults)):
        written.update((field, value) for field, value in source.items() if field in settings.model_fields)
    written.update((field, Written(value, flag(field))) for field, value in flags.items())
    return written


def checked(settings: type[SettingsT], written: Mapping[str, Written], faults: Iterable[str]) -> SettingsT:
    """Return the settings, if they are valid and there are no `faults`.

    Raises UsageError with one line for each fault: those given, values out of bounds, and settings that contradict each
    other.
    """
    found = list(faults)
    try:
        config = settings.model_validate({field: value.value for field, value in written.items()})
    except ValidationError as error:
        found += _sentences(error, written)
    if found:
        raise UsageError("\n".join(found))
    return config


def text(value: Any) -> str:
    """Return a setting's value as the text of its flag."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={part}" for name, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def changed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a run's effective settings, `values` from JSON, that differ from the defaults."""
    _, settings = _command(values)
    fields = settings.model_fields.items()
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}
    given = {field: value for field, value in FORMER_DEFAULTS.items() if field in settings.model_fields} | given
    return {
        field: given[field]
        for field, info in fields
        if field in given and given[field] not in (info.get_default(), declared(info, "in_effect"))
    }


def command_line(values: Mapping[str, Any]) -> list[str]:
    """Return the shortest command with the effective settings `values` (from JSON). Its words are not quoted."""
    words = ["mnist-job", _command(values)[0]]
    for field, value in changed(values).items():
        if isinstance(value, bool):
            words.append(flag(field) if value else f"--no-{flag(field).removeprefix('--')}")
        elif (written := text(value)).startswith("-"):
            words.append(f"{flag(field)}={written}")
        else:
            words += [flag(field), written]
    return words


def _command(values: Mapping[str, Any]) -> tuple[str, type[Settings]]:
    return ("run", JobConfig) if "epochs" in values else ("evaluate", EvaluateConfig)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` if a known name is similar, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Written]:
    found = {}
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        field = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if field in _KNOWN and name == variable(field):
            found[field] = Written(value, name)
        elif not _SERVICE_LINK.search(name):
            faults.append(f"{name}: no such setting{did_you_mean(name, map(variable, _KNOWN))}")
    return found


def _from_file(file: str | None, faults: list[str]) -> dict[str, Written]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        faults.append(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        faults.append(f"{file}: holds {type(content).__name__}, not settings as `name: value`")
        return {}
    found = {}
    for key, value in content.items():
        if key in _KNOWN:
            found[key] = Written(value, f"{file}: {key}")
        else:
            faults.append(f"{file}: {key}: no such setting{did_you_mean(str(key), _KNOWN)}")
    return found


def _sentences(error: ValidationError, written: Mapping[str, Written]) -> list[str]:
    """Return one line for each of pydantic's faults, with the name that the user wrote."""
    lines = []
    for fault in error.errors():
        field = str(fault["loc"][0])
        message = fault["msg"].removeprefix("Value error, ")
        if field not in written:
            lines.append(f"{flag(field)}: is required" if fault["type"] == "missing" else f"{flag(field)}: {message}")
            continue
        value, where = written[field]
        lines.append(f"{where}: {value!r}: {message}" if not isinstance(value, str) else f"{where}: {value}: {message}")
    return lines
