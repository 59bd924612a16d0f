"""What a run starts from: where its model and its data come from, and the user's code, read once."""

from typing import NamedTuple

from mnist_job.code.files import Code
from mnist_job.config.parts import LoopSettings
from mnist_job.data import sources
from mnist_job.data.sources import Source as Data
from mnist_job.models import source
from mnist_job.models.source import Source as Model


class Origin(NamedTuple):
    """Where the model and the data come from. `code` has the user's files, which both may need."""

    model: Model
    data: Data
    code: Code

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file that the run comes from, except the data, in hexadecimal."""
        return self.code.checksums | self.model.checksums


def read(config: LoopSettings) -> Origin:
    """Read the user's files that the settings name. Raises UsageError if one is missing or cannot be read."""
    model = source.read(config.model, config.model_args, config.code, config.hidden_layers)
    data = sources.read(config.data, config.code)
    return Origin(model, data, model.code | data.code)
