"""The command line: the table of commands, and the code that they share. `mnist_job.cli.parser` makes the parser."""

import argparse
import json
import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import shtab
import yaml

from mnist_job.cli import kubernetes, parser
from mnist_job.cli.parser import Command
from mnist_job.config import sources
from mnist_job.config.parts import LogSettings
from mnist_job.config.setting import GROUPS, declared
from mnist_job.config.settings import EvaluateConfig, JobConfig, PrepareConfig, Settings
from mnist_job.errors import Interrupted, JobError, UsageError
from mnist_job.log import Log, write
from mnist_job.pipeline import supervisor
from mnist_job.system import environment

_SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Without `arguments`, take those of the process, and run the job in a child process of a supervising parent. With
    `arguments`, as in tests, run it in this process.
    """
    early = parser.early(arguments)
    as_document = early.format == "json"
    log = Log(sys.stderr if as_document else sys.stdout, json_lines=early.log_format == "json")

    def command() -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        environment.prepare()
        parsed, rest = parser.parser(_COMMANDS).parse_known_args(arguments)
        command = _COMMANDS[parsed.command]
        config = _settings(command.settings, parsed, rest, log)
        log.verbose = config is not None and config.verbose

        def work() -> int:
            command.call(parsed, config, log)
            return 0

        if command.is_supervised and arguments is None and isinstance(config, Settings):
            concluded = partial(_concluded, work, log, as_document=as_document)
            return supervisor.supervised(config, log, concluded, dry_run=parsed.dry_run)
        return work()

    return _concluded(command, log, as_document=as_document)


def _concluded(work: Callable[[], int], log: Log, *, as_document: bool) -> int:
    """Run `work` and return its exit code. If it fails, print why."""
    try:
        return work()
    except (JobError, KeyboardInterrupt) as stop:
        error = stop if isinstance(stop, JobError) else Interrupted()
        if log.verbose:
            log.traceback("".join(traceback.format_exception(error)).rstrip())
        for line in (*str(error).splitlines(), *getattr(error, "__notes__", ())):
            log.failure(line, exit_code=error.exit_code)
        if as_document:
            log.write_document(error.exit_code, str(error))
        return error.exit_code


def _settings(
    kind: type[LogSettings] | None, parsed: argparse.Namespace, rest: Sequence[str], log: Log
) -> LogSettings | None:
    """Return the command's settings, if it has any. Raises UsageError for wrong settings and unknown arguments."""
    faults = list(parsed.parser.unknown(rest))
    if kind is None:
        if faults:
            raise UsageError("\n".join(faults))
        return None
    flags = {field: value for field, value in vars(parsed).items() if field in kind.model_fields}
    written = sources.gathered(kind, flags, os.environ, parsed.config, faults)
    log.json_lines = "log_format" in written and written["log_format"].value == "json"
    return sources.checked(kind, written, faults)


def _run(parsed: argparse.Namespace, config: JobConfig, log: Log) -> None:
    from mnist_job.pipeline import job

    with log.document(parsed.format):
        job.run(config, log, dry_run=parsed.dry_run, force=parsed.force)


def _evaluate(parsed: argparse.Namespace, config: EvaluateConfig, log: Log) -> None:
    from mnist_job.pipeline import job

    with log.document(parsed.format):
        job.evaluate(config, log, dry_run=parsed.dry_run)


def _prepare(_: argparse.Namespace, config: PrepareConfig, log: Log) -> None:
    from mnist_job.pipeline import prepare

    prepare.prepare(config, log)


def _config(parsed: argparse.Namespace, config: JobConfig, _: Log) -> None:
    groups = {name: GROUPS.index(declared(field, "group")) for name, field in JobConfig.model_fields.items()}
    content = dict(sorted(config.model_dump(mode="json").items(), key=lambda item: groups[item[0]]))
    write(json.dumps(content, indent=2) + "\n" if parsed.format == "json" else yaml.safe_dump(content, sort_keys=False))


def _completion(parsed: argparse.Namespace, _: None, __: Log) -> None:
    write(shtab.complete(parser.parser(_COMMANDS), parsed.shell) + "\n")


def _interrupt(_number: int, _frame: types.FrameType | None) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, lambda *_: None)  # later signals must not interrupt the clean-up
    raise KeyboardInterrupt  # ray.get discards any other exception of a signal handler


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    parser.add_config(command)
    parser.add_format(command, "text", "lines, or the result as one JSON document and all lines on standard error")
    command.add_argument("--dry-run", action="store_true", help="do only the checks")


def _run_options(command: argparse.ArgumentParser) -> None:
    _evaluate_options(command)
    command.add_argument(
        "--force", action="store_true", help="run again, and overwrite what earlier runs of this name have left"
    )


def _config_options(command: argparse.ArgumentParser) -> None:
    parser.add_config(command)
    parser.add_format(command, "yaml", "format of the settings; --config reads both")


def _completion_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=_SHELLS, help="the shell to complete `mnist-job` in")


_COMMANDS = {
    "run": Command(
        "train, evaluate, and report the result",
        JobConfig,
        _run,
        _run_options,
        """\
  mnist-job run --data digits
  mnist-job run --data images.npz --epochs 20 --min-accuracy 0.9
  mnist-job run --data s3://bucket/images.npz --output s3://bucket/runs
  mnist-job run --workers 2:8 --use-gpu --address ray-head:6379
  mnist-job run --data digits -o json | jq .accuracy
""",
        is_supervised=True,
    ),
    "evaluate": Command(
        "evaluate a saved model, and report the result",
        EvaluateConfig,
        _evaluate,
        _evaluate_options,
        """\
  mnist-job evaluate --model runs/mnist-job/model.keras --data digits
  mnist-job evaluate --model s3://bucket/model.keras --data images.npz -o json
""",
        is_supervised=True,
    ),
    "prepare": Command(
        "write a data set as shards, which are read while a model trains",
        PrepareConfig,
        _prepare,
        parser.add_config,
        """\
  mnist-job prepare --data images --test-fraction 0.2 --destination shards
  mnist-job run --data shards
""",
    ),
    "config": Command(
        "print the settings that `run` would use, as a file for --config",
        JobConfig,
        _config,
        _config_options,
        """\
  mnist-job config --epochs 20 > job.yaml
  mnist-job run --config job.yaml
""",
    ),
    **kubernetes.COMMANDS,
    "completion": Command(
        "print the completion script of a shell",
        None,
        _completion,
        _completion_options,
        """\
  source <(mnist-job completion bash)                # in ~/.bashrc
  mnist-job completion zsh > ~/.zfunc/_mnist-job     # a folder of $fpath
  mnist-job completion tcsh > ~/.mnist-job.csh       # ~/.tcshrc: source it
""",
    ),
}
