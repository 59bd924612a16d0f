"""Recognize what is at a path or URI: by what is there and how it begins, not by its name alone."""

import re
from collections.abc import Mapping, Sequence

from pyarrow import fs

from mnist_job.data.formats import idx, images, table, tfrecord
from mnist_job.data.formats.whole import Samples, WholeParts
from mnist_job.data.reading import NAMES, Part, Reading
from mnist_job.errors import DataError
from mnist_job.storage import files

# train.csv, train-00000-of-00002.parquet, train.tfrecord-00000-of-00002, mnist-train.tfrecord.gz
BY_NAME = re.compile(r".*\.(csv|tfrecords?(-\d+-of-\d+)?)(\.gz)?", re.IGNORECASE)
TABLE = re.compile(rf"{BY_NAME.pattern}|.*\.parquet", re.IGNORECASE)
RECORDS = re.compile(r"(.*-)?(?P<part>train|test|val|validation)\.tfrecord.*", re.IGNORECASE)
BEGINNINGS = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"\x93NUMPY": "an array of NumPy (.npy); put the arrays into an .npz: np.savez(path, x_train=..., y_train=...)",
    b"\x1f\x8b": "a gzip file; unpack it, or give the folder with the idx files",
    b"\0\0\x08": "an idx file; give the folder with the four files of a data set",
    b"\x89HDF": "an HDF5 file; save its arrays as an .npz",
    b"7z": "a 7-Zip archive; unpack it",
    b"<": "a web page or XML; was the download refused?",
}
KNOWN = (
    "an .npz, .csv, .parquet or .tfrecord file, or a folder with images by class, with idx files, or with train.csv "
    "and test.csv"
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
            with filesystem.open_input_stream(path, compression=None) as stream:  # not unpacked by its name
                beginning = bytes(stream.read(tfrecord.HEADER))
    except (OSError, ValueError):
        return None
    if kind == fs.FileType.Directory:
        return _folder(filesystem, path, where, reading)
    if kind == fs.FileType.File:
        if beginning.startswith(table.PARQUET) or tfrecord.begins(beginning) or BY_NAME.fullmatch(path):
            return _tables(filesystem, {"train": [path]}, where, reading)
        told = next((told for start, told in BEGINNINGS.items() if beginning.startswith(start)), None)
        if told is not None:
            raise DataError(f"{where}: is {told}; expected {KNOWN}")
    reading.check_unused(("test_fraction", "image_size", "label", "features"), where, "an .npz")
    return None


def _folder(filesystem: fs.FileSystem, folder: str, where: str, reading: Reading) -> WholeParts:
    entries = files.listed(filesystem, folder)
    if any(idx.NAME.fullmatch(one.base_name) for one in entries):
        reading.check_unused(("data_arrays", "image_size", "label", "features"), where, "a folder of idx files")
        return WholeParts(idx.opened(filesystem, entries, where), where, reading, idx.WANTED)
    if tables := _parts_of_tables(filesystem, entries, where):
        return _tables(filesystem, tables, where, reading)
    if any(one.type == fs.FileType.Directory for one in entries):
        reading.check_unused(("data_arrays", "label", "features"), where, "a folder of images")
        return WholeParts(
            images.opened(filesystem, folder, entries, where, reading.image_size), where, reading, images.WANTED
        )
    listed = ", ".join(one.base_name for one in entries[:8]) or "nothing"
    raise DataError(
        f"{where}: is a folder without train/ and without folders of images; it holds {listed}; expected {KNOWN}"
    )


def _parts_of_tables(filesystem: fs.FileSystem, entries: Sequence[fs.FileInfo], where: str) -> dict[Part, list[str]]:
    """Return the tables of each part: train.csv, train-00000.parquet, or all in train/; empty if there is none."""
    found: dict[Part, list[str]] = {}
    for entry in entries:
        name = entry.base_name.lower()
        records = RECORDS.fullmatch(name)
        part = NAMES.get(records["part"] if records else re.split(r"[-._]", name, maxsplit=1)[0])
        if entry.type == fs.FileType.Directory and name in NAMES:
            inside = files.listed(filesystem, entry.path)
            paths = [one.path for one in inside if TABLE.fullmatch(one.base_name)]
        else:
            paths = [entry.path] if TABLE.fullmatch(name) and entry.type == fs.FileType.File else []
            if paths and part is None:
                raise DataError(f"{where}: holds {entry.base_name}, whose name does not begin with train, test or val")
        if paths and part is not None:
            found.setdefault(part, []).extend(paths)
    if found and "train" not in found:
        raise DataError(f"{where}: holds no table for training, for example train.csv or train-00000.parquet")
    return found


def _tables(filesystem: fs.FileSystem, parts: Mapping[Part, list[str]], where: str, reading: Reading) -> WholeParts:
    reading.check_unused(("data_arrays",), where, "a table")
    samples: dict[Part, Samples] = {part: table.Table(filesystem, paths, reading) for part, paths in parts.items()}
    return WholeParts(
        samples, where, reading, "train.csv and test.csv in a folder (or train-*.parquet, test-*.parquet)"
    )
