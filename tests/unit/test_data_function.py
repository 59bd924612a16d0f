"""Test data that a user's function returns: any arrays, in the form that `fit` takes them, with faults in a line."""

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from mnist_job.config.settings import JobConfig
from mnist_job.data import arrays, dataset, sources, verify
from mnist_job.data.arrays import Split
from mnist_job.data.described import Summary
from mnist_job.data.weights import weighted
from mnist_job.errors import DataError, UsageError
from mnist_job.usercode.apart import Apart
from tests.unit.here import here

X = np.arange(60.0).reshape(20, 3)
CLASSES = np.arange(20) % 2
HEAD = "import numpy as np\nx, y = np.arange(60.).reshape(20, 3), np.arange(20) % 2\n"
FUNCTION = HEAD + "def data():\n    return (x, y), (x[:4], y[:4])\n"


def train(x=X, y=CLASSES, *weights) -> Split:
    return arrays.parts(((x, y, *weights), (X, CLASSES)), "here")["train"]


@pytest.mark.parametrize(
    ("given", "targets", "dtype", "one_hot"),
    [
        (CLASSES, CLASSES, np.int32, 0),
        (CLASSES.astype(np.uint8)[:, None], CLASSES, np.int32, 0),
        (CLASSES.astype(bool), CLASSES, np.int32, 0),
        (CLASSES.tolist(), CLASSES, np.int32, 0),
        (np.eye(3)[CLASSES], CLASSES, np.int32, 3),
        (np.eye(3, dtype=np.int64)[CLASSES], CLASSES, np.int32, 3),
        (CLASSES.astype(float), CLASSES.astype(float), np.float32, 0),
        (X, X, np.float32, 0),
        (np.ones((20, 2), int), np.ones((20, 2)), np.float32, 0),  # several classes at once
    ],
    ids=["integers", "column", "booleans", "list", "one-hot", "integer one-hot", "floats", "rows", "labels"],
)
def test_integers_are_classes_and_floats_are_quantities(given, targets, dtype, one_hot):
    found = train(y=given)
    assert (found.targets.dtype, found.one_hot, found.has_classes) == (dtype, one_hot, dtype is np.int32)
    assert np.array_equal(found.targets, targets)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("float64", "float32"), ("float16", "float32"), ("int64", "int64"), ("uint16", "uint16"), ("bool", "uint8")],
)
def test_inputs_keep_their_type_and_floats_are_of_the_size_that_fit_takes(given, dtype):
    inputs = train(x=X.astype(given)).inputs
    assert inputs.dtype == dtype
    assert np.array_equal(inputs, X.astype(given))
    assert inputs.ctypes.data % 64 == 0


def test_arrays_are_copies_that_the_split_may_reorder():
    found = train()
    found.inputs[:] = 0
    assert X[-1, -1] == 59


@pytest.mark.parametrize(
    ("returned", "refusal"),
    [
        ({"x": X}, "returned a mapping with x; expected (x_train, y_train), (x_test, y_test)"),
        ((X, CLASSES), "the part train is ndarray; expected"),
        (((X, CLASSES),), "returned 1 values; expected"),
        (((X, CLASSES, None, None), (X, CLASSES)), "the part train is 4 values; expected"),
        (((X, CLASSES), (X, CLASSES[1:])), "x_test holds 20 samples, but there are 19 targets"),
        (((X, CLASSES, np.ones(3)), (X, CLASSES)), "x_train holds 20 samples, but there are 3 weights"),
        (((X, CLASSES, -np.ones(20)), (X, CLASSES)), "the weights of train: expected a number for each sample"),
        (((X, CLASSES, np.zeros(20)), (X, CLASSES)), "the weights of train: expected a number for each sample"),
        (((X, CLASSES - 1), (X, CLASSES)), "y_train: holds label -1 at index 0; integers are classes"),
        (((np.where(X == 7, np.nan, X), CLASSES), (X, CLASSES)), "x_train: holds NaN or infinity, first at index 2, 1"),
        (((X, np.full(20, np.inf)), (X, CLASSES)), "y_train: holds NaN or infinity, first at index 0"),
        ((([["a"]] * 20, CLASSES), (X, CLASSES)), "x_train: is 20 values of type <U1; expected an array of numbers"),
        (((X[:, 0], CLASSES), (X, CLASSES)), "x_train: has shape (20,); expected N x ..."),
        ((([[1], [1, 2]], CLASSES), (X, CLASSES)), "x_train: is 2 values, and no array: "),
    ],
)
def test_what_is_no_data_set_is_told_in_a_line(returned, refusal):
    with pytest.raises(DataError) as refused:
        arrays.parts(returned, "--data notebook.py:data")
    assert str(refused.value).startswith(f"--data notebook.py:data: {refusal}")


@pytest.fixture
def called(tmp_path):
    """Return a function that checks the data of a notebook as the driver does, but in this process."""

    def check(text: str, process=here, **settings) -> Summary:
        (tmp_path / "notebook.py").write_text(text)
        data = sources.read(f"{tmp_path}/notebook.py:data")
        with process(data.code, tmp_path / "imported") as apart:
            return apart.call(data.place, dataset.check, JobConfig(batch_size=4, **settings), data)

    return check


