"""The sources of data sets: `mnist`, `digits`, or an .npz at a path or URI."""

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_job.data import npz
from mnist_job.errors import DataError
from mnist_job.storage import files

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]

# The file of keras.datasets.mnist (keras/src/datasets/mnist.py), with the same URL, hash and path in the cache.
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
DIGITS_TRAINING_IMAGES = 1437  # the first 80 % of scikit-learn's 1,797


def absolute(source: str) -> str:
    """Return the source with an absolute path, so that a worker can read it from any folder."""
    return source if source in ("mnist", "digits") else files.absolute(source)


def name(source: str) -> str:
    """Return `mnist`, `digits`, or the file's name without .npz. It is the label `dataset` of the metrics."""
    return source.partition("?")[0].rsplit("/", 1)[-1].removesuffix(".npz")


def load(source: str, part: str) -> Arrays:
    """Load the images and labels of `train`, `val` or `test`. Raises DataError."""
    if source == "digits":
        return _digits(part)
    file = _file(source)
    images, labels = npz.read(file, f"x_{part}", f"y_{part}")
    if len(images) != len(labels):
        raise DataError(f"{files.shown(file)}: x_{part} holds {len(images)} images, y_{part} {len(labels)} labels")
    return images, labels


def has_validation(source: str) -> bool:
    """Return whether the file has its own validation part. Raises DataError if it has only one of the two arrays."""
    if source == "digits":
        return False
    file = _file(source)
    there = {"x_val", "y_val"} & set(npz.names(file))
    if len(there) == 1:
        raise DataError(
            f"{files.shown(file)}: holds {there.pop()} but not the other array; "
            "a validation part needs both x_val and y_val"
        )
    return bool(there)


def place(source: str) -> str:
    """Return the place of the data for messages: the path of the downloaded MNIST file, or the path or URI."""
    return files.shown(str(_mnist_file()) if source == "mnist" else source)


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


def _digits(part: str) -> Arrays:
    """Read scikit-learn's 8x8 digits (pixels 0 to 16) from the files of its package.

    `sklearn.datasets.load_digits` reads the same file, but importing it takes 1.5 s in every process.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn, which ships this data set, is not installed")
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    chosen = rows[:DIGITS_TRAINING_IMAGES] if part == "train" else rows[DIGITS_TRAINING_IMAGES:]
    return chosen[:, :-1].reshape(-1, 8, 8), chosen[:, -1].astype(np.int32)
