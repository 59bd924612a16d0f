"""Write a shard of a prepared data set, unless it is there.

A shard has the hash of the preparation in it. So an interrupted preparation goes on: a task whose shard is there reads
what it needs to know of it, and writes nothing. A file of anything else in its place is never replaced.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from pyarrow import fs
from pydantic import TypeAdapter

from mnist_job.data import shards
from mnist_job.data.arrays import Split
from mnist_job.data.manifest import Shard
from mnist_job.data.preparation import Planned
from mnist_job.data.reading import Part
from mnist_job.errors import DataError, JobError, one_line
from mnist_job.storage.files import File

PREPARATION, SUMS = "preparation", "sums"


@dataclass(frozen=True)
class Sums:
    """What is counted of the samples of a shard.

    Attributes:
        of_class: the number of samples of each class, up to the last one that there is; empty for quantities.
        largest: the largest absolute value of the inputs.
        total: the sum of all numbers of the inputs.
        squares: the sum of their squares.
        numbers: how many there are.

    """

    of_class: tuple[int, ...]
    largest: float
    total: float
    squares: float
    numbers: int

    @classmethod
    def of(cls, split: Split) -> "Sums":
        """Count these samples."""
        numbers = split.inputs.reshape(-1).astype(np.float64)
        of_class = tuple(np.bincount(split.targets).tolist()) if split.has_classes else ()
        return cls(of_class, float(abs(numbers).max()), float(numbers.sum()), float(numbers @ numbers), len(numbers))


@dataclass(frozen=True)
class Done:
    """A shard that is written, with what was counted of it."""

    part: Part
    number: int
    shard: Shard
    sums: Sums


@dataclass(frozen=True)
class Writer:
    """Writes shards into a folder.

    Attributes:
        filesystem: the file system of the folder.
        folder: its path there.
        preparation: the hash of what is prepared.

    """

    filesystem: fs.FileSystem
    folder: str
    preparation: str

    def there(self, part: Part) -> set[str]:
        """Return the names of the files that are there for a part, as `named` gives them."""
        found = self.filesystem.get_file_info(fs.FileSelector(f"{self.folder}/{part}", allow_not_found=True))
        return {f"{part}/{entry.base_name}" for entry in found}

    def write(self, part: Part, number: int, planned: Planned, split: Split | None = None) -> Done:
        """Write a shard of a part, unless it is there already. It appears whole, or not at all.

        `split` has its samples. Without it, they are read. Raises DataError.
        """
        rows, name = planned.shard(number), named(part, number)
        file = File(self.filesystem, f"{self.folder}/{name}")
        if file.exists():
            content = file.read()
            about = self._about(content)
            if about.get(PREPARATION) != self.preparation:
                raise DataError(f"{file.path}: is not a shard of this data set; choose another destination")
            sums = TypeAdapter(Sums).validate_json(about[SUMS])
        else:
            split = planned.samples.read(rows) if split is None else split
            sums = Sums.of(split)
            content = shards.written(split, {PREPARATION: self.preparation, SUMS: json.dumps(asdict(sums))})
            self.put(name, content)
        return Done(part, number, Shard.of(name, len(rows), content), sums)

    def put(self, name: str, content: bytes) -> None:
        """Write a file that is not there. It appears whole, or not at all."""
        path = f"{self.folder}/{name}"
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        File(self.filesystem, path).write(content)

    def _about(self, content: bytes) -> dict[str, str]:
        try:
            return shards.described(content)
        except (OSError, ValueError):
            return {}


def named(part: Part, number: int) -> str:
    """Return the name of a shard's file."""
    return f"{part}/{number:06}.arrow"


def told(write: Callable[[], Done], folder: str) -> dict[str, str]:
    """Write a shard. Return its `Done` as JSON, or why it is `refused`.

    Ray Data would wrap an exception in a traceback of several processes.
    """
    try:
        return {"done": json.dumps(asdict(write())), "refused": ""}
    except JobError as error:
        return {"done": "", "refused": str(error)}
    except OSError as error:
        return {"done": "", "refused": f"{folder}: cannot be written: {one_line(error, 200)}"}
