"""How a data set is read: settings that the driver, the workers and the evaluation share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mnist_job.config.sources import flag
from mnist_job.config.training import DataSettings
from mnist_job.errors import UsageError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
NAMES: Mapping[str, Part] = {"train": "train", "test": "test", "val": "val", "validation": "val"}
"""The part that a file or folder has, by the beginning of its name."""


class Size(NamedTuple):
    """The size of an image: its height, its width and, if it is given, the number of its channels."""

    height: int
    width: int
    channels: int | None = None

    def __str__(self) -> str:
        return "x".join(str(number) for number in self if number is not None)


@dataclass(frozen=True)
class Reading:
    """The values of the settings with the same names."""

    data_arrays: Mapping[str, str] = field(default_factory=dict)
    test_fraction: float | None = None
    image_size: Size | None = None
    label: str | None = None
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: DataSettings) -> "Reading":
        """Return what these settings say."""
        size = None if config.image_size is None else Size(*map(int, config.image_size.split("x")))
        data_arrays: Mapping[str, str] = dict(config.data_arrays.items())
        return cls(data_arrays, config.test_fraction, size, config.label, config.features)

    def check_unused(self, names: Iterable[str], where: str, what: str) -> None:
        """Check that none of these settings was given for the data at `where`, which is `what`. Raises UsageError."""
        for name in names:
            if getattr(self, name):
                raise UsageError(f"{flag(name)}: {where} is {what}, which is read without it; remove the flag")
