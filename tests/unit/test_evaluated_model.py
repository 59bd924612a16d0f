"""Test that the model that was checked is the one that is evaluated and published."""

import hashlib

import keras
import pytest
from pyarrow import fs

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.errors import EvaluationError
from mnist_job.evaluation.task import Candidate, _Process, compiled_metrics
from mnist_job.models import reference, source
from mnist_job.models.source import Shapes
from mnist_job.storage.files import File
from mnist_job.usercode import files
from mnist_job.usercode.files import Code
from tests.unit.here import here

DATA = sources.read("digits")
DIGITS, _ = dataset.check_test(DATA)


@pytest.fixture
def saved(tmp_path) -> File:
    network = reference.build((8, 8), 10, 16, ())
    network.save(tmp_path / "model.keras")
    return File(fs.LocalFileSystem(), str(tmp_path / "model.keras"))


def test_a_file_that_was_read_keeps_its_content(tmp_path):
    (tmp_path / "file").write_bytes(b"first")
    held = File(fs.LocalFileSystem(), str(tmp_path / "file")).held()
    (tmp_path / "file").write_bytes(b"second")
    assert (held.read(), held.sha256()) == (b"first", hashlib.sha256(b"first").hexdigest())


def process() -> _Process:
    return _Process(JobConfig(data="digits"), Code(), early=False)


def test_the_checksum_is_that_of_the_bytes_that_were_evaluated(saved, monkeypatch):
    """The file is replaced as soon as it was read. It is not read again."""
    checksum = saved.sha256()
    held = File.held

    def read_and_replaced(file: File) -> File:
        content = held(file)
        with file.filesystem.open_output_stream(file.path) as stream:
            stream.write(b"other")
        return content

    monkeypatch.setattr(File, "held", read_and_replaced)
    candidate = Candidate(saved, saved.path, checksum)
    result, evaluated = process().evaluate(candidate, DATA, DIGITS)
    assert (result.samples, evaluated) == (360, checksum)


def test_a_model_that_is_not_the_one_that_was_trained_is_not_evaluated(saved):
    with pytest.raises(EvaluationError, match=r"model\.keras: is not the model that was trained"):
        process().evaluate(Candidate(saved, saved.path, "ab" * 32), DATA, DIGITS)


def test_a_model_that_has_gone_is_told_by_its_place(tmp_path):
    gone = File(fs.LocalFileSystem(), str(tmp_path / "none.keras"))
    with pytest.raises(EvaluationError, match=r"none\.keras: cannot be read"):
        process().evaluate(Candidate(gone, gone.path), DATA, DIGITS)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda labels, answers: answers[:, 0] * float("nan"), "its compiled loss on the test data is not finite"),
        (["sparse_categorical_crossentropy"], "its loss is a list"),
    ],
)
def test_metrics_that_cannot_be_published_are_refused(loss, reason):
    network = reference.build((8, 8), 10, 16, ())
    network.compile("sgd", loss)
    with pytest.raises(EvaluationError, match=f"^model.keras: {reason}"):
        compiled_metrics(network, dataset.load_test(DATA)[0], "model.keras")


REGISTERED = """
import keras

@keras.saving.register_keras_serializable("of a test")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def model():
    layers = [keras.layers.Flatten(), Twice(), keras.layers.Dense(10, "softmax")]
    network = keras.Sequential([keras.Input((8, 8)), *layers])
    network.compile("sgd", "sparse_categorical_crossentropy")
    return network
"""


def test_a_registered_layer_is_found_in_the_users_code(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/layers.py").write_text(REGISTERED)
    code = files.read(str(tmp_path), [])
    model = source.read("parts/layers.py:model", {}, str(tmp_path), ())
    with here(code, tmp_path / "imported"):
        model.build(Shapes((8, 8), 10, 16, 0)).save(tmp_path / "model.keras")
    saved = File(fs.LocalFileSystem(), str(tmp_path / "model.keras"))
    for modules in ((), code.registering):
        keras.saving.get_custom_objects().pop("of a test>Twice", None)  # as in a process that has not imported it
        candidate = Candidate(saved, saved.path, trusted=True, modules=modules)
        with here(Code(), tmp_path / "none"):
            evaluator = _Process(JobConfig(data="digits"), code, early=False)
            if modules:
                assert evaluator.evaluate(candidate, DATA, DIGITS)[0].samples == 360
            else:
                with pytest.raises(EvaluationError, match="cannot be loaded"):
                    evaluator.evaluate(candidate, DATA, DIGITS)
