"""Recognize what is at a path or URI: by what is there and how it begins, not by its name alone."""

import re
from collections.abc import Mapping, Sequence

from pyarrow import fs

from mnist_job.data.formats import idx, images, table
from mnist_job.data.formats.whole import Samples, WholeParts
from mnist_job.data.reading import Part, Reading
from mnist_job.errors import DataError, UsageError
from mnist_job.storage import files

TABLES = (".csv", ".csv.gz", ".parquet")
FOLDERS: Mapping[str, Part] = images.FOLDERS
ZIP, PARQUET = b"PK", b"PAR1"
FLAGS = {
    "arrays": "--data-arrays",
    "test_fraction": "--test-fraction",
    "size": "--image-size",
    "label": "--label",
    "features": "--features",
}
BEGINNINGS = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x93NUMPY": "an array of NumPy (.npy); put the arrays into an .npz: np.savez(path, x_train=..., y_train=...)",
    b"\x1f\x8b": "a gzip file; unpack it, or give the folder with the idx files",
    b"\0\0\x08": "an idx file; give the folder with the four files of a data set",
    b"\x89HDF": "an HDF5 file; save its arrays as an .npz",
    b"ustar": "a tar archive; unpack it",
    b"7z": "a 7-Zip archive; unpack it",
    b"<": "a web page or XML; was the download refused?",
}
KNOWN = (
    "an .npz, .csv or .parquet file, or a folder with images by class, with idx files, or with train.csv and test.csv"
)


def opened(place: str, reading: Reading) -> WholeParts | None:
    """Open the data set at a path or URI. Return None if it may be an .npz, also if it cannot be read.

    Raises DataError, with what is there, and UsageError for a setting that the format does not have.
    """
    where = files.shown(place)
    try:
        filesystem, path = files.resolve(place)
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.File:
            with filesystem.open_input_stream(path) as stream:
                beginning = bytes(stream.read(8))
    except (OSError, ValueError):
        return None
    if kind == fs.FileType.Directory:
        return _folder(filesystem, path, where, reading)
    if kind == fs.FileType.File and (beginning.startswith(PARQUET) or path.lower().endswith((".csv", ".csv.gz"))):
        return _tables(filesystem, {"train": [path]}, where, reading)
    if kind == fs.FileType.File and not beginning.startswith(ZIP):
        told = next((told for start, told in BEGINNINGS.items() if beginning.startswith(start)), None)
        if told is not None:
            raise DataError(f"{where}: is {told}; expected {KNOWN}")
    check_unused(reading, where, "an .npz", ("test_fraction", "size", "label", "features"))
    return None


def check_unused(reading: Reading, where: str, what: str, settings: Sequence[str]) -> None:
    """Check that none of these settings was given. Raises UsageError."""
    for name in settings:
        if getattr(reading, name):
            raise UsageError(f"{FLAGS[name]}: {where} is {what}, which is read without it; remove the flag")


def _folder(filesystem: fs.FileSystem, folder: str, where: str, reading: Reading) -> WholeParts:
    entries = filesystem.get_file_info(fs.FileSelector(folder))
    entries = sorted((one for one in entries if not one.base_name.startswith(".")), key=lambda one: one.base_name)
    if any(idx.NAME.fullmatch(one.base_name) for one in entries):
        check_unused(reading, where, "a folder of idx files", ("arrays", "size", "label", "features"))
        return WholeParts(idx.opened(filesystem, entries, where), where, reading, idx.WANTED)
    if tables := _parts_of_tables(filesystem, entries, where):
        return _tables(filesystem, tables, where, reading)
    if any(one.type == fs.FileType.Directory for one in entries):
        check_unused(reading, where, "a folder of images", ("arrays", "label", "features"))
        return WholeParts(images.opened(filesystem, folder, where, reading.size), where, reading, images.WANTED)
    listed = ", ".join(one.base_name for one in entries[:8]) or "nothing"
    raise DataError(
        f"{where}: is a folder without train/ and without folders of images; it holds {listed}; expected {KNOWN}"
    )


def _parts_of_tables(filesystem: fs.FileSystem, entries: Sequence[fs.FileInfo], where: str) -> dict[Part, list[str]]:
    """Return the tables of each part: train.csv, train-00000.parquet, or all in train/; empty if there is none."""
    found: dict[Part, list[str]] = {}
    for entry in entries:
        name = entry.base_name.lower()
        part = FOLDERS.get(re.split(r"[-._]", name, maxsplit=1)[0])
        if entry.type == fs.FileType.Directory and name in FOLDERS:
            inside = filesystem.get_file_info(fs.FileSelector(entry.path))
            paths = sorted(one.path for one in inside if one.base_name.lower().endswith(TABLES))
        else:
            paths = [entry.path] if name.endswith(TABLES) and entry.type == fs.FileType.File else []
            if paths and part is None:
                raise DataError(f"{where}: holds {entry.base_name}, whose name does not begin with train, test or val")
        if paths and part is not None:
            found.setdefault(part, []).extend(paths)
    if found and "train" not in found:
        raise DataError(f"{where}: holds no table for training, for example train.csv or train-00000.parquet")
    return found


def _tables(filesystem: fs.FileSystem, parts: Mapping[Part, list[str]], where: str, reading: Reading) -> WholeParts:
    check_unused(reading, where, "a table", ("arrays",))
    samples: dict[Part, Samples] = {part: table.Table(filesystem, paths, reading) for part, paths in parts.items()}
    return WholeParts(
        samples, where, reading, "train.csv and test.csv in a folder (or train-*.parquet, test-*.parquet)"
    )
