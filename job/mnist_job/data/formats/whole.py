"""What a format gives, and what all formats share: the numbers of classes, and a test part that is split off."""

import gzip
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mnist_job.data import arrays, split
from mnist_job.data.arrays import Split
from mnist_job.data.npz import check_labels
from mnist_job.data.reading import Part, Reading
from mnist_job.errors import DataError, UsageError, one_line
from mnist_job.storage.files import File

GZIP = b"\x1f\x8b"
TEST_SEED = 0  # not --seed: runs of different seeds have the same test part, and `evaluate` has it, too
Chosen = npt.NDArray[np.int64] | None
"""Numbers of samples, sorted, or None for all."""


def unpacked(file: File) -> bytes:
    """Return the content of a file, unpacked if it is a gzip. Raises DataError."""
    try:
        content = file.read()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.path}: cannot be read: {one_line(error, 200)}") from error


class Samples(Protocol):
    """The samples of a part, which are not read yet."""

    def targets(self) -> npt.NDArray[Any] | list[str]:
        """Return the target of each sample: numbers, or the names of classes. Raises DataError."""

    def inputs(self, chosen: Chosen) -> npt.NDArray[Any]:
        """Return the inputs of the chosen samples: N x ... Raises DataError."""


class WholeParts:
    """The parts of a data set that is read into memory."""

    def __init__(self, samples: Mapping[Part, Samples], where: str, reading: Reading, wanted: str) -> None:
        """Check that there is a test part, or one to split off. `wanted` says what a test part would be.

        Raises DataError, and UsageError if a test part would be split off beside another one.
        """
        self._samples, self._where, self._fraction = samples, where, reading.test_fraction
        self._targets: dict[Part, npt.NDArray[Any] | list[str]] = {}
        if "test" in samples and self._fraction is not None:
            raise UsageError(f"--test-fraction {self._fraction:g}: {where} has a test part; remove the flag")
        if "test" not in samples and self._fraction is None:
            raise DataError(f"{where}: has no test part; add {wanted}, or give --test-fraction 0.2 to split one off")

    @property
    def has_validation(self) -> bool:
        """Whether the data set has its own validation part."""
        return "val" in self._samples

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, sorted, by the training part; None if they are numbers, or no classes."""
        targets = self._targets_of("train")
        return tuple(sorted(set(targets))) if isinstance(targets, list) else None

    def load(self, part: Part) -> Split:
        """Return a part. Raises DataError."""
        samples, targets, chosen = self.found(part)
        if not len(targets):
            raise DataError(f"{self._where}: the part {part} is empty")
        inputs = samples.inputs(chosen)
        return arrays.part((inputs, targets if chosen is None else targets[chosen]), part, self._where)

    def found(self, part: Part) -> tuple[Samples, npt.NDArray[Any], Chosen]:
        """Return samples that have the part, the targets of all of them, and which are the part. Raises DataError."""
        of: Part = "train" if part == "test" and "test" not in self._samples else part
        samples = self._samples[of]
        targets = self._numbered(self._targets_of(of), of)
        return samples, targets, self._chosen(targets, part) if of == "train" else None

    def _targets_of(self, part: Part) -> npt.NDArray[Any] | list[str]:
        """Return the targets as they are in the source, which is read once for them."""
        if part not in self._targets:
            self._targets[part] = self._samples[part].targets()
        return self._targets[part]

    def _numbered(self, targets: npt.NDArray[Any] | list[str], part: Part) -> npt.NDArray[Any]:
        if not isinstance(targets, list):
            return targets
        number = {name: index for index, name in enumerate(self.class_names or ())}
        if unknown := sorted(set(targets) - number.keys()):
            raise DataError(
                f"{self._where}: the part {part} has the class {unknown[0]}, but the training part does not; "
                "add samples of it there, or leave the class out"
            )
        return np.array([number[name] for name in targets], np.int32)

    def _chosen(self, targets: npt.NDArray[Any], part: Part) -> Chosen:
        if self._fraction is None:
            return None
        held = len(targets) - split.boundary(len(targets), self._fraction)
        strata = split.strata(targets)
        if not 0 < held <= len(targets) - len(np.unique(strata)):
            raise DataError(
                f"{self._where}: --test-fraction {self._fraction:g} leaves too few of {len(targets)} samples in a part"
            )
        check_labels(strata, "number the classes from 0", self._where)
        test = split.stratified(strata.astype(np.int32), held, TEST_SEED)
        return test if part == "test" else np.setdiff1d(np.arange(len(targets)), test)
