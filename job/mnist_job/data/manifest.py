"""The manifest of a prepared data set, which describes its shards. The identity of the data is the manifest's hash."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from pydantic import TypeAdapter

from mnist_job.data.arrays import Split
from mnist_job.data.npz import WORD_BYTES
from mnist_job.errors import DataError

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A file of rows: its path relative to the manifest, the number of its rows, and the SHA-256 of its content."""

    file: str
    rows: int
    sha256: str

    @classmethod
    def of(cls, file: str, rows: int, content: bytes) -> "Shard":
        """Return the description of a file with this content."""
        return cls(file, rows, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Form:
    """What every row of a prepared data set looks like.

    Attributes:
        shape: the shape of a sample's inputs.
        dtype: their NumPy type.
        targets: the shape of a sample's targets: () for a class or a quantity, (K,) for several quantities.
        has_classes: whether the targets are class numbers (int32) and not quantities (float32).
        has_weights: whether each sample has a weight in the loss.
        one_hot: the number of classes if the targets were one-hot rows at first, as in `Split`.

    """

    shape: tuple[int, ...]
    dtype: str
    targets: tuple[int, ...] = ()
    has_classes: bool = True
    has_weights: bool = False
    one_hot: int = 0

    @classmethod
    def of(cls, split: Split) -> "Form":
        """Return the form of these samples."""
        return cls(
            split.inputs.shape[1:],
            split.inputs.dtype.str,
            split.targets.shape[1:],
            split.has_classes,
            split.weights is not None,
            split.one_hot,
        )

    @property
    def target_dtype(self) -> "np.dtype[np.int32 | np.float32]":
        """The NumPy type of the targets."""
        return np.dtype(np.int32 if self.has_classes else np.float32)

    @property
    def row_bytes(self) -> int:
        """The size of a sample's inputs in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def words(self) -> int:
        """The number of words of WORD_BYTES that a sample's inputs fill. The last one may be filled in part."""
        return -(-self.row_bytes // WORD_BYTES)


@dataclass(frozen=True)
class Manifest:
    """The description of a prepared data set.

    Attributes:
        source: what it was prepared from, for people.
        preparation: the hash of all that it was prepared from.
        form: what every row looks like.
        parts: the shards of `train`, `val` and `test`.
        examples: a file like a shard, with a few training samples.
        of_class: for each part, the number of samples of each class; empty if the targets are quantities.
        names: the names of the classes, or None.
        scale: the largest absolute value of the training inputs.
        mean: the mean of the training inputs.
        deviation: their standard deviation.

    """

    source: str
    preparation: str
    form: Form
    parts: dict[str, tuple[Shard, ...]]
    examples: Shard
    of_class: dict[str, tuple[int, ...]]
    names: tuple[str, ...] | None
    scale: float
    mean: float
    deviation: float

    def to_json(self) -> str:
        """Return the content of the manifest file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, text: bytes, where: str) -> "Manifest":
        """Read the content of a manifest file at a place. Raises DataError."""
        try:
            content = json.loads(text)
            if (form := content.pop("format")) == FORMAT:
                return TypeAdapter(cls).validate_python(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: is no manifest of a prepared data set, or is damaged") from error
        raise DataError(f"{where}: has format {form}, and this program reads {FORMAT}; prepare the data set again")

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest, which has those of all shards: the identity of the data."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def samples(self, part: str) -> int:
        """Return the number of samples of a part."""
        return sum(shard.rows for shard in self.parts[part])
