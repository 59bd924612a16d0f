"""The plan of a preparation: which samples are in which shard of a prepared data set.

The training samples are permuted once, at random. So each shard is a random sample of all, and the order of an epoch,
which mixes the rows of some shards at a time, is as good as one of all rows. Validation and test keep their order.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.config.settings import PrepareConfig
from mnist_job.data import arrays, dataset, fits, manifest, split
from mnist_job.data.arrays import Split
from mnist_job.data.formats.images import Images
from mnist_job.data.formats.table import Table
from mnist_job.data.formats.whole import WholeParts
from mnist_job.data.manifest import Form
from mnist_job.data.reading import Part
from mnist_job.data.sources import Parts, Source
from mnist_job.errors import DataError
from mnist_job.storage import files

SHUFFLE_SEED = 0  # not --seed: each epoch has an order of its own
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Unread:
    """Image files, which are read when they are needed."""

    images: Images
    targets: npt.NDArray[Any]
    part: Part
    where: str

    def read(self, rows: Rows) -> Split:
        """Read these samples. Raises DataError."""
        return arrays.part((self.images.inputs(rows), self.targets[rows]), self.part, self.where)

    def update(self, digest: "hashlib._Hash") -> None:
        """Add the names of the files to the hash, with their sizes and the times of their last change."""
        digest.update(files.identity(self.images.filesystem, self.images.paths).encode())


@dataclass(frozen=True)
class InFiles:
    """Rows of tables, which are read a file at a time.

    Attributes:
        table: the files.
        counts: the number of rows of each file.
        targets: the targets of all rows.
        part: the part that they are, for messages.
        where: the place of the data set, for messages.

    """

    table: Table
    counts: tuple[int, ...]
    targets: npt.NDArray[Any]
    part: Part
    where: str

    @cached_property
    def form(self) -> Form:
        """What every row must look like: as the first one does."""
        return Form.of(self.read(np.zeros(1, np.int64)))

    def split(self, inputs: npt.NDArray[Any], rows: Rows) -> Split:
        """Return the samples of these rows, whose inputs are given. Raises DataError."""
        return arrays.part((inputs, self.targets[rows]), self.part, self.where)

    def read(self, rows: Rows) -> Split:
        """Read a few samples: all files that have one of them. Raises DataError."""
        firsts = np.cumsum([0, *self.counts])
        numbers = np.searchsorted(firsts, rows, side="right") - 1
        found = {number: self.table.file(number) for number in np.unique(numbers).tolist()}
        inputs = [
            found[number][row - firsts[number]] for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)
        ]
        return self.split(np.stack(inputs), rows)

    def update(self, digest: "hashlib._Hash") -> None:
        """Add the names of the files to the hash, with their sizes and the times of their last change."""
        digest.update(files.identity(self.table.filesystem, self.table.paths).encode())


@dataclass(frozen=True)
class InMemory:
    """Samples in memory, which all processes of a node share."""

    split: Split

    @property
    def targets(self) -> npt.NDArray[Any]:
        """The targets of all samples."""
        return self.split.targets

    def read(self, rows: Rows) -> Split:
        """Return copies of these samples."""
        return self.split[rows]

    def update(self, digest: "hashlib._Hash") -> None:
        """Add the content to the hash."""
        dataset.update(digest, self.split)


Samples = Unread | InFiles | InMemory


@dataclass(frozen=True)
class Planned:
    """A part to write: its samples in the order of the shards, and how many are in a shard."""

    samples: Samples
    rows: Rows
    per_shard: int

    @property
    def shards(self) -> int:
        """The number of shards. The last one may have fewer samples."""
        return -(-len(self.rows) // self.per_shard)

    def shard(self, number: int) -> Rows:
        """Return the numbers of the samples of a shard."""
        return self.rows[number * self.per_shard : (number + 1) * self.per_shard]


@dataclass(frozen=True)
class Plan:
    """What is written: the parts, the names of the classes, and the hash of all that determines the content."""

    parts: Mapping[Part, Planned]
    names: tuple[str, ...] | None
    preparation: str


def plan(config: PrepareConfig, data: Source) -> Plan:
    """Find the samples of all parts, and divide them into shards. Of images and tables, only the targets are read yet.

    Raises DataError if a part is empty or has a class that the training part does not have, and UsageError if a setting
    does not suit the data.
    """
    with data.opened() as opened:
        found = {part: _found(opened, part, data.place) for part in _parts(opened)}
        names = opened.class_names
    train, chosen = found["train"]
    if "val" in found:
        dataset.check_no_split(config, data.place)
    else:
        held = dataset.held_out(config, split.strata(train.targets[chosen]), data.place)
        found["val"] = train, chosen[held]
        chosen = np.delete(chosen, held)
    order = np.random.default_rng((SHUFFLE_SEED, len(chosen))).permutation(len(chosen))
    found["train"] = train, chosen[order]
    per_shard = _per_shard(train.read(chosen[:1]), config.shard_megabytes)
    parts = {part: Planned(samples, rows, per_shard) for part, (samples, rows) in found.items()}
    of_training = train.targets[chosen]
    for part in ("val", "test"):
        fits.check_classes(parts[part].samples.targets[parts[part].rows], of_training, data.place, part)
    return Plan(parts, names, _hash(data, parts))


def _parts(opened: Parts) -> list[Part]:
    return ["train", "val", "test"] if opened.has_validation else ["train", "test"]


def _found(opened: Parts, part: Part, where: str) -> tuple[Samples, Rows]:
    if isinstance(opened, WholeParts):
        samples, targets, chosen = opened.found(part)
        if not len(targets):
            raise DataError(f"{where}: the part {part} is empty")
        rows = np.arange(len(targets)) if chosen is None else chosen
        if isinstance(samples, Images):
            return Unread(samples, targets, part, where), rows
        if isinstance(samples, Table):  # a copy, without what it remembers
            return InFiles(replace(samples), samples.counts, targets, part, where), rows
    whole = opened.load(part)
    return InMemory(whole), np.arange(len(whole))


def _per_shard(sample: Split, megabytes: float) -> int:
    return max(int(megabytes * 1e6) // int(sample.inputs[0].nbytes), 1)


def _hash(data: Source, parts: Mapping[Part, Planned]) -> str:
    """Return the SHA-256 of the settings and the content."""
    digest = hashlib.sha256(json.dumps([manifest.FORMAT, asdict(data.reading)], default=str).encode())
    for part, planned in sorted(parts.items()):
        digest.update(f"{part} {planned.per_shard}".encode() + planned.rows.tobytes())
        planned.samples.update(digest)
    return digest.hexdigest()
