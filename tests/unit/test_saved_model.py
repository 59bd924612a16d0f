"""Test models of users: they are evaluated unchanged, or refused with one line that has their path and the reason."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
from pyarrow import fs

from mnist_job.cli import main
from mnist_job.errors import EvaluationError, UsageError
from mnist_job.evaluation.task import loaded
from mnist_job.models import reference, saved_model
from mnist_job.models.saved_model import BATCH
from mnist_job.storage.files import File

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 5), dtype=np.uint8)
MOST = 300 - len("mnist-job: ")


def predict(file, images, name):
    return saved_model.probabilities(loaded(file, name, trusted=False, on_gpu=False), images, name)


def answers(file, images=IMAGES, name="models/mine.keras") -> np.ndarray:
    return np.concatenate(list(predict(File(fs.LocalFileSystem(), str(file)), images, name)))


def refusal(file, images=IMAGES, name="models/mine.keras") -> str:
    with pytest.raises(EvaluationError) as refused:
        answers(file, images, name)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name}: ")
    assert len(line) <= MOST
    return line


@pytest.mark.parametrize("images", [1, BATCH - 1, BATCH, 2 * BATCH + 1])
def test_predictions_do_not_depend_on_the_batch(tmp_path, images):
    network = reference.build((4, 5), 3, 255, (6,))
    x = np.random.default_rng(0).integers(0, 256, (images, 4, 5), dtype=np.uint8)
    expected = network.predict(x, batch_size=7, verbose=0)
    network.save(tmp_path / "model.keras")
    assert answers(tmp_path / "model.keras", x) == pytest.approx(expected, abs=1e-6)


def test_many_classes_are_asked_in_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "BATCH_VALUES", 60)
    reference.build((4, 5), 3, 255, ()).save(tmp_path / "model.keras")
    file = File(fs.LocalFileSystem(), str(tmp_path / "model.keras"))
    assert [len(batch) for batch in predict(file, IMAGES, "m")] == [20, 20]


# --- evaluated --------------------------------------------------------------------------------------------------------

flat = keras.layers.Flatten


def functional(outputs, shape=(4, 5), **options):
    image = keras.Input(shape, name="image")
    pixels = flat()(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, outputs(keras.layers.Dense(3, activation="softmax", name="p", **options)(pixels)))


def of_a_dict():
    image = keras.Input((4, 5), name="image")
    return keras.Model({"image": image}, [keras.layers.Dense(3, activation="softmax")(flat()(image))])


EVALUATED = {
    "bfloat16": lambda: functional(lambda p: p, dtype="bfloat16"),
    "float16": lambda: functional(lambda p: p, dtype="float16"),
    "float64": lambda: functional(lambda p: p, dtype="float64"),
    "an output in a dict": lambda: functional(lambda p: {"p": p}),
    "an output in a list": lambda: functional(lambda p: [p]),
    "an input in a dict": of_a_dict,
    "images of any size": lambda: keras.Sequential(
        [
            keras.Input((None, None)),
            keras.layers.Reshape((-1, 1)),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    ),
}


@pytest.mark.parametrize("kind", EVALUATED)
def test_these_are_evaluated(tmp_path, kind):
    network = EVALUATED[kind]()
    network.save(tmp_path / "model.keras")
    found = answers(tmp_path / "model.keras")
    assert found.dtype == (np.float64 if kind == "float64" else np.float32)
    images = {"image": IMAGES} if kind == "an input in a dict" else IMAGES
    (expected,) = keras.tree.flatten(network.predict_on_batch(images))
    assert np.array_equal(found, np.asarray(expected).astype(found.dtype))


# --- refused ----------------------------------------------------------------------------------------------------------


class Mine(keras.layers.Layer):
    """A user's own layer."""

    def call(self, x):
        return x


def own_activation(x):
    return keras.ops.softmax(x)


def two_inputs():
    one, other = keras.Input((4, 5), name="one"), keras.Input((4, 5), name="other")
    both = keras.layers.concatenate([flat()(one), flat()(other)])
    return keras.Model([one, other], keras.layers.Dense(3, activation="softmax")(both))