def test_a_function_is_checked_as_a_file_is(called):
    summary = called(FUNCTION, seed=3)
    assert (summary.name, summary.image_shape, summary.classes) == ("notebook:data", (3,), 2)
    assert (summary.train, summary.validation, summary.test, summary.scale) == (16, 4, 4, 59.0)
    assert called("import matplotlib, sklearn\n" + FUNCTION).sha256 == summary.sha256  # as notebooks begin
    assert called(FUNCTION.replace("return", "x[0] += 1; return")).sha256 != summary.sha256
    assert called(FUNCTION.replace("(x, y),", "(x, np.eye(2)[y]),").replace("y[:4]", "np.eye(2)[y[:4]]")).classes == 2


def test_a_third_pair_is_the_validation_part(called):
    text = FUNCTION.replace("y[:4])", "y[:4]), (x[:6], y[:6])")
    assert (called(text).train, called(text).validation) == (20, 6)
    with pytest.raises(UsageError, match=r"--validation-fraction 0\.5: .* has its own validation part"):
        called(text, validation_fraction=0.5)


def test_quantities_are_divided_at_random_by_the_seed(called, tmp_path):
    text = FUNCTION.replace("% 2", "/ 2")
    assert called(text).classes is None
    data = sources.read(f"{tmp_path}/notebook.py:data")
    with here(data.code, tmp_path / "code"):
        held = [
            dataset.load_training(JobConfig(batch_size=4, seed=seed), data).validation.targets.tolist()
            for seed in (0, 0, 1)
        ]
    assert held[0] == held[1] != held[2]
    assert sorted(held[0]) != [8.0, 8.5, 9.0, 9.5]
    with pytest.raises(UsageError, match="--class-weight: the targets of the data are no class numbers"):
        called(text, class_weight="balanced")


@pytest.mark.parametrize(
    ("text", "kind", "refusal"),
    [
        (HEAD + "def data():\n    return x / None", DataError, "notebook.py:4: in data(): TypeError: "),
        (HEAD + "1 / 0", UsageError, "cannot be imported: notebook.py:3: in <module>(): ZeroDivisionError: "),
        (HEAD, UsageError, "notebook has no function data()"),
        (FUNCTION.replace("y[:4]", "y[:4] + 1"), DataError, "y_test: holds label 2, but there are 2 classes"),
        (FUNCTION.replace("y[:4]", "y[:4] / 1"), DataError, "y_test: has type float32, but y_train has int32"),
        (FUNCTION.replace("x[:4]", "x[:4, :2]"), DataError, "x_test: images of 2, but those of x_train are 3"),
    ],
    ids=["exception", "import", "missing", "label", "type", "shape"],
)
def test_a_fault_is_told_with_the_users_line(called, tmp_path, text, kind, refusal):
    with pytest.raises(kind) as refused:
        called(text)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"--data {tmp_path}/notebook.py:data: {refusal}")


def test_the_process_of_its_own_is_the_same_and_its_death_is_told(called):
    assert called(FUNCTION, lambda code, _: Apart(code)).training_facts == called(FUNCTION).training_facts
    with pytest.raises(UsageError, match="the process that tried it ended with 3: last words"):
        called(
            HEAD + "def data():\n    print('last words', flush=True)\n    import os\n    os._exit(3)",
            lambda code, _: Apart(code),
        )


def test_random_data_are_the_same_in_every_process_and_other_data_are_refused(called, tmp_path):
    text = FUNCTION.replace("return", "x[0, 0] = np.random.rand(); return")
    facts = called(text).training_facts
    data = sources.read(f"{tmp_path}/notebook.py:data")
    with here(data.code, tmp_path / "code"):
        verify.load_training(JobConfig(batch_size=4), data, facts)
    changing = FUNCTION.replace("return", "x[0, 0] = np.random.default_rng().random(); return").replace(
        "x, y", "x, z", 0
    )
    (tmp_path / "changing.py").write_text(changing)
    other = sources.read(f"{tmp_path}/changing.py:data")
    with (
        other.code.importable(tmp_path / "other"),
        pytest.raises(DataError, match="is not the data set that was checked"),
    ):
        verify.load_training(JobConfig(batch_size=4), other, facts)


def test_balanced_weights_are_those_of_scikit_learn():
    targets = np.array([0, 0, 0, 0, 2, 2, 3], np.int32)
    found = weighted(Split(X[:7], targets), "balanced", 5)
    expected = dict(
        zip([0, 2, 3], compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=targets), strict=True)
    )
    assert found.weights == pytest.approx([expected[target] for target in targets])


def test_weights_of_classes_multiply_those_of_samples():
    found = weighted(train(X, CLASSES, np.arange(20)), {1: 2.5}, 2)
    assert found.weights == pytest.approx(np.arange(20) * np.where(CLASSES, 2.5, 1))
    with pytest.raises(UsageError, match="--class-weight 7: there are 2 classes, 0 to 1"):
        weighted(train(), {7: 1.0}, 2)


@pytest.mark.parametrize("given", ["0=1,1=2.5", "weights.yaml", {0: 1, 1: 2.5}, {"0": 1, "1": 2.5}])
def test_class_weights_are_read_from_a_text_a_file_or_a_mapping(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.yaml").write_text("0: 1\n1: 2.5\n")
    assert JobConfig(class_weight=given).class_weight == {0: 1.0, 1: 2.5}


@pytest.mark.parametrize("given", ["none.yaml", "0=-1", "a=1", "list.yaml"])
def test_wrong_class_weights_are_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="class_weight"):
        JobConfig(class_weight=given)


def test_keras_and_this_package_agree_on_what_a_data_function_returns():
    """The functions of keras.datasets can be given as they are; only their download needs a network."""
    assert sources.read("keras.datasets.cifar10:load_data").function is not None
    assert callable(keras.datasets.cifar10.load_data)
