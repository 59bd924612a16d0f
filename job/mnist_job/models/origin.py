"""What a run starts from: where its model, its data and its callbacks come from, and the user's code, read once."""

from typing import NamedTuple

from mnist_job.config.training import LoopSettings
from mnist_job.data import sources
from mnist_job.data.reading import Reading
from mnist_job.data.sources import Source as Data
from mnist_job.errors import UsageError
from mnist_job.models import source
from mnist_job.models.source import Source as Model
from mnist_job.usercode import files, function
from mnist_job.usercode.files import Code
from mnist_job.usercode.function import Function


class Origin(NamedTuple):
    """Where the model and the data come from, and the function of `--callbacks`. `code` has all of the user's files."""

    model: Model
    data: Data
    callbacks: Function | None
    code: Code

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file that the run comes from, except the data, in hexadecimal."""
        return self.code.checksums | self.model.checksums


def read(config: LoopSettings) -> Origin:
    """Read the user's files that the settings name.

    Raises UsageError if one is missing or cannot be read, or if `--callbacks` names no function.
    """
    model = source.read(config.model, config.model_args, config.code, config.hidden_layers, config.precision)
    data = sources.read(config.data, config.code, Reading.of(config))
    callbacks = function.read("--callbacks", config.callbacks, config.code)
    if config.callbacks is not None and callbacks is None:
        raise UsageError(f"--callbacks {config.callbacks}: is not FILE.py:FUNCTION or MODULE:FUNCTION")
    code = files.read(config.code, []) | model.code | data.code | (callbacks.code if callbacks else Code())
    return Origin(model, data, callbacks, code)
