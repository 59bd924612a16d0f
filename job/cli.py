"""The command line: `mnist-job run`, `evaluate` and `config`."""

import argparse
import os
import signal
import sys
import traceback
import types
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

import yaml
from pydantic.fields import FieldInfo

from job import __version__, sources
from job.config import EvaluateConfig, JobConfig, Settings
from job.errors import Interrupted, JobError, UsageError

_OVERVIEW = """\
Every setting is a flag, an environment variable (--batch-size: MNIST_JOB_BATCH_SIZE) and a key of the --config file
(batch_size), in that order of precedence.

Exit codes: 0 succeeded; 2 usage or configuration; 3 data; 4 the cluster cannot hold the job, or cannot be reached;
5 training failed; 6 evaluation failed; 7 below --min-accuracy; 8 a result could not be delivered; 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code."""
    verbose = False
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        parser = _parser()
        parsed, unknown = parser.parse_known_args(arguments)
        settings: type[Settings] = EvaluateConfig if parsed.command == "evaluate" else JobConfig
        flags = {field: value for field, value in vars(parsed).items() if field in settings.model_fields}
        faults = [f"{name}: no such argument{_close_flag(name, settings)}" for name in unknown]
        config = sources.load(settings, flags, os.environ, parsed.config, faults)
        verbose = config.verbose
        _command(parsed, config)
    except (JobError, KeyboardInterrupt) as stop:
        error = stop if isinstance(stop, JobError) else Interrupted()
        if verbose:
            traceback.print_exception(error)
        for line in (*str(error).splitlines(), *getattr(error, "__notes__", ())):
            print(f"mnist-job: {line}", file=sys.stderr)
        return error.exit_code
    return 0


def _command(parsed: argparse.Namespace, config: Settings) -> None:
    if parsed.command == "config":
        yaml.safe_dump(config.model_dump(mode="json"), sys.stdout, sort_keys=False)
        return
    from job import pipeline  # Ray's import is slow: what is wrong with the settings is said without it

    if isinstance(config, JobConfig):
        pipeline.run(config, dry_run=parsed.dry_run, force=parsed.force)
    elif isinstance(config, EvaluateConfig):
        pipeline.evaluate(config, dry_run=parsed.dry_run)


def _interrupt(_number: int, _frame: types.FrameType | None) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)  # clearing up is not interrupted
    raise KeyboardInterrupt  # the only exception that a signal may raise out of ray.get: it forgets others


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mnist-job",
        description="Train a Keras classifier data-parallel on Ray, evaluate it, and report the result to Prometheus.",
        epilog=_OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mnist-job {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, settings, help in (
        ("run", JobConfig, "train, evaluate and publish"),
        ("evaluate", EvaluateConfig, "evaluate a saved model and publish"),
        ("config", JobConfig, "print the effective configuration of `run` as YAML, which --config reads"),
    ):
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.add_argument("--config", metavar="FILE", help="YAML file of settings")
        if name != "config":
            command.add_argument("--dry-run", action="store_true", help="check everything, and do nothing")
        if name == "run":
            help = "run anew, from nothing, whatever runs of this name have left"
            command.add_argument("--force", action="store_true", help=help)
        for field, info in settings.model_fields.items():
            _add_flag(command, field, info)
    return parser


def _add_flag(command: argparse.ArgumentParser, field: str, info: FieldInfo) -> None:
    kind: dict[str, Any] = {}
    if info.annotation is bool:
        kind["action"] = argparse.BooleanOptionalAction
    elif choices := [choice for choice in get_args(info.annotation) if isinstance(choice, str)]:
        kind["metavar"] = "{" + ",".join(choices) + "}"
    else:
        kind["metavar"] = field.rpartition("_")[2].upper()
    default = info.get_default()
    shown = "" if info.is_required() or default is None or default is False else f" [default: {_text(default)}]"
    help = f"{info.description or ''}{shown}".replace("%", "%%")
    command.add_argument(sources.flag(field), dest=field, default=argparse.SUPPRESS, help=help, **kind)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _close_flag(name: str, settings: type[Settings]) -> str:
    known = [sources.flag(field) for field in settings.model_fields] + ["--config", "--dry-run", "--force"]
    return sources.did_you_mean(name.partition("=")[0], known) if name.startswith("--") else ""
