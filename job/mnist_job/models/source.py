"""Where a network comes from: the reference network, a function of the user, or a saved model."""

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnist_job.errors import UsageError
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


class Function(NamedTuple):
    """A function of a module, and the user's files, which have the module unless it is installed."""

    module: str
    name: str
    code: Code


@dataclass(frozen=True)
class Source:
    """The origin of a network. Without `function` and `file`, it is the reference network with `hidden_layers`.

    If `precision` is not float32, it is built with Keras's policy of mixed precision.
    """

    hidden_layers: tuple[int, ...] = ()
    name: str = ""
    module: str = ""
    function: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: Code = field(default_factory=Code)
    file: files.File | None = None
    precision: str = "float32"

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference network."""
        return not self.function and self.file is None

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file that the network comes from, in hexadecimal."""
        return self.code.checksums | ({self.name: self.file.sha256()} if self.file is not None else {})

    def build(self, shapes: Shapes) -> "keras.Model":
        """Build the network in this process, in which the code is importable. Raises UsageError, in one line.

        With mixed precision, all layers that this process makes later have it, too: a model may make some of its layers
        when it is first called.
        """
        if self.precision != "float32":
            import keras

            keras.config.set_dtype_policy(f"mixed_{self.precision}")
        if self.is_reference:
            from mnist_job.models import reference

            return reference.build(shapes.input_shape, shapes.classes, shapes.scale, self.hidden_layers)
        if self.file is not None:
            return saved_model.trained_before(self.file, self.name)
        return self._called(shapes)

    def _called(self, shapes: Shapes) -> "keras.Model":
        import keras

        try:
            module = importlib.import_module(self.module)
        except BaseException as error:  # SystemExit, too: a script that was made to be run
            raise UsageError(f"--model {self.name}: cannot be imported: {code.told(error)}") from error
        function = getattr(module, self.function, None)
        if not callable(function):
            raise UsageError(f"--model {self.name}: {self.module} has no function {self.function}()")
        given = {"input_shape": shapes.input_shape, "classes": shapes.classes, "seed": shapes.seed, **self.arguments}
        parameters = inspect.signature(function).parameters
        if unknown := [name for name in self.arguments if name not in parameters]:
            raise UsageError(f"--model-args {unknown[0]}: {self.function}() has no such parameter")
        try:
            network = function(**{name: value for name, value in given.items() if name in parameters})
        except Exception as error:
            raise UsageError(f"--model {self.name}: {code.told(error)}") from error
        if not isinstance(network, keras.Model):
            raise UsageError(
                f"--model {self.name}: {self.function}() returned {type(network).__name__}, no Keras model"
            )
        if self.precision != "float32" and (policy := keras.config.dtype_policy().name) != f"mixed_{self.precision}":
            raise UsageError(f"--precision {self.precision}: {self.name} sets {policy} itself; leave the flag out")
        return network


def read(
    model: str | None,
    arguments: Mapping[str, Any],
    folder: str | None,
    hidden_layers: tuple[int, ...],
    precision: str = "float32",
) -> Source:
    """Return the source that the settings name, with the user's files as they are now.

    Raises UsageError if `--model` has no known form, if a file cannot be read, or if a saved model, whose layers keep
    their precision, is to have another one.
    """
    if model is None:
        if arguments:
            raise UsageError("--model-args: the default network takes none; name a function by --model")
        return Source(hidden_layers, code=code.read(folder, []), precision=precision)
    if (function := read_function(model, folder)) is not None:
        return Source((), model, function.module, function.name, arguments, function.code, precision=precision)
    if precision != "float32":
        raise UsageError(f"--precision {precision}: the layers of {model} keep the precision that they were saved with")
    return Source(name=model, file=saved_model.existing(model).held(), code=code.read(folder, []))


def read_function(model: str | None, folder: str | None) -> Function | None:
    """Return the function that `--model` names, or None if it names none. Raises UsageError if a file is missing."""
    match = _FUNCTION.fullmatch(model or "")
    if match is None:
        return None
    where = match["module"]
    if not where.endswith(".py"):
        return Function(where, match["function"], code.read(folder, []))
    root = Path(folder).expanduser().absolute() if folder is not None else Path(where).expanduser().absolute().parent
    path = Path(where).expanduser().absolute()
    if not path.is_file() and not (path := root / where).is_file():
        raise UsageError(f"--model {model}: {where}: no such file")
    inside = path.is_relative_to(root)
    module = ".".join((path.relative_to(root) if inside else Path(path.name)).with_suffix("").parts)
    return Function(module, match["function"], code.read(folder, [] if folder and inside else [where]))
