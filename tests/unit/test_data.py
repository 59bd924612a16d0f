"""Test the data set: what is accepted, how it is split, and what is refused with a sentence and exit code 3."""

import http.server
import socket
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import pytest
import sklearn.datasets

from mnist_job.cli import main
from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources, verify
from mnist_job.data.formats import known
from mnist_job.errors import DataError

TRAIN = 60_000
PIXELS = TRAIN * 28 * 28


def training(path, **settings):
    """Return the data that a worker loads, by default split as in the notebook."""
    return dataset.load_training(
        JobConfig(**{"batch_size": 8, "validation_split": "tail"} | settings), sources.read(str(path))
    )


def test_the_tail_is_the_end_of_the_training_data_as_keras_splits_it(npz, arrays):
    split = training(npz(), validation_fraction=0.33)
    assert (len(split.train), len(split.validation)) == (67, 33)  # floor(100 * (1 - 0.33))
    assert np.array_equal(split.train.inputs, arrays["x_train"][:67])
    assert np.array_equal(split.validation.inputs, arrays["x_train"][67:])
    assert np.array_equal(split.validation.targets, arrays["y_train"][67:])
    assert (split.classes, split.image_shape, split.scale) == (3, (4, 5), arrays["x_train"][:].max())


@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i2", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_dtype_and_memory_order_of_whole_pixels_gives_the_same_uint8(tmp_path, arrays, dtype, order, save):
    arrays["x_train"] = np.asarray(arrays["x_train"], dtype, order=order)
    save(tmp_path / "d.npz", **arrays)
    images = training(tmp_path / "d.npz").train.inputs
    assert images.dtype == np.uint8
    assert np.array_equal(images, arrays["x_train"][:80])


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (1, 1)])
def test_any_image_shape(npz, shape):
    random = np.random.default_rng(0)
    x = {part: random.integers(1, 256, (n, *shape), dtype=np.uint8) for part, n in (("x_train", 100), ("x_test", 30))}
    summary = dataset.check(JobConfig(batch_size=8), sources.read(str(npz(**x))))
    assert summary.image_shape == shape
    assert (summary.train, summary.validation, summary.test, summary.classes) == (80, 20, 30, 3)


def test_labels_may_stand_in_a_column(npz, arrays):
    assert np.array_equal(training(npz(y_train=arrays["y_train"][:, None])).train.targets, arrays["y_train"][:80])


def test_digits_are_those_of_scikit_learn():
    bunch = sklearn.datasets.load_digits()
    split, test = training("digits"), dataset.load_test(sources.read("digits"))[0]
    images = np.concatenate([split.train.inputs, split.validation.inputs, test.inputs])
    labels = np.concatenate([split.train.targets, split.validation.targets, test.targets])
    assert np.array_equal(images, bunch.images)
    assert np.array_equal(labels, bunch.target)
    assert split.scale == 16


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("split", ["stratified", "tail"])
def test_loading_costs_no_more_than_twice_the_uint8_size(tmp_path, dtype, split):
    x = np.zeros((TRAIN, 28, 28), dtype)
    x[0] = 255
    path = tmp_path / "large.npz"
    np.savez_compressed(path, x_train=x, y_train=np.arange(TRAIN, dtype=np.uint8) % 10)
    del x
    tracemalloc.start()
    training(path, validation_split=split)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert PIXELS < peak < 2 * PIXELS


@pytest.mark.parametrize("scheme", ["file://{}", "local://{}"])  # the first format is pyarrow's, the second fsspec's
def test_a_uri_is_read_by_pyarrow_or_fsspec(npz, scheme):
    assert len(training(scheme.format(npz())).train) == 80


