"""How a data set is read: settings that the driver, the workers and the evaluation share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mnist_job.config.training import DataSettings

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Size(NamedTuple):
    """The size of an image: its height, its width and, if it is given, the number of its channels."""

    height: int
    width: int
    channels: int | None = None

    def __str__(self) -> str:
        return "x".join(str(number) for number in self if number is not None)


@dataclass(frozen=True)
class Reading:
    """The settings of `--data-arrays`, `--test-fraction`, `--image-size`, `--label` and `--features`."""

    arrays: Mapping[str, str] = field(default_factory=dict)
    test_fraction: float | None = None
    size: Size | None = None
    label: str | None = None
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: DataSettings) -> "Reading":
        """Return what these settings say."""
        size = None if config.image_size is None else Size(*map(int, config.image_size.split("x")))
        arrays: Mapping[str, str] = dict(config.data_arrays.items())
        return cls(arrays, config.test_fraction, size, config.label, config.features)
