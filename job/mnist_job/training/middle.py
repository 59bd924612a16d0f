"""A place within an epoch, as a checkpoint has it. Nothing here needs TensorFlow: the driver reads checkpoints, too."""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Middle(NamedTuple):
    """A place within an epoch.

    Attributes:
        step: how many steps of the epoch are done.
        seconds: how long they took.
        rate: the learning rate of the first step.
        values: what differs between the workers (`passes.Training.values`).

    """

    step: int
    seconds: float
    rate: float
    values: list[npt.NDArray[np.float64]]

    @property
    def is_finite(self) -> bool:
        """Whether the losses of all workers are finite so far. (The first value has their sums.)"""
        return bool(np.isfinite(self.values[0]).all())

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        content = io.BytesIO()
        np.savez(content, np.array(self[:3], np.float64), *self.values)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Middle":
        """Read its file. Raises ValueError if it is damaged."""
        with np.load(io.BytesIO(content)) as arrays:
            place, *values = (arrays[name] for name in arrays.files)
        return cls(int(place[0]), float(place[1]), float(place[2]), values)
