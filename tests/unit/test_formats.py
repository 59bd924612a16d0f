"""Test the formats of data sets: the same samples in each, the parts and the names of classes, and the refusals."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from pyarrow import fs

from mnist_job.cli import main
from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.data.arrays import Split
from mnist_job.data.formats import known
from mnist_job.data.formats.idx import TYPES
from mnist_job.data.formats.known import Download
from mnist_job.data.reading import Reading
from mnist_job.errors import DataError, UsageError
from mnist_job.models import class_names, saved_model
from mnist_job.storage.files import File

CLASSES = ("cat", "dog", "eel")
COUNTS = {"train": 30, "test": 9, "val": 6}


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(len(name))
    count = COUNTS[name]
    return random.integers(0, 256, (count, 4, 5), np.uint8), np.arange(count, dtype=np.int32) % 3


PARTS = {name: part(name) for name in ("train", "test", "val")}


def idx(array: np.ndarray) -> bytes:
    code = next(code for code, dtype in TYPES.items() if np.dtype(dtype) == array.dtype.newbyteorder(">"))
    return struct.pack(f">HBB{array.ndim}i", 0, code, array.ndim, *array.shape) + array.astype(TYPES[code]).tobytes()


def save_npz(folder: Path) -> Path:
    names = {"x": "images", "y": "labels"}
    spelled = {f"{name}_{names[letter]}": pair["xy".index(letter)] for name, pair in PARTS.items() for letter in "xy"}
    np.savez(folder / "data.npz", **spelled)
    return folder / "data.npz"


def save_idx(folder: Path) -> Path:
    for name, (images, labels) in PARTS.items():
        prefix = {"test": "t10k"}.get(name, name)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    return folder


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def save_images(folder: Path) -> Path:
    for name, (images, labels) in PARTS.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / name / CLASSES[label] / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return folder


def table(images: np.ndarray, labels: np.ndarray) -> pa.Table:
    flat = images.reshape(len(images), -1)
    columns = {"label": labels} | {f"pixel{number}": flat[:, number] for number in range(flat.shape[1])}
    return pa.table(columns)


def save_csv(folder: Path) -> Path:
    for name, pair in PARTS.items():
        pyarrow.csv.write_csv(table(*pair), folder / f"{name}.csv")
    return folder


def save_parquet(folder: Path) -> Path:
    for name, pair in PARTS.items():
        for number, rows in enumerate((slice(0, 4), slice(4, None))):
            file = folder / f"{'validation' if name == 'val' else name}-0000{number}-of-00002.parquet"
            pyarrow.parquet.write_table(table(pair[0][rows], pair[1][rows]), file)
    return folder


def save_hugging_face(folder: Path) -> Path:
    for name, (images, labels) in PARTS.items():
        pictures = [{"bytes": png(image), "path": None} for image in images]
        (folder / name).mkdir()
        pyarrow.parquet.write_table(pa.table({"image": pictures, "label": labels}), folder / name / "0000.parquet")
    return folder


def records(file: Path, rows: Iterable[dict[str, Any]], compression: str = "") -> None:
    """Write a TFRecord by TensorFlow. A list of numbers, a text or bytes is a feature."""
    import tensorflow as tf

    def feature(value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if not values:
            return tf.train.Feature()
        if isinstance(values[0], str | bytes):
            texts = [one.encode() if isinstance(one, str) else one for one in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(str(file), compression) as writer:
        for row in rows:
            features = {name: feature(value) for name, value in row.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def save_tfrecord(folder: Path) -> Path:
    for name, (images, labels) in PARTS.items():
        rows = [
            {"image": png(image), "label": label, "height": 4, "name": f"{label}.png"}
            for image, label in zip(images, labels.tolist(), strict=True)
        ]
        part = "validation" if name == "val" else name
        records(folder / f"digits-{part}.tfrecord-00000-of-00002", rows[:4])
        records(folder / f"digits-{part}.tfrecord-00001-of-00002", rows[4:], "GZIP")
    return folder


FORMATS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "npz": (save_npz, {}),
    "idx": (save_idx, {}),
    "images": (save_images, {}),
    "csv": (save_csv, {"image_size": "4x5"}),
    "parquet": (save_parquet, {"image_size": "4x5"}),
    "hugging face": (save_hugging_face, {}),
    "tfrecord": (save_tfrecord, {"features": "image"}),
}


def by_class(split: Split) -> list[Any]:
    """Return the samples in an order that no format has changed: image folders are read class by class."""
    rows = [(label, image.tolist()) for label, image in zip(split.targets.tolist(), split.inputs, strict=True)]
    return sorted(rows)


def opened(place: Path | str, **settings: Any):
    return sources.read(str(place), None, Reading.of(JobConfig(data=str(place), **settings))).opened()


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_samples(tmp_path, name):
    save, settings = FORMATS[name]
    with opened(save(tmp_path), **settings) as parts:
        assert parts.has_validation
        assert parts.class_names == (CLASSES if name == "images" else None)
        for part_name, (images, labels) in PARTS.items():
            split = parts.load(part_name)
            assert (split.inputs.dtype, split.targets.dtype) == (np.uint8, np.int32)
            assert by_class(split) == by_class(Split(images, labels))


@pytest.mark.parametrize("name", FORMATS)
def test_a_worker_finds_what_the_driver_has_checked(tmp_path, name):
    save, settings = FORMATS[name]
    config = JobConfig(data=str(save(tmp_path)), batch_size=4, **settings)
    source = sources.read(config.data, None, Reading.of(config))
    summary = dataset.check(config, source)
    assert dataset.load_training(config, source).facts == summary.training_facts
    assert dataset.check_test(source) == (summary.test_facts, summary.names)
    assert (summary.train, summary.validation, summary.test, summary.classes) == (30, 6, 9, 3)


@pytest.mark.parametrize("layout", ["images", "csv"])
def test_a_test_part_is_split_off_by_class_and_is_the_same_for_all_seeds(tmp_path, layout):
    if layout == "images":
        save_images(tmp_path)
        place, settings = tmp_path / "train", {}
    else:
        save_csv(tmp_path)
        place, settings = tmp_path / "train.csv", {"image_size": "4x5"}
    with (
        opened(place, test_fraction=0.2, **settings) as parts,
        opened(place, test_fraction=0.2, seed=7, **settings) as other,
    ):
        train, test = parts.load("train"), parts.load("test")
        assert np.bincount(test.targets).tolist() == [2, 2, 2]
        assert by_class(other.load("test")) == by_class(test)
    assert sorted(by_class(train) + by_class(test)) == by_class(Split(*PARTS["train"]))
    with (
        pytest.raises(DataError, match=r"has no test part; add .*, or give --test-fraction 0\.2"),
        opened(place, **settings),
    ):
        pass


def test_quantities_and_text_in_a_table(tmp_path):
    rows = {"a": np.arange(20.0), "b": np.arange(20), "price": np.linspace(1, 2, 20), "kind": ["x", "y"] * 10}
    pyarrow.csv.write_csv(pa.table(rows), tmp_path / "house.csv")
    with opened(tmp_path / "house.csv", label="price", features="a,b", test_fraction=0.25) as parts:
        split = parts.load("train")
        assert (split.inputs.dtype, split.inputs.shape, split.targets.dtype) == (np.float32, (15, 2), np.float32)
        assert parts.class_names is None
    with opened(tmp_path / "house.csv", label="kind", features="b,a", test_fraction=0.2) as parts:
        split = parts.load("test")
        assert parts.class_names == ("x", "y")
        assert split.targets.tolist() == [int(value) % 2 for value in split.inputs[:, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "float16", "float32", "float64", "bool"])
def test_arrays_of_any_rank_and_type(tmp_path, dtype):
    """The type stays, and floats become float32, as in `fit`."""
    values = np.random.default_rng(0).integers(-3 if dtype[0] != "u" else 0, 300, (40, 6)).astype(dtype)
    values[0, 0] = 1
    np.savez(
        tmp_path / "data.npz", X_train=values, y_train=np.arange(40) % 2, X_test=values[:9], y_test=np.arange(9) % 2
    )
    with opened(tmp_path / "data.npz") as parts:
        found = parts.load("train").inputs
    expected = {"bool": np.uint8, "float16": np.float32, "float64": np.float32}.get(dtype, np.dtype(dtype))
    assert found.dtype == expected
    np.testing.assert_array_equal(found, values.astype(expected))


def test_numbers_and_text_in_a_tfrecord(tmp_path):
    rows = [{"a": number, "b": [0.5, number + 0.25], "kind": "xy"[number % 2], "size": 1.5} for number in range(8)]
    records(tmp_path / "all.tfrecord", rows)
    with opened(tmp_path / "all.tfrecord", label="kind", features="b,a", test_fraction=0.25) as parts:
        assert parts.class_names == ("x", "y")
        train, test = parts.load("train"), parts.load("test")
    assert sorted(np.concatenate([train.inputs, test.inputs]).tolist()) == [[0.5, n + 0.25, n] for n in range(8)]
    assert (train.inputs[:, 2] % 2 == train.targets).all()
    with opened(tmp_path / "all.tfrecord", label="size", features="a", test_fraction=0.25) as parts:
        assert parts.load("train").targets.tolist() == [1.5] * 6


BAD_RECORDS = {
    "an example without it": ([{"label": 0, "a": 1.5}, {"label": 1}], "the column a is empty in row 1, counted from 0"),
    "an empty feature": ([{"label": 0, "a": []}, {"label": 1, "a": 1}], "the column a is empty in row 0"),
    "two types": (
        [{"label": 0, "a": 1.5}, {"label": 1, "a": 1}],
        "the feature a: is int64_list in example 1, and floa",
    ),
    "different lengths": (
        [{"label": 0, "a": [1, 2]}, {"label": 1, "a": [3]}],
        "the lists of the column a have different lengths",
    ),
    "no text": ([{"label": b"\xff", "a": 1}] * 2, "the column label has bytes that are no text"),
    "no such feature": ([{"b": 1}], "has no column label; it has b; choose by --label"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_tfrecord_that_is_no_table_is_refused(tmp_path, case):
    rows, sentence = BAD_RECORDS[case]
    records(tmp_path / "a.tfrecord", rows * 3)
    with pytest.raises(DataError, match=sentence), opened(tmp_path / "a.tfrecord", test_fraction=0.5) as parts:
        parts.load("train")


@pytest.mark.parametrize("byte", [0, 8, 12, 30, -1])
def test_a_damaged_tfrecord_is_refused(tmp_path, byte):
    file = tmp_path / "a.tfrecord"
    records(file, [{"label": number % 2, "a": number} for number in range(4)])
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    for damaged in (content, file.read_bytes()[:byte]):
        if damaged:
            file.write_bytes(damaged)
            told = "a.tfrecord: is truncated or damaged at record [03]$"
            with pytest.raises(DataError, match=told), opened(file, test_fraction=0.5) as parts:
                parts.load("train")


def test_a_tfrecord_of_something_else_is_refused(tmp_path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff no example")
    told = "record 0 is no tf.train.Example"
    with pytest.raises(DataError, match=told), opened(tmp_path / "a.tfrecord", test_fraction=0.5) as parts:
        parts.load("train")


def test_a_file_has_the_bytes_that_are_there(tmp_path):
    """pyarrow would unpack it by its name, and its checksum would be that of something else."""
    content = gzip.compress(b"text")
    file = File(fs.LocalFileSystem(), str(tmp_path / "a.csv.gz"))
    (tmp_path / "a.csv.gz").write_bytes(content)
    assert (file.read(), file.sha256()) == (content, hashlib.sha256(content).hexdigest())


def test_images_of_floats_keep_their_values(tmp_path):
    """Whole numbers become uint8 only as long as all are."""
    images = np.zeros((5000, 8, 8))
    images[-1, -1, -1] = 0.5
    np.savez(
        tmp_path / "data.npz", x_train=images, y_train=np.arange(5000) % 2, x_test=images, y_test=np.arange(5000) % 2
    )
    with opened(tmp_path / "data.npz") as parts:
        found = parts.load("train").inputs
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, images.astype(np.float32))


def test_the_names_of_arrays_can_be_given(tmp_path):
    (images, labels), (others, truth) = PARTS["train"], PARTS["test"]
    np.savez(tmp_path / "data.npz", a=images, b=labels, c=others, d=truth)
    names = {"x_train": "a", "y_train": "b", "x_test": "c", "y_test": "d"}
    with opened(tmp_path / "data.npz", data_arrays=names) as parts:
        np.testing.assert_array_equal(parts.load("test").inputs, others)
        assert not parts.has_validation
    wrong = opened(tmp_path / "data.npz", data_arrays=names | {"x_test": "e"})
    with pytest.raises(UsageError, match=r"--data-arrays x_test=e: .* holds a, b, c, d"), wrong:
        pass


def test_images_of_different_sizes_and_modes(tmp_path):
    for number, size in enumerate([(4, 5), (8, 10), (4, 5), (5, 5)]):
        folder = tmp_path / CLASSES[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB" if number else "L", size[::-1], 200 if not number else (200, 200, 200)).save(
            folder / f"{number}.png"
        )
    with opened(tmp_path, test_fraction=0.5) as parts, pytest.raises(DataError, match="give --image-size HxW or HxWxC"):
        parts.load("train")
    for text, shape in (("6x7x3", (6, 7, 3)), ("6x7x1", (6, 7, 1))):
        with opened(tmp_path, image_size=text, test_fraction=0.3) as parts:
            found = parts.load("train")
        assert found.inputs.shape[1:] == shape
        assert (found.inputs == 200).all()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


IMAGE = png(PARTS["train"][0][0])
REFUSED: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "a gzip": ({"data": gzip.compress(b"x")}, {}, "data: is a gzip file; unpack it, or give the folder with the idx"),
    "an idx file": ({"data": idx(PARTS["train"][0])}, {}, "data: is an idx file; give the folder with the four files"),
    "an image": ({"data": IMAGE}, {}, "data: is an image; expected an .npz"),
    "an array": (
        {"data.npz": b"\x93NUMPY\x01\x00"},
        {},
        r"data.npz: is an array of NumPy \(.npy\); put the arrays into",
    ),
    "a web page": ({"data.npz": b"<html>"}, {}, "is a web page or XML; was the download refused"),
    "an empty folder": ({"data/.hidden": b""}, {}, "data: is a folder without train/ and without folders of images"),
    "no training": (
        {"data/test.csv": b"label,a\n1,2\n"},
        {},
        "data: holds no table for training, for example train.csv",
    ),
    "another table": (
        {"data/all.csv": b"label,a\n1,2\n"},
        {},
        "data: holds all.csv, whose name does not begin with train",
    ),
    "half an idx": (
        {"data/train-images-idx3-ubyte": b""},
        {},
        "data: holds no idx file with the labels of the part train",
    ),
    "one class": (
        {"data/a/1.png": IMAGE},
        {"test_fraction": 0.5},
        "data: has 1 folders of images; expected one for each",
    ),
    "an empty class": (
        {"data/a/1.png": IMAGE, "data/b/.x": b""},
        {"test_fraction": 0.5},
        "data/b: is a class without im",
    ),
    "a stray file": (
        {"data/a/1.png": IMAGE, "data/b/notes.txt": b""},
        {"test_fraction": 0.5},
        "notes.txt: is no image f",
    ),
    "a broken image": (
        {"data/a/1.png": IMAGE[:60], "data/b/1.png": IMAGE, "data/a/2.png": IMAGE, "data/b/2.png": IMAGE},
        {"test_fraction": 0.5},
        "data/a/1.png: is no intact image",
    ),
    "no such column": (
        {"data.csv": b"a,b\n1,2\n"},
        {"test_fraction": 0.5},
        "has no column label; it has a, b; choose by --l",
    ),
    "an empty cell": (
        {"data.csv": b"label,a\n0,1\n1,\n0,2\n1,3\n0,1\n1,2\n"},
        {"test_fraction": 0.5},
        "data.csv: the column a is empty in row 1, counted from 0",
    ),
    "a text": (
        {"data.csv": b"label,a\n0,x\n1,y\n0,z\n1,x\n0,x\n1,y\n"},
        {"test_fraction": 0.5},
        "the column a has the type string, and no numbers; leave it out by --features, or encode it",
    ),
    "no pixels": (
        {"data.csv": b"label,a\n0,1\n1,300\n0,2\n1,3\n0,1\n1,2\n"},
        {"test_fraction": 0.5, "image_size": "1x1"},
        r"holds numbers that are no pixels \(whole, from 0 to 255\)",
    ),
    "too few pixels": (
        {"data.csv": b"label,a\n0,1\n1,3\n0,2\n1,3\n0,1\n1,2\n"},
        {"test_fraction": 0.5, "image_size": "2x1"},
        "has 1 numbers in a row, but --image-size 2x1 needs 2",
    ),
    "a damaged gzip": (
        {"data.csv.gz": gzip.compress(b"label,a\n" + b"1,2\n" * 99)[:12] + bytes(40)},
        {"test_fraction": 0.5},
        "data.csv.gz: cannot be read",
    ),
    "an empty table": ({"data.csv": b"label,a\n"}, {"test_fraction": 0.5}, "data.csv: "),
    "no parquet": ({"data": b"PAR1" + bytes(20)}, {"test_fraction": 0.5}, "data: cannot be read as a table"),
    "a class only in test": (
        {"data/train.csv": b"label,a\nx,1\ny,2\n", "data/test.csv": b"label,a\nz,1\n"},
        {},
        "the part test has the class z, but the training part does not",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_there_is_told_with_what_to_do(tmp_path, case):
    files, settings, sentence = REFUSED[case]
    write(tmp_path, files)
    place = tmp_path / next(iter(files)).split("/")[0]
    with pytest.raises(DataError, match=sentence), opened(place, **settings) as parts:
        for name in ("train", "test"):
            parts.load(name)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--data", "digits", "--image-size", "8x8"),
            "--image-size: digits is a data set by name, which is read without",
        ),
        (("--data", "data.npz", "--label", "y"), "--label: {}/data.npz is an .npz, which is read without it"),
        (("--data", "data.npz", "--test-fraction", "0.2"), "--test-fraction: {}/data.npz is an .npz"),
        (("--data", "idx", "--features", "a"), "--features: {}/idx is a folder of idx files"),
        (("--data", "csv", "--test-fraction", "0.2"), "--test-fraction 0.2: {}/csv has a test part; remove the flag"),
        (("--data", "images", "--data-arrays", "x_train=a"), "--data-arrays: {}/images is a folder of images"),
        (("--data", "csv", "--image-size", "0x5"), "--image-size"),
        (("--data", "data.npz", "--data-arrays", "x=a"), "--data-arrays"),
    ],
)
def test_a_setting_that_the_format_does_not_have_is_refused(tmp_path, monkeypatch, capsys, flags, sentence):
    for name, save in (("idx", save_idx), ("csv", save_csv), ("images", save_images)):
        (tmp_path / name).mkdir()
        save(tmp_path / name)
    save_npz(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main.main(["run", "--dry-run", *flags]) == 2
    printed = capsys.readouterr().err
    assert sentence.format(tmp_path) in printed
    assert printed.count("\n") == 1


def archive(folder: Path, members: dict[str, Any]) -> Path:
    file = folder / "cifar.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Callable[[str, Path], None]:
    """Put a file into Keras's cache as one of Keras's data sets."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def put(name: str, file: Path) -> None:
        there: Download = getattr(known, name)
        place = tmp_path / "keras/datasets" / there.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        monkeypatch.setattr(known, name, Download(there.url, there.path, sha256))

    return put


