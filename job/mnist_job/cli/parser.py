"""The parser of the command line: a flag for each setting of a command, in groups, with a help of 80 columns."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, get_args

import shtab
from pydantic.fields import FieldInfo

from mnist_job import __version__
from mnist_job.config import sources
from mnist_job.config.parts import LogSettings
from mnist_job.config.setting import GROUPS, declared
from mnist_job.config.training import DATA_SETS
from mnist_job.errors import UsageError
from mnist_job.log import Log, write

_OVERVIEW = """\
examples:
  mnist-job run --data digits                 the whole job in half a minute
  mnist-job run --data mnist --epochs 5       MNIST, downloaded once
  mnist-job run --data images.npz --dry-run   check everything, train nothing
  mnist-job evaluate --model runs/mnist-job/model.keras --data images.npz
  mnist-job submit --image IMAGE --wait       the whole job on Kubernetes

exit codes:
  0 succeeded   2 usage   3 data   4 the cluster   5 training failed
  6 evaluation failed   7 below --min-accuracy or --min-recall
  8 a result was not delivered   130 interrupted
"""
_SETTINGS = """\
Every setting is a flag, an environment variable (--batch-size:
MNIST_JOB_BATCH_SIZE) and a key of the --config file (batch_size), in that
order of precedence. Settings without a default are off.
"""
# Complete words and files. tcsh can complete only one of the two; there it completes files.
_NAMES = " ".join(DATA_SETS)
_DATA_SETS = shtab.FILE | {
    "bash": "_mnist_job_data_files",
    "zsh": rf"{{_alternative 'names\:data set\:({_NAMES})' 'files\:file\:_files'}}",
    "preamble": {"bash": f'_mnist_job_data_files() {{ compgen -W "{_NAMES}" -- "$1"; _shtab_compgen_files "$1"; }}'},
}
_PLACES = {"file": ("FILE", shtab.FILE), "folder": ("DIR", shtab.DIRECTORY), "data set": ("FILE", _DATA_SETS)}


class Command(NamedTuple):
    """A command. All its `settings` except `left_out` are flags, and `add_options` adds other flags and arguments.

    `call` gets the parsed arguments, the settings and the log. A supervised command must have `--dry-run`.
    """

    help: str
    settings: type[LogSettings] | None
    call: Callable[[argparse.Namespace, Any, Log], None]
    add_options: Callable[[argparse.ArgumentParser], None]
    examples: str
    left_out: frozenset[str] = frozenset()
    is_supervised: bool = False


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of all commands. It raises UsageError. The values of settings are checked by `sources`."""
    main = _Parser(
        prog="mnist-job",
        usage="mnist-job COMMAND [FLAGS]",
        description="Train a Keras model data-parallel on Ray, and report the result.",
        epilog=f"{_OVERVIEW}\n`mnist-job COMMAND --help` shows the flags of a command.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    main.add_argument("--version", action="version", version=f"mnist-job {__version__}")
    choice = main.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands", prog="mnist-job")
    for name, command in commands.items():
        added = choice.add_parser(
            name,
            help=command.help,
            usage=f"mnist-job {name} [FLAGS]" if command.settings else None,
            description=f"{command.help[0].upper()}{command.help[1:]}.\n\n{_SETTINGS if command.settings else ''}",
            epilog=f"examples:\n{command.examples}",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        added.set_defaults(parser=added)
        command.add_options(added)
        if command.settings is not None:
            _add_settings(added, command.settings, command.left_out)
    return main


def add_config(command: argparse.ArgumentParser) -> None:
    """Add `--config FILE`."""
    add_file(command, "--config", "YAML file of settings")


def add_file(command: argparse.ArgumentParser, flag: str, help: str) -> None:
    """Add a flag whose value is a file, which a shell completes."""
    file: Any = command.add_argument(flag, metavar="FILE", help=help)
    file.complete = shtab.FILE


def add_format(command: argparse.ArgumentParser, default: str, help: str) -> None:
    """Add `-o json`. Its long form is not `--output`, which is the folder of the results."""
    help = f"{help} [default: {default}]"
    command.add_argument("-o", "--format", choices=(default, "json"), default=default, help=help)


def early(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse only `format` and `log_format`. They are needed to print errors in the other arguments."""
    known = _Parser(add_help=False, allow_abbrev=False)
    known.add_argument("-o", "--format", nargs="?")
    known.add_argument("--log-format", nargs="?", default=os.environ.get(sources.variable("log_format")))
    return known.parse_known_args(arguments)[0]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows the valid arguments")

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ARG002 help and version: standard output
        write(message)

    def unknown(self, given: Sequence[str]) -> Iterator[str]:
        """Yield a sentence for each unknown argument. What follows an unknown flag is taken for its value."""
        for before, name in zip(["", *given], given, strict=False):
            if name.startswith("-"):
                close = sources.did_you_mean(name.partition("=")[0], self._option_string_actions)
                yield f"{name}: no such argument{close}"
            elif not before.startswith("-") or "=" in before:
                yield f"{name}: no such argument"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # one line for each command, without a line above them
            return "".join(map(self._format_action, action._get_subactions()))
        return super()._format_action(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return action.option_strings[0].replace("--", "--[no-]", 1)
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, str(action.metavar or ''))}"


class _Choices(tuple[str, ...]):
    """Choices for the help and for shells. argparse accepts any value, and `sources` reports wrong ones."""

    def __contains__(self, _: object) -> bool:
        return True


def _add_settings(command: argparse.ArgumentParser, settings: type[LogSettings], left_out: frozenset[str]) -> None:
    chosen = {name: field for name, field in settings.model_fields.items() if name not in left_out}
    for group in GROUPS:
        fields = {name: field for name, field in chosen.items() if declared(field, "group") == group}
        if fields:
            section = command.add_argument_group(group)
            for name, field in fields.items():
                _add_setting(section, name, field)


def _add_setting(section: Any, name: str, field: FieldInfo) -> None:
    kind: dict[str, Any] = {}
    place = declared(field, "place")
    inner = get_args(field.annotation)
    types = (field.annotation, *inner, *(argument for kind in inner for argument in get_args(kind)))
    if field.annotation is bool:
        kind["action"] = argparse.BooleanOptionalAction
    elif place is None and (choices := [choice for choice in types if isinstance(choice, str)]):
        kind["choices"] = _Choices(choices)
    elif name == "model_args":
        kind["metavar"] = "NAME=VALUE"
    elif place is not None:
        kind["metavar"] = _PLACES[place][0]
    else:
        kind["metavar"] = "N" if int in types or float in types else name.rpartition("_")[2].upper()
    help = f"{field.description}{_shown_default(field)}".replace("%", "%%")
    flag = section.add_argument(sources.flag(name), dest=name, default=argparse.SUPPRESS, help=help, **kind)
    if place is not None:
        flag.complete = _PLACES[place][1]


def _shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return " [required]"
    default = field.get_default()
    if default is None:
        default = declared(field, "in_effect")
    if default is None or default is False or default in ({}, ()):
        return ""
    return f" [default: {','.join(map(str, default)) if isinstance(default, tuple) else default}]"
