"""The sources of data sets: a name, a file or a folder at a path or URI, or a function of the user."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from mnist_job.config.training import DATA_SETS
from mnist_job.data import arrays, shards
from mnist_job.data.arrays import Split
from mnist_job.data.formats import known, recognized
from mnist_job.data.formats.npz_parts import NpzParts
from mnist_job.data.reading import Part, Reading
from mnist_job.data.shards import Prepared
from mnist_job.errors import DataError
from mnist_job.storage import files
from mnist_job.usercode import function
from mnist_job.usercode.files import Code
from mnist_job.usercode.function import Function

FUNCTION_SEED = 0  # not --seed: the data are the same for all seeds
NOTHING = Reading()
ALL = [field.name for field in fields(Reading)]


@dataclass(frozen=True)
class Source:
    """A data set: the value of `--data`, the function that it names, if it names one, and how it is read."""

    text: str
    function: Function | None = None
    reading: Reading = NOTHING

    @property
    def place(self) -> str:
        """The place of the data for messages: the path of the downloaded MNIST file, or the path, URI or function."""
        if self.function is not None:
            return str(self.function)
        return known.place(self.text) if self.text in DATA_SETS else files.shown(self.text)

    @property
    def code(self) -> Code:
        """The file that the function is in, unless the folder of `--code` has it."""
        return Code() if self.function is None else self.function.code

    @property
    def prepared(self) -> Prepared | None:
        """The prepared data set at this place, or None if there is none. Raises DataError for a damaged manifest."""
        if self.function is not None or self.text in DATA_SETS or not shards.found(self.text):
            return None
        self.reading.check_unused(ALL, self.place, "a prepared data set")
        return shards.opened(self.text)

    @contextmanager
    def opened(self) -> Iterator["Parts"]:
        """Yield the parts of the data set. A function is called once, and what it returned is let go at the end.

        Raises DataError, and UsageError if the function cannot be imported or a setting does not suit the data.
        """
        if self.function is None and self.text not in DATA_SETS:
            yield recognized.opened(self.text, self.reading) or NpzParts(self.text, self.reading)
            return
        what = "a function" if self.function else "a data set by name"
        self.reading.check_unused(ALL, self.place, what)
        if self.function is None:
            yield known.Known(self.text)
        else:
            random.seed(FUNCTION_SEED)
            np.random.seed(FUNCTION_SEED)
            yield _ReturnedParts(arrays.parts(self.function.call(DataError, {}), self.place))


class Parts(Protocol):
    """An opened data set."""

    @property
    def has_validation(self) -> bool:
        """Whether the data set has its own validation part. Raises DataError if it has only half of one."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None if they are numbers, or no classes. Raises DataError."""

    def load(self, part: Part) -> Split:
        """Return a part. Raises DataError."""


class _ReturnedParts:
    class_names = None

    def __init__(self, parts: dict[str, Split]) -> None:
        self._parts = parts
        self.has_validation = "val" in parts

    def load(self, part: Part) -> Split:
        return self._parts[part]


def read(text: str, folder: str | None = None, reading: Reading = NOTHING) -> Source:
    """Return the source that `--data` names, with the user's files as they are now. `folder` is that of `--code`.

    Raises UsageError if a file of the user's code is missing.
    """
    if (found := function.read("--data", text, folder)) is not None:
        return Source(text, found, reading)
    return Source(absolute(text), None, reading)


def absolute(text: str) -> str:
    """Return the value of `--data` with an absolute path, so that a worker can read the file from any folder."""
    return text if text in DATA_SETS or function.is_function(text) else files.absolute(text)


def name(text: str) -> str:
    """Return the name of the data set, or of its file (without .npz), folder or function.

    It is the label `dataset` of the metrics.
    """
    if function.is_function(text):
        return text.rsplit("/", 1)[-1].replace(".py:", ":")
    return text.partition("?")[0].rstrip("/").rsplit("/", 1)[-1].removesuffix(".npz")