def cifar_batch(seed: int, label: bytes) -> dict[bytes, Any]:
    random = np.random.default_rng(seed)
    return {b"data": random.integers(0, 256, (4, 3072), np.uint8), label: random.integers(0, 3, 4).tolist()}


def test_cifar_is_read_from_its_archives(tmp_path, cache):
    batches = {f"data_batch_{number}": cifar_batch(number, b"labels") for number in range(1, 6)}
    meta = {b"label_names": [b"plane", b"car", b"bird"]}
    cache("CIFAR10", archive(tmp_path, batches | {"test_batch": cifar_batch(9, b"labels"), "batches.meta": meta}))
    with opened("cifar10") as parts:
        assert parts.class_names == ("plane", "car", "bird")
        train, test = parts.load("train"), parts.load("test")
    assert (train.inputs.shape, test.inputs.shape) == ((20, 32, 32, 3), (4, 32, 32, 3))
    first = batches["data_batch_1"]
    np.testing.assert_array_equal(train.inputs[0, :, :, 1].reshape(-1), first[b"data"][0, 1024:2048])
    assert train.targets[:4].tolist() == first[b"labels"]
    fine = {part: cifar_batch(3, b"fine_labels") for part in ("train", "test")}
    cache("CIFAR100", archive(tmp_path, fine | {"meta": {b"fine_label_names": [b"apple", b"bee", b"cup"]}}))
    with opened("cifar100") as parts:
        assert parts.class_names == ("apple", "bee", "cup")
        assert len(parts.load("test")) == 4


