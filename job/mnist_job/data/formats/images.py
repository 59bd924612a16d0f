"""Images in folders: `train/CLASS/...` and `test/CLASS/...`, or `CLASS/...`, decoded by Pillow."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow import fs

from mnist_job.data.fits import shape_text
from mnist_job.data.formats.whole import Chosen, Samples
from mnist_job.data.reading import NAMES, Part, Size
from mnist_job.errors import DataError, one_line
from mnist_job.storage.files import File, listed

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PLAIN = {"1": "L", "P": "RGB"}  # modes that Pillow decodes to another one, without a loss for a picture
DECODERS = 4  # threads: Pillow works outside of Python's lock, and a store answers several requests at a time
WANTED = "a folder test/ beside train/, each with a folder of images for each class"


@dataclass(frozen=True)
class Images:
    """Image files of a part, with the name of each one's class. The files are sorted."""

    filesystem: fs.FileSystem
    paths: list[str]
    classes: list[str]
    size: Size | None

    def targets(self) -> list[str]:
        """Return the name of each image's class."""
        return self.classes

    def inputs(self, chosen: Chosen) -> npt.NDArray[Any]:
        """Decode the chosen images: uint8, N x H x W or N x H x W x C. Raises DataError."""
        paths = self.paths if chosen is None else [self.paths[number] for number in chosen]
        with ThreadPoolExecutor(DECODERS) as decoders:
            return stacked(zip(paths, decoders.map(self._decoded, paths), strict=True), len(paths))

    def _decoded(self, path: str) -> npt.NDArray[np.uint8]:
        try:
            content = File(self.filesystem, path).read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {one_line(error, 200)}") from error
        return decoded(content, path, self.size)


def opened(
    filesystem: fs.FileSystem, folder: str, entries: Iterable[fs.FileInfo], where: str, size: Size | None
) -> dict[Part, Samples]:
    """Find the images in a folder with these entries. Raises DataError."""
    folders = {entry.base_name for entry in entries if entry.type == fs.FileType.Directory}
    if "train" not in folders:
        return {"train": _found(filesystem, entries, where, size)}
    if len({"val", "validation"} & folders) == 2:
        raise DataError(f"{where}: has val/ and validation/; remove one of them")
    return {
        part: _found(filesystem, listed(filesystem, f"{folder}/{name}"), f"{where}/{name}", size)
        for name, part in NAMES.items()
        if name in folders
    }


def stacked(images: Iterator[tuple[str, npt.NDArray[np.uint8]]], count: int) -> npt.NDArray[np.uint8]:
    """Return so many images as one array. Each comes with its name. Raises DataError if sizes or modes differ."""
    first_name, first = next(images)
    array = np.empty((count, *first.shape), np.uint8)
    array[0] = first
    for number, (name, image) in enumerate(images, start=1):
        if image.shape != first.shape:
            raise DataError(
                f"{name}: is an image of {shape_text(image.shape)}, but {first_name} is one of "
                f"{shape_text(first.shape)}; give --image-size HxW or HxWxC to bring all to one size"
            )
        array[number] = image
    return array


def decoded(content: bytes, where: str, size: Size | None) -> npt.NDArray[np.uint8]:
    """Decode an image: uint8, H x W or H x W x C. With a `size`, resize it (bilinear) and convert its channels.

    Raises DataError.
    """
    import warnings

    from PIL import Image  # imported here because only images need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where}: is no intact image: {one_line(error, 100)}") from error
    mode = MODES[size.channels] if size is not None and size.channels else PLAIN.get(image.mode, image.mode)
    if mode not in MODES.values():
        raise DataError(
            f"{where}: has the mode {image.mode}, and not 8 bits for each of 1, 3 or 4 channels; convert it, or give "
            "--image-size HxWxC"
        )
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size.width, size.height):
        image = image.resize((size.width, size.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if size is not None and size.channels == 1 else pixels


def _found(filesystem: fs.FileSystem, entries: Iterable[fs.FileInfo], where: str, size: Size | None) -> Images:
    classes = [entry for entry in entries if entry.type == fs.FileType.Directory]
    paths: list[str] = []
    names: list[str] = []
    for entry in classes:
        mine = list(_files(filesystem, entry.path))
        if not mine:
            raise DataError(f"{where}/{entry.base_name}: is a class without images; add some, or remove the folder")
        paths += mine
        names += [entry.base_name] * len(mine)
    if len(classes) < 2:
        raise DataError(f"{where}: has {len(classes)} folders of images; expected one for each of two or more classes")
    return Images(filesystem, paths, names, size)


def _files(filesystem: fs.FileSystem, folder: str) -> Iterator[str]:
    for entry in listed(filesystem, folder):
        if entry.type != fs.FileType.File or not entry.base_name.lower().endswith(EXTENSIONS):
            raise DataError(
                f"{entry.path}: is no image file ({', '.join(EXTENSIONS)}); a class's folder holds images only"
            )
        yield entry.path
