"""Where a network comes from: the reference network, a function of the user, or a saved model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mnist_job.errors import UsageError
from mnist_job.models import saved_model
from mnist_job.storage import files
from mnist_job.usercode import function as functions
from mnist_job.usercode.files import Code
from mnist_job.usercode.function import Function

if TYPE_CHECKING:  # the driver imports this module, and must not import TensorFlow
    import keras


@dataclass(frozen=True)
class Shapes:
    """What a model has to fit, and what a function may ask for: `input_shape`, `classes` and `seed` by these names."""

    input_shape: tuple[int, ...]
    classes: int | None  # None: the targets are no class numbers
    scale: float  # the largest absolute value of the training inputs
    seed: int


@dataclass(frozen=True)
class Source:
    """The origin of a network. Without `function` and `file`, it is the reference network with `hidden_layers`.

    If `precision` is not float32, it is built with Keras's policy of mixed precision.
    """

    hidden_layers: tuple[int, ...] = ()
    name: str = ""
    function: Function | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    file: files.File | None = None
    precision: str = "float32"

    @property
    def code(self) -> Code:
        """The file that the function is in, unless the folder of `--code` has it."""
        return Code() if self.function is None else self.function.code

    @property
    def is_reference(self) -> bool:
        """Whether it is the reference network."""
        return self.function is None and self.file is None

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
        if self.function is not None:
            return self._called(self.function, shapes)
        if self.file is not None:
            return saved_model.trained_before(self.file, self.name)
        from mnist_job.models import reference

        assert shapes.classes is not None
        return reference.build(shapes.input_shape, shapes.classes, shapes.scale, self.hidden_layers)

    def _called(self, function: Function, shapes: Shapes) -> "keras.Model":
        import keras

        offered = {"input_shape": shapes.input_shape, "classes": shapes.classes, "seed": shapes.seed}
        network = function.call(UsageError, offered, self.arguments)
        if not isinstance(network, keras.Model):
            raise UsageError(f"{function}: {function.name}() returned {type(network).__name__}, no Keras model")
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
        return Source(hidden_layers, precision=precision)
    if (found := functions.read("--model", model, folder)) is not None:
        return Source((), model, found, arguments, precision=precision)
    if precision != "float32":
        raise UsageError(f"--precision {precision}: the layers of {model} keep the precision that they were saved with")
    return Source(name=model, file=saved_model.existing(model).held())