X = np.zeros((100, 4, 5))
REFUSED = {
    "no x_train": ({"x_train": None}, "x_train: no such array"),
    "no y_test": ({"y_test": None}, "y_test: no such array"),
    "pickled images": ({"x_train": np.array([None] * 100)}, "x_train: holds pickled Python objects"),
    "pickled labels": ({"y_train": np.array([None] * 100)}, "y_train: holds pickled Python objects"),
    "fewer labels than images": ({"y_train": np.zeros(99, int)}, "x_train holds 100 images, y_train 99 labels"),
    "fewer test labels": ({"y_test": np.zeros(29, int)}, "x_test holds 30 images, y_test 29 labels"),
    "a list of numbers": ({"x_train": np.zeros(100, np.uint8)}, "x_train: shape (100,)"),
    "images without pixels": ({"x_train": np.zeros((100, 0, 5), np.uint8)}, "x_train: shape (100, 0, 5)"),
    "text images": ({"x_train": np.full((100, 4, 5), "a")}, "x_train: dtype <U1"),
    "complex images": ({"x_train": X.astype(complex)}, "x_train: dtype complex128"),
    "NaN": ({"x_train": X * np.nan}, "x_train: holds NaN or infinity"),
    "infinity": ({"x_test": np.full((30, 4, 5), np.inf)}, "x_test: holds NaN or infinity"),
    "fractions in one part": ({"x_train": X + 0.5}, "x_test: has type uint8, but x_train has float32"),
    "all dark": ({"x_train": X.astype(np.uint8)}, "x_train: every pixel is 0"),
    "quantities in one part": ({"y_train": np.zeros(100)}, "y_test: has type int32, but y_train has float32"),
    "a cube of targets": ({"y_train": np.zeros((100, 2, 2))}, "y_train: shape (100, 2, 2)"),
    "complex targets": ({"y_train": np.zeros(100, complex)}, "y_train: dtype complex128 is not a type for targets"),
    "negative labels": ({"y_train": np.r_[0, 1, np.full(98, -1)]}, "y_train: holds label -1 at index 2"),
    "huge labels": ({"y_train": np.full(100, 2**40)}, "y_train: holds label 1099511627776"),
    "a test label that training lacks": ({"y_test": np.full(30, 3)}, "y_test: holds label 3, but there are 3 classes"),
    "a single class": ({"y_train": np.zeros(100, int)}, "y_train: holds a single class"),
    "a single class that is not 0": ({"y_train": np.full(100, 5)}, "y_train: holds a single class"),
    "a stray label": (
        {"y_train": np.r_[np.arange(50) % 3, 65535, np.arange(49) % 3]},
        "y_train: holds label 65535 at index 50, which is far above the number of different labels, 4; "
        "remove that image, or number the classes from 0 to 3",
    ),
    "a stray label among many": (
        {"y_train": np.r_[np.arange(99), 1000]},
        "y_train: holds label 1000 at index 99, which",
    ),
    "a test class that training lacks": (
        {"y_train": np.arange(100) % 2 * 2, "y_test": np.arange(30) % 3},
        "y_test: holds class 1, but there is no training image of it",
    ),
    "x_val alone": (
        {"x_val": X[:9].astype(np.uint8)},
        "holds x_val but not the other array; a validation part needs both x_val and y_val",
    ),
    "y_val alone": (
        {"y_val": np.arange(9) % 3},
        "holds y_val but not the other array; a validation part needs both x_val and y_val",
    ),
    "validation images of another shape": (
        {"x_val": np.ones((9, 5, 4), np.uint8), "y_val": np.arange(9) % 3},
        "x_val: images of 5x4",
    ),
    "a validation class that training lacks": (
        {"y_train": np.arange(100) % 2 * 2, "x_val": np.ones((9, 4, 5), np.uint8), "y_val": np.arange(9) % 3},
        "y_val: holds class 1, but there is no training image of it",
    ),
    "fewer validation labels": (
        {"x_val": np.ones((9, 4, 5), np.uint8), "y_val": np.arange(8) % 3},
        "x_val holds 9 images, y_val 8 labels",
    ),
    "no training images": (
        {"x_train": np.zeros((0, 4, 5), np.uint8), "y_train": np.zeros(0, int)},
        "y_train: is empty",
    ),
    "no test images": ({"x_test": np.zeros((0, 4, 5), np.uint8), "y_test": np.zeros(0, int)}, "y_test: is empty"),
    "test images of another shape": ({"x_test": np.ones((30, 5, 4), np.uint8)}, "x_test: images of 5x4"),
}


def refusal(capsys, path, *flags) -> str:
    """Return the line that the program prints for this data set, which it must refuse with exit code 3."""
    folder = Path(path).parent
    before = sorted(folder.iterdir())
    assert main.main(["run", "--data", str(path), "--output", str(folder / "out"), *flags]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(folder.iterdir()) == before
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arrays_are_refused_by_file_and_array(npz, capsys, case):
    changes, sentence = REFUSED[case]
    path = npz(**changes)
    assert f"mnist-job: {path}: {sentence}" in refusal(capsys, path)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--validation-fraction", "0.999"), "leave nothing for training"),
        (("--validation-fraction", "1e-18"), "leave nothing for validation"),
        (
            ("--validation-fraction", "0.98"),
            "2 training images at --validation-fraction 0.98 are fewer than",
        ),
        (("--batch-size", "81"), "80 training images are fewer than one batch of 81"),
    ],
)
def test_splits_that_leave_too_little_are_refused(npz, capsys, flags, sentence):
    assert sentence in refusal(capsys, npz(), *flags)


