"""The sources of data sets: `mnist`, `digits`, an .npz at a path or URI, or a function of the user."""

import hashlib
import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mnist_job.data import arrays, npz
from mnist_job.data.arrays import Split
from mnist_job.errors import DataError
from mnist_job.storage import files
from mnist_job.usercode import function
from mnist_job.usercode.files import Code
from mnist_job.usercode.function import Function

Part = Literal["train", "val", "test"]

# The file of keras.datasets.mnist (keras/src/datasets/mnist.py), with the same URL, hash and path in the cache.
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
FUNCTION_SEED = 0  # not --seed: the data are the same for all seeds
DIGITS_TRAINING_IMAGES = 1437  # the first 80 % of scikit-learn's 1,797


@dataclass(frozen=True)
class Source:
    """A data set: the value of `--data`, and the function that it names, if it names one."""

    text: str
    function: Function | None = None

    @property
    def place(self) -> str:
        """The place of the data for messages: the path of the downloaded MNIST file, or the path, URI or function."""
        if self.function is not None:
            return str(self.function)
        return files.shown(str(_mnist_file()) if self.text == "mnist" else self.text)

    @property
    def code(self) -> Code:
        """The file that the function is in, unless the folder of `--code` has it."""
        return Code() if self.function is None else self.function.code

    @contextmanager
    def opened(self) -> Iterator["Parts"]:
        """Yield the parts of the data set. A function is called once, and what it returned is let go at the end.

        Raises DataError, and UsageError if the function cannot be imported.
        """
        if self.function is None:
            yield _FileParts(self.text)
        else:
            random.seed(FUNCTION_SEED)
            np.random.seed(FUNCTION_SEED)
            yield _ReturnedParts(arrays.parts(self.function.call(DataError, {}), self.place))


class Parts(Protocol):
    """An opened data set."""

    @property
    def has_validation(self) -> bool:
        """Whether the data set has its own validation part. Raises DataError if it has only half of one."""

    def load(self, part: Part) -> Split:
        """Return a part. Raises DataError."""


class _ReturnedParts:
    def __init__(self, parts: dict[str, Split]) -> None:
        self._parts = parts
        self.has_validation = "val" in parts

    def load(self, part: Part) -> Split:
        return self._parts[part]


class _FileParts:
    def __init__(self, text: str) -> None:
        self._text = text

    def load(self, part: Part) -> Split:
        if self._text == "digits":
            return Split(*_digits(part))
        file = _file(self._text)
        images, labels = npz.read(file, f"x_{part}", f"y_{part}")
        if len(images) != len(labels):
            raise DataError(f"{files.shown(file)}: x_{part} holds {len(images)} images, y_{part} {len(labels)} labels")
        return Split(images, labels)

    @property
    def has_validation(self) -> bool:
        if self._text == "digits":
            return False
        file = _file(self._text)
        there = {"x_val", "y_val"} & set(npz.names(file))
        if len(there) == 1:
            raise DataError(
                f"{files.shown(file)}: holds {there.pop()} but not the other array; "
                "a validation part needs both x_val and y_val"
            )
        return bool(there)


def read(text: str, folder: str | None = None) -> Source:
    """Return the source that `--data` names, with the user's files as they are now. `folder` is that of `--code`.

    Raises UsageError if a file of the user's code is missing.
    """
    if (found := function.read("--data", text, folder)) is not None:
        return Source(text, found)
    return Source(absolute(text))


def absolute(text: str) -> str:
    """Return the value of `--data` with an absolute path, so that a worker can read the file from any folder."""
    return text if text in ("mnist", "digits") or function.is_function(text) else files.absolute(text)


def name(text: str) -> str:
    """Return `mnist`, `digits`, the file's name without .npz, or the function's: the label `dataset` of the metrics."""
    if function.is_function(text):
        return text.rsplit("/", 1)[-1].replace(".py:", ":")
    return text.partition("?")[0].rsplit("/", 1)[-1].removesuffix(".npz")


def _file(source: str) -> str:
    return str(_mnist()) if source == "mnist" else source


def _mnist_file() -> Path:
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets/mnist.npz"


def _mnist() -> Path:
    """Return Keras's MNIST file from Keras's cache. Download it if it is not there. Raises DataError.

    The download uses pooch: Keras would import TensorFlow, which the driver must not do.
    """
    kept = _mnist_file()
    if kept.exists():
        with kept.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != MNIST_SHA256:  # pooch would overwrite it
                raise DataError(
                    f"mnist: {kept} is not the same file as Keras's; move it away, or give its path to --data"
                )
        return kept
    import pooch  # imported here because only a download needs it

    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(MNIST_URL, f"sha256:{MNIST_SHA256}", fname=kept.name, path=kept.parent))
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors; a wrong hash is a ValueError
        raise DataError(
            f"mnist: cannot be downloaded from {MNIST_URL} ({' '.join(str(error).split())}); "
            "give the path of an .npz, or --data digits, which needs no network"
        ) from error


def _digits(part: Part) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read scikit-learn's 8x8 digits (pixels 0 to 16) from the files of its package.

    `sklearn.datasets.load_digits` reads the same file, but importing it takes 1.5 s in every process.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn, which ships this data set, is not installed")
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    chosen = rows[:DIGITS_TRAINING_IMAGES] if part == "train" else rows[DIGITS_TRAINING_IMAGES:]
    return chosen[:, :-1].reshape(-1, 8, 8), chosen[:, -1].astype(np.int32)
