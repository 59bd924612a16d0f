"""Where a network comes from: the reference network, a function of the user, or a saved model."""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_job.errors import JobError, UsageError
from mnist_job.models import code, saved_model
from mnist_job.models.code import Code
from mnist_job.storage import files

if TYPE_CHECKING:  # the driver imports this module, and must not import TensorFlow
    import keras

_FUNCTION = re.compile(r"(?P<module>[\w./~-]+):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Shapes:
    """What a model has to fit, and what a function may ask for: `input_shape`, `classes` and `seed` by these names."""

    input_shape: tuple[int, ...]
    classes: int
    scale: int  # the largest pixel of the training images
    seed: int


@dataclass(frozen=True)
class Function:
    """A function of a module, and the user's files, which have the module unless it is installed.

    `setting` and `text` are the flag and its value, for messages.
    """

    setting: str
    text: str
    module: str
    name: str
    code: Code = field(default_factory=Code)

    @property
    def file(self) -> str | None:
        """The path of its module in the user's files, or None if it is the module of an installed package."""
        path = self.module.replace(".", "/")
        return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in self.code.files), None)

    def call(self, kind: type[JobError], offered: Mapping[str, Any], wanted: Mapping[str, Any] | None = None) -> Any:
        """Call it in this process, in which the code is importable, and return what it returns.

        It gets those of the `offered` arguments that it declares, and all that are `wanted`, which `--model-args` has.

        Raises UsageError if it cannot be imported or has no parameter that is wanted, and an error of `kind` if it
        fails; both in one line, with the user's file and line.
        """
        try:
            module = importlib.import_module(self.module)
        except BaseException as error:  # SystemExit, too: a script that was made to be run
            raise UsageError(f"{self}: cannot be imported: {code.told(error)}") from error
        function = getattr(module, self.name, None)
        if not callable(function):
            raise UsageError(f"{self}: {self.module} has no function {self.name}()")
        arguments, parameters = {**offered, **(wanted or {})}, inspect.signature(function).parameters
        if unknown := [name for name in wanted or () if name not in parameters]:
            raise UsageError(f"{self.setting}-args {unknown[0]}: {self.name}() has no such parameter")
        try:
            return function(**{name: value for name, value in arguments.items() if name in parameters})
        except Exception as error:
            raise kind(f"{self}: {code.told(error)}") from error

    def __str__(self) -> str:
        return f"{self.setting} {self.text}"


@dataclass(frozen=True)
class Source:
    """The origin of a network. Without `function` and `file`, it is the reference network with `hidden_layers`.

    `callbacks` is the function of `--callbacks`. `code` has all of the user's files.
    """

    hidden_layers: tuple[int, ...] = ()
    name: str = ""
    function: Function | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: Code = field(default_factory=Code)
    file: files.File | None = None
    callbacks: Function | None = None

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference network."""
        return self.function is None and self.file is None

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file that the network comes from, in hexadecimal."""
        return self.code.checksums | ({self.name: self.file.sha256()} if self.file is not None else {})

    def build(self, shapes: Shapes) -> "keras.Model":
        """Build the network in this process, in which the code is importable. Raises UsageError, in one line."""
        if self.function is not None:
            return self._called(self.function, shapes)
        if self.file is not None:
            return saved_model.trained_before(self.file, self.name)
        from mnist_job.models import reference

        return reference.build(shapes.input_shape, shapes.classes, shapes.scale, self.hidden_layers)

    def _called(self, function: Function, shapes: Shapes) -> "keras.Model":
        import keras

        offered = {"input_shape": shapes.input_shape, "classes": shapes.classes, "seed": shapes.seed}
        network = function.call(UsageError, offered, self.arguments)
        if not isinstance(network, keras.Model):
            raise UsageError(f"{function}: {function.name}() returned {type(network).__name__}, no Keras model")
        return network


def read(
    model: str | None,
    arguments: Mapping[str, Any],
    folder: str | None,
    hidden_layers: tuple[int, ...],
    callbacks: str | None = None,
) -> Source:
    """Return the source that the settings name, with the user's files as they are now.

    Raises UsageError if `--model` or `--callbacks` has no known form, or if a file cannot be read.
    """
    if model is None and arguments:
        raise UsageError("--model-args: the default network takes none; name a function by --model")
    found = read_function("--model", model, folder)
    called = read_callbacks(callbacks, folder)
    own = code.read(folder, [])
    for function in (found, called):
        own |= function.code if function is not None else Code()
    if model is None:
        return Source(hidden_layers, code=own, callbacks=called)
    if found is not None:
        return Source((), model, found, arguments, own, callbacks=called)
    return Source(name=model, file=saved_model.existing(model).held(), code=own, callbacks=called)


def read_callbacks(callbacks: str | None, folder: str | None) -> Function | None:
    """Return the function of `--callbacks`, or None if it is not given. Raises UsageError if it has another form."""
    found = read_function("--callbacks", callbacks, folder)
    if callbacks is not None and found is None:
        raise UsageError(f"--callbacks {callbacks}: is not FILE.py:FUNCTION or MODULE:FUNCTION")
    return found


def read_function(setting: str, text: str | None, folder: str | None) -> Function | None:
    """Return the function that the value of a setting names, or None if it names none.

    `folder` is that of `--code`. A file may be given by its path, or by its path in that folder. Raises UsageError if
    it is missing.
    """
    match = _FUNCTION.fullmatch(text or "")
    if match is None or text is None:
        return None
    where = match["module"]
    if not where.endswith(".py"):
        return Function(setting, text, where, match["function"], code.read(folder, []))
    path = Path(where).expanduser().absolute()
    root = Path(folder).expanduser().absolute() if folder is not None else path.parent
    if not path.is_file() and not (path := root / where).is_file():
        raise UsageError(f"{setting} {text}: {where}: no such file")
    inside = path.is_relative_to(root)
    module = ".".join((path.relative_to(root) if inside else Path(path.name)).with_suffix("").parts)
    return Function(setting, text, module, match["function"], code.read(folder, [] if folder and inside else [where]))