def test_a_tail_with_classes_that_training_lacks_is_refused(npz, arrays, capsys):
    path = npz(y_train=np.sort(arrays["y_train"]))
    line = refusal(capsys, path, "--validation-split", "tail", "--validation-fraction", "0.4")
    assert "y_train: the last 40 labels, its validation part, hold class 2, but the training part does not" in line
    assert "--validation-split stratified" in line


def test_classes_without_any_image_are_told_by_their_numbers(npz, arrays, tmp_path, capsys):
    path = npz(y_train=arrays["y_train"] * 7 + 1, y_test=arrays["y_test"] * 7 + 1)  # 1, 8, 15
    assert dataset.check(JobConfig(batch_size=8), sources.read(str(path))).absent == [0, *range(2, 8), *range(9, 15)]
    flags = ["--output", str(tmp_path / "out"), "--address", "127.0.0.1:9"]  # a port on which nothing listens
    assert main.main(["run", "--data", str(path), *flags]) == 4
    told = "".join(capsys.readouterr())
    assert "there is no image of classes 0, 2, 3, 4, 5, 6, 7, 9, 10, 11 and 3 more" in told


@pytest.fixture
def own_validation(npz):
    """Return the path of a file with its own validation part."""
    return npz(x_val=np.full((9, 4, 5), 7, np.uint8), y_val=np.arange(9) % 3)


def test_a_validation_part_of_the_file_s_own_is_used_and_nothing_is_split_off(own_validation, arrays):
    config = JobConfig(data=str(own_validation), batch_size=8)
    training = dataset.load_training(config, sources.read(config.data))
    assert np.array_equal(training.train.inputs, arrays["x_train"])
    assert (training.validation.inputs == 7).all()
    assert np.array_equal(training.validation.targets, np.arange(9) % 3)
    summary = dataset.check(config, sources.read(config.data))
    assert (summary.train, summary.validation) == (100, 9)
    assert summary.holdout == {"validation_fraction": None, "validation_split": None}


@pytest.mark.parametrize(
    "flags", [("--validation-fraction", "0.2"), ("--validation-split", "stratified")], ids=["fraction", "split"]
)
def test_a_split_beside_a_validation_part_of_the_file_s_own_is_refused(own_validation, capsys, flags):
    assert main.main(["run", "--data", str(own_validation), *flags]) == 2
    assert f"{' '.join(flags)}: {own_validation} has its own validation part" in capsys.readouterr().err


# --- what was checked is what is used ---------------------------------------------------------------------------------