REFUSED = {
    "a Lambda layer": (
        lambda: functional(lambda p: keras.layers.Lambda(lambda x: x)(p)),
        "cannot be loaded as a Keras model: a Lambda layer contains code, which is not run; replace it by a layer",
    ),
    "a layer of its own": (
        lambda: functional(lambda p: Mine()(p)),
        "cannot be loaded as a Keras model: it needs code that is not Keras's own: Mine",
    ),
    "an activation of its own": (
        lambda: functional(lambda p: keras.layers.Dense(3, activation=own_activation)(p)),
        "cannot be loaded as a Keras model: it needs code that is not Keras's own: own_activation",
    ),
    "two outputs in a dict": (lambda: functional(lambda p: {"a": p, "b": p}), "gives 2 outputs; expected one"),
    "two outputs in a list": (lambda: functional(lambda p: [p, p]), "gives 2 outputs; expected one"),
    "two inputs": (two_inputs, "takes [(None, 4, 5), (None, 4, 5)], but the test images are 4x5"),
    "another shape": (lambda: functional(lambda p: p, (5, 4)), "takes (None, 5, 4), but the test images are 4x5"),
    "another rank": (lambda: functional(lambda p: p, (4, 5, 1)), "takes (None, 4, 5, 1), but the test images are 4x5"),
    "one probability": (
        lambda: functional(lambda p: keras.layers.Dense(1, activation="sigmoid")(p)),
        "gives shape (40, 1), not a probability for each of two or more classes",
    ),
    "pictures": (
        lambda: functional(lambda p: keras.layers.Reshape((3, 1))(p)),
        "gives shape (40, 3, 1), not a probability for each of two or more classes",
    ),
    "logits": (
        lambda: functional(lambda p: keras.layers.Dense(3)(p)),
        "gives rows that do not sum to 1, so they are not probabilities; end the model with a softmax",
    ),
    "no number": (
        lambda: functional(lambda p: keras.layers.Rescaling(float("nan"))(p)),
        "gives probabilities that are not finite; nothing is published",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_these_are_refused(tmp_path, kind):
    build, reason = REFUSED[kind]
    build().save(tmp_path / "model.keras")
    assert refusal(tmp_path / "model.keras").startswith(f"models/mine.keras: {reason}")


@pytest.fixture
def saved(tmp_path):
    reference.build((4, 5), 3, 255, (6,)).save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_an_hdf5_file_is_refused_by_what_it_is(tmp_path):
    h5py.File(tmp_path / "model.h5", "w").close()
    assert "it is an HDF5 file; load it with Keras and save it again as NAME.keras" in refusal(tmp_path / "model.h5")


@pytest.mark.parametrize("keep", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * keep)])
    assert ("it is empty" if keep == 0 else "it is not a .keras file, or is truncated") in refusal(saved)


def test_text_is_refused(saved):
    saved.write_text("no zip")
    assert "cannot be loaded as a Keras model: it is not a .keras file" in refusal(saved)


def test_a_zip_file_that_is_no_model_is_refused(saved):
    with zipfile.ZipFile(saved, "w") as archive:
        archive.writestr("a.txt", "text")
    assert "it is a zip file without config.json" in refusal(saved)


@pytest.mark.parametrize("member", saved_model.MEMBERS)
def test_a_damaged_member_is_refused(saved, member):
    with zipfile.ZipFile(saved) as archive:
        info = archive.getinfo(member)
    content = bytearray(saved.read_bytes())
    content[info.header_offset + 30 + len(member) + info.compress_size // 2] ^= 0xFF
    saved.write_bytes(content)
    assert f"it is damaged: {member} has changed since it was written" in refusal(saved)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"class_name": "Functional"}', "[" * 5000, '"' + "x" * 9999 + '"'])
def test_a_configuration_that_is_none_is_refused_and_not_told_whole(saved, config):
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, config if name == "config.json" else content)
    assert "cannot be loaded as a Keras model: " in refusal(saved)


def test_a_file_that_is_gone_is_refused(tmp_path):
    assert "cannot be read: " in refusal(tmp_path / "none.keras")


def test_the_end_of_a_long_path_is_told(saved):
    saved.write_text("no zip")
    with pytest.raises(EvaluationError) as refused:
        answers(saved, name=f"{'folder/' * 99}mine.keras")
    assert "/folder/mine.keras: cannot be loaded as a Keras model: " in str(refused.value)
    assert len(str(refused.value)) <= MOST


# --- before anything is started ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder.keras", "is a folder; give a .keras file"),
        ("none.keras", "no such file"),
        ("nowhere://KEY:SECRET@bucket/m.keras?token=SECRET", "cannot be read: "),
    ],
)
def test_a_place_without_a_model_is_refused_by_its_own_name(tmp_path, monkeypatch, capsys, place, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.keras").mkdir()
    assert main.main(["evaluate", "--model", place, "--data", "digits"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mnist-job: --model {place.replace('KEY:SECRET@', '').partition('?')[0]}: {reason}")
    assert "SECRET" not in line
    assert len(line) <= 300
    with pytest.raises(UsageError):
        saved_model.existing(place)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("units", "loss"), [(3, "SparseCategoricalCrossentropy"), (1, "BinaryCrossentropy")])
def test_logits_of_half_precision_are_probabilities(units, loss, dtype):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, dtype=dtype)])
    network.compile("sgd", getattr(keras.losses, loss)(from_logits=True))
    answers = network.predict_on_batch(np.eye(2, dtype=np.float32))
    assert answers.dtype == dtype
    found = saved_model.checked(saved_model.as_probabilities(answers, network), "model.keras")
    assert found.shape == (2, max(units, 2))
