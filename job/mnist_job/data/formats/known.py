"""Data sets by name: those of `keras.datasets`, from the same addresses, and scikit-learn's digits."""

import hashlib
import importlib.util
import io
import os
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyarrow import fs

from mnist_job.data import npz
from mnist_job.data.arrays import Split
from mnist_job.data.formats import idx
from mnist_job.data.reading import Part
from mnist_job.errors import DataError
from mnist_job.storage.files import File

KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
CIFAR = "https://www.cs.toronto.edu/~kriz"
DIGITS_TRAINING_IMAGES = 1437  # the first 80 % of scikit-learn's 1,797
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Download:
    """A file of Keras's data sets, and its path in Keras's cache. Keras has no SHA-256 for Fashion-MNIST (None)."""

    url: str
    path: str
    sha256: str | None


# keras/src/datasets/*.py
MNIST = Download(f"{KERAS}/mnist.npz", "mnist.npz", "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")
CIFAR10 = Download(
    f"{CIFAR}/cifar-10-python.tar.gz",
    "cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CIFAR100 = Download(
    f"{CIFAR}/cifar-100-python.tar.gz",
    "cifar-100-python.tar.gz",
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)


class CifarForm(NamedTuple):
    """The members of an archive of CIFAR, and the keys of what they hold."""

    train: Sequence[str]
    test: Sequence[str]
    meta: str
    labels: bytes
    names: bytes


CIFAR_FORMS = {
    "cifar10": CifarForm(
        [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"], "batches.meta", b"labels", b"label_names"
    ),
    "cifar100": CifarForm(["train"], ["test"], "meta", b"fine_labels", b"fine_label_names"),
}


class Known:
    """One of the data sets in DATA_SETS. It has no validation part."""

    has_validation = False

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None if these are digits. Raises DataError."""
        if self._name == "fashion_mnist":
            return CLOTHES
        if self._name not in CIFAR_FORMS:
            return None
        form = CIFAR_FORMS[self._name]
        (meta,) = _pickled(self._archive, [form.meta])
        return tuple(name.decode() for name in meta[form.names])

    @cached_property
    def _archive(self) -> Path:
        return _fetched(self._name, CIFAR10 if self._name == "cifar10" else CIFAR100)

    def load(self, part: Part) -> Split:
        """Return `train` or `test`. Raises DataError."""
        match self._name:
            case "mnist":
                return Split(*npz.read(str(_fetched("mnist", MNIST)), f"x_{part}", f"y_{part}"))
            case "fashion_mnist":
                return Split(*_fashion(part))
            case "digits":
                return Split(*_digits(part))
        return Split(*_cifar(self._archive, CIFAR_FORMS[self._name], part))


def place(name: str) -> str:
    """Return the place of a data set for messages: the path of MNIST's file, or the name."""
    return str(_cached(MNIST)) if name == "mnist" else name


def _fashion(part: Part) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    arrays = []
    for kind, rank in (("images", 3), ("labels", 1)):
        file = f"{'train' if part == 'train' else 't10k'}-{kind}-idx{rank}-ubyte.gz"
        download = Download(f"{KERAS}/{file}", f"fashion-mnist/{file}", None)
        arrays.append(idx.read(File(fs.LocalFileSystem(), str(_fetched("fashion_mnist", download)))))
    return arrays[0], arrays[1].astype(np.int32)


def _cifar(archive: Path, form: CifarForm, part: Part) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    batches = _pickled(archive, form.train if part == "train" else form.test)
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.concatenate([np.array(batch[form.labels], np.int32) for batch in batches])


class _Unpickler(pickle.Unpickler):
    """Admits only what an array of NumPy consists of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("_core", "core"), name) not in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _pickled(archive: Path, members: Sequence[str]) -> list[dict[bytes, Any]]:
    """Unpickle members of an archive, whose SHA-256 was checked. Raises DataError."""
    found = {}
    try:
        with tarfile.open(archive) as tar:  # it can be read from its start only
            for info in tar:
                if (member := info.name.rsplit("/", 1)[-1]) in members and (stream := tar.extractfile(info)):
                    found[member] = _Unpickler(io.BytesIO(stream.read()), encoding="bytes").load()
        return [found[member] for member in members]
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"{archive}: its {', '.join(members)} cannot be read: {told}") from error


def _cached(download: Download) -> Path:
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets" / download.path


def _fetched(name: str, download: Download) -> Path:
    """Return a file from Keras's cache. Download it if it is not there. Raises DataError.

    The download uses pooch: Keras would import TensorFlow, which the driver must not do.
    """
    kept = _cached(download)
    if kept.exists():
        if download.sha256 is not None:
            with kept.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != download.sha256:  # pooch would overwrite it
                    raise DataError(
                        f"{name}: {kept} is not the same file as Keras's; move it away, or give its path to --data"
                    )
        return kept
    import pooch  # imported here because only a download needs it

    pooch.get_logger().setLevel("WARNING")
    sha256 = download.sha256 and f"sha256:{download.sha256}"
    try:
        return Path(pooch.retrieve(download.url, sha256, fname=kept.name, path=kept.parent))
    except (OSError, ValueError) as error:  # requests' exceptions are OSErrors; a wrong hash is a ValueError
        raise DataError(
            f"{name}: cannot be downloaded from {download.url} ({' '.join(str(error).split())}); "
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