REPLACEMENTS = {
    "a pixel": ("x_train", lambda x: x ^ (np.indices(x.shape).sum(axis=0) == 0), "SHA-256"),
    "labels": ("y_train", lambda y: y[::-1], "SHA-256"),
    "fewer images": ("both", lambda a: a[:90], "training images 72, was 80; validation images 18, was 20"),
    "more classes": ("y_train", lambda y: np.r_[3, 3, y[2:]], "classes 4, was 3"),
    "another scale": ("x_train", lambda x: x // 2, "largest pixel 127, was 255"),
    "another shape": ("x_train", lambda x: x.transpose(0, 2, 1), "image shape 5x4, was 4x5"),
}


@pytest.mark.parametrize("replaced", REPLACEMENTS)
def test_a_worker_refuses_other_data_than_were_checked_and_names_its_node(npz, arrays, replaced):
    config = JobConfig(data=str(npz()), batch_size=8)
    facts = dataset.check(config, sources.read(config.data)).training_facts
    assert verify.load_training(config, sources.read(config.data), facts).facts == facts
    name, change, difference = REPLACEMENTS[replaced]
    npz(**{array: change(arrays[array]) for array in ("x_train", "y_train") if name in ("both", array)})
    with pytest.raises(DataError, match=f"^node {socket.gethostname()}: {config.data}: ") as refusal:
        verify.load_training(config, sources.read(config.data), facts)
    assert "is not the data set that was checked: " in str(refusal.value)
    assert difference in str(refusal.value)


def test_a_worker_names_its_node_where_the_file_is_missing_or_no_longer_fits(npz, arrays):
    config = JobConfig(data=str(npz()), batch_size=8, validation_split="tail")
    facts = dataset.check(config, sources.read(config.data)).training_facts
    npz(x_val=arrays["x_test"], y_val=arrays["y_test"])
    with pytest.raises(DataError, match=f"^node {socket.gethostname()}: --validation-split tail"):
        verify.load_training(config, sources.read(config.data), facts)
    Path(config.data).unlink()
    with pytest.raises(DataError, match=f"^node {socket.gethostname()}: .*no such file"):
        verify.load_training(config, sources.read(config.data), facts)


def test_the_evaluation_refuses_other_test_data_than_were_checked(npz, arrays):
    source = str(npz())
    facts, _ = dataset.check_test(sources.read(source))
    assert facts == dataset.check(JobConfig(batch_size=8), sources.read(source)).test_facts
    assert len(verify.load_test(sources.read(source), facts)) == 30
    npz(x_test=arrays["x_test"][::-1])
    with pytest.raises(DataError, match=f"^node {socket.gethostname()}: .*SHA-256 "):
        verify.load_test(sources.read(source), facts)


def test_credentials_in_an_address_are_not_told():
    with pytest.raises(DataError) as refusal:
        dataset.load_test(sources.read("nowhere://KEY:SECRET@bucket/data.npz?endpoint_override=x&token=SECRET"))
    assert str(refusal.value).startswith("nowhere://bucket/data.npz: cannot be read: ")
    assert "SECRET" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert "no such file" in refusal(capsys, tmp_path / "none.npz")


def test_an_empty_folder_is_refused(tmp_path, capsys):
    (tmp_path / "folder.npz").mkdir()
    assert "folder.npz: is a folder without train/" in refusal(capsys, tmp_path / "folder.npz")


def test_an_unknown_uri_is_refused(capsys):
    assert main.main(["run", "--data", "nowhere://data.npz"]) == 3
    assert "nowhere://data.npz: cannot be read" in capsys.readouterr().err


def test_a_file_that_is_no_npz_is_refused(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("not a zip archive")
    assert "is not an intact .npz" in refusal(capsys, tmp_path / "text.npz")


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused(npz, capsys, keep):
    path = npz()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "is not an intact .npz" in refusal(capsys, path)


def test_an_altered_pixel_is_noticed(npz, capsys):
    path = npz()
    content = bytearray(path.read_bytes())
    content[content.index(b"x_train.npy") + 400] ^= 0xFF
    path.write_bytes(content)
    assert "is not an intact .npz" in refusal(capsys, path)


@pytest.mark.parametrize("member", [b"", b"no magic", b"\x93NUMPY\x01\x00\x10\x00{'descr': evil()}\n"])
def test_a_member_that_is_no_array_is_refused(npz, capsys, member):
    path = npz(y_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_train.npy", member)
    assert "y_train: is not an array in NumPy's format" in refusal(capsys, path)


def test_a_header_that_promises_more_than_there_is_allocates_nothing(npz, capsys):
    path = npz(x_train=None)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000)}".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "x_train: is truncated or damaged" in refusal(capsys, path)


@pytest.fixture
def server(tmp_path):
    """Serve tmp_path over HTTP; `requests` are the requested paths."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            server.requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_mnist_is_downloaded_once_checked_and_cached_where_keras_does(server, npz, tmp_path, monkeypatch):
    path = npz()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    there = replace(known.MNIST, url=f"{server.url}/data.npz", sha256=pooch.file_hash(str(path)))
    monkeypatch.setattr(known, "MNIST", there)
    assert len(training("mnist").train) == 80
    assert (tmp_path / "keras/datasets/mnist.npz").read_bytes() == path.read_bytes()
    assert len(training("mnist").train) == 80
    assert server.requests == ["/data.npz"]


def test_a_download_that_is_not_mnist_is_refused_and_not_kept(server, npz, tmp_path, monkeypatch, capsys):
    npz()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(known, "MNIST", replace(known.MNIST, url=f"{server.url}/data.npz"))
    assert main.main(["run", "--data", "mnist"]) == 3
    assert "mnist: cannot be downloaded" in capsys.readouterr().err
    assert list((tmp_path / "keras/datasets").iterdir()) == []


def test_another_file_in_the_place_of_mnist_is_refused_and_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    kept = tmp_path / "datasets/mnist.npz"
    kept.parent.mkdir()
    kept.write_bytes(b"mine")
    with pytest.raises(DataError, match="is not the same file as Keras's"):
        training("mnist")
    assert kept.read_bytes() == b"mine"


def test_mnist_without_a_network_says_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(known, "MNIST", replace(known.MNIST, url="http://127.0.0.1:9/mnist.npz"))
    with pytest.raises(DataError, match="--data digits"):
        training("mnist")
