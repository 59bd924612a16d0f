"""The idx files of MNIST and its relatives, perhaps compressed by gzip.

The format is described at the end of http://yann.lecun.com/exdb/mnist/: two zero bytes, the type, the number of
dimensions, then each dimension as a big-endian int32, then the numbers.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow import fs

from mnist_job.data.formats.whole import Chosen, Samples, unpacked
from mnist_job.data.reading import NAMES, Part
from mnist_job.errors import DataError
from mnist_job.storage.files import File

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAME = re.compile(r"(?:.*-)?(train|t10k|test|val|validation)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
PARTS: Mapping[str, Part] = {**NAMES, "t10k": "test"}
WANTED = "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class IdxFiles:
    """The two files of a part."""

    images: File
    labels: File

    def targets(self) -> npt.NDArray[Any]:
        """Read the labels. Raises DataError."""
        return read(self.labels)

    def inputs(self, chosen: Chosen) -> npt.NDArray[Any]:
        """Read the images. Raises DataError."""
        images = read(self.images)
        return images if chosen is None else images[chosen]


def opened(filesystem: fs.FileSystem, entries: list[fs.FileInfo], where: str) -> dict[Part, Samples]:
    """Find the files among those of a folder. Raises DataError."""
    found: dict[tuple[Part, str], File] = {}
    for entry in entries:
        if (match := NAME.fullmatch(entry.base_name)) is None:
            continue
        key = PARTS[match[1]], match[2]
        if key in found:
            raise DataError(f"{where}: holds {entry.base_name} beside {found[key].path.rsplit('/', 1)[-1]}; remove one")
        found[key] = File(filesystem, entry.path)
    parts = dict.fromkeys(part for part, _ in found)
    for part in parts:
        for kind in ("images", "labels"):
            if (part, kind) not in found:
                raise DataError(f"{where}: holds no idx file with the {kind} of the part {part}")
    if "train" not in parts:
        raise DataError(f"{where}: holds no train-images-idx3-ubyte")
    return {part: IdxFiles(found[part, "images"], found[part, "labels"]) for part in parts}


def read(file: File) -> npt.NDArray[Any]:
    """Read an idx file. Raises DataError."""
    content = unpacked(file)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or not content[3]:
        raise DataError(f"{file.path}: is not an idx file")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">i4").tolist())
    dtype = np.dtype(TYPES[content[2]])
    if len(shape) != content[3] or math.prod(shape) * dtype.itemsize != len(content) - start:
        raise DataError(f"{file.path}: is truncated or damaged: its header does not match its length")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
