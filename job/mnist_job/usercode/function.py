"""A function of the user's code, which a setting names: FILE.py:FUNCTION or MODULE:FUNCTION."""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_job.errors import JobError, UsageError
from mnist_job.usercode import files
from mnist_job.usercode.files import Code

_FUNCTION = re.compile(r"(?P<module>[\w./~-]+):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Function:
    """A function. `code` has its file, unless the folder of `--code` has it or its module is installed.

    `setting` and `text` are the flag and its value, for messages.
    """

    setting: str
    text: str
    module: str
    name: str
    code: Code = field(default_factory=Code)

    def file_in(self, code: Code) -> str | None:
        """Return the path of its module in the user's files, or None if it is the module of an installed package."""
        path = self.module.replace(".", "/")
        return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in code.files), None)

    def call(self, kind: type[JobError], offered: Mapping[str, Any], wanted: Mapping[str, Any] | None = None) -> Any:
        """Call it in this process, in which the code is importable, and return what it returns.

        It gets those of the `offered` arguments that it declares, and all that are `wanted`, which `--model-args` has.

        Raises UsageError if it cannot be imported or has no parameter that is wanted, and an error of `kind` if it
        fails; both in one line, with the user's file and line.
        """
        try:
            module = importlib.import_module(self.module)
        except BaseException as error:  # SystemExit, too: a script that was made to be run
            raise UsageError(f"{self}: cannot be imported: {files.told(error)}") from error
        function = getattr(module, self.name, None)
        if not callable(function):
            raise UsageError(f"{self}: {self.module} has no function {self.name}()")
        arguments, parameters = {**offered, **(wanted or {})}, inspect.signature(function).parameters
        if unknown := [name for name in wanted or () if name not in parameters]:
            raise UsageError(f"{self.setting}-args {unknown[0]}: {self.name}() has no such parameter")
        try:
            return function(**{name: value for name, value in arguments.items() if name in parameters})
        except Exception as error:
            raise kind(f"{self}: {files.told(error)}") from error

    def __str__(self) -> str:
        return f"{self.setting} {self.text}"


def is_function(text: str | None) -> bool:
    """Return whether the value of a setting names a function."""
    return _FUNCTION.fullmatch(text or "") is not None


def read(setting: str, text: str | None, folder: str | None) -> Function | None:
    """Return the function that the value of a setting names, or None if it names none.

    `folder` is that of `--code`. A file may be given by its path, or by its path in that folder. Raises UsageError if
    it is missing or cannot be read.
    """
    match = _FUNCTION.fullmatch(text or "")
    if match is None or text is None:
        return None
    where = match["module"]
    if not where.endswith(".py"):
        return Function(setting, text, where, match["function"])
    path = files.expanded(where).absolute()
    root = files.expanded(folder).absolute() if folder is not None else path.parent
    if not path.is_file() and not (path := root / where).is_file():
        raise UsageError(f"{setting} {text}: {where}: no such file")
    inside = path.is_relative_to(root)
    module = ".".join((path.relative_to(root) if inside else Path(path.name)).with_suffix("").parts)
    code = Code() if folder and inside else files.read(None, [where])
    return Function(setting, text, module, match["function"], code)