def test_an_archive_with_code_in_it_runs_nothing(tmp_path, cache):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    cache("CIFAR100", archive(tmp_path, {"test": Evil()}))
    with opened("cifar100") as parts, pytest.raises(DataError, match="its test cannot be read: it holds "):
        parts.load("test")
    assert not (tmp_path / "run").exists()


def test_fashion_mnist_is_read_from_keras_cache(tmp_path, monkeypatch):
    folder = tmp_path / "datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = PARTS[name]
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.astype(np.uint8))))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with opened("fashion_mnist") as parts:
        assert parts.class_names is not None
        assert parts.class_names[9] == "Ankle boot"
        np.testing.assert_array_equal(parts.load("test").inputs, PARTS["test"][0])


def test_a_model_keeps_the_names_of_its_classes(tmp_path):
    """Plain Keras loads it, and an evaluation with other classes is refused."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    network.save(tmp_path / "plain.keras")
    content = class_names.added((tmp_path / "plain.keras").read_bytes(), CLASSES)
    (tmp_path / "model.keras").write_bytes(content)
    keras.saving.load_model(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as saved:
        assert json.loads(saved.read("classes.json")) == list(CLASSES)
    file = saved_model.existing(str(tmp_path / "model.keras"))
    for names in (CLASSES, None):
        class_names.check(file, "model.keras", names)
    with pytest.raises(DataError, match="class 1 is dog for the model, and bee in the data"):
        class_names.check(file, "model.keras", ("cat", "bee", "eel"))
    with pytest.raises(DataError, match="class 2 is eel for the model, and none in the data"):
        class_names.check(file, "model.keras", ("cat", "dog"))
    class_names.check(File(file.filesystem, str(tmp_path / "plain.keras")), "plain.keras", ("a", "b", "c"))
