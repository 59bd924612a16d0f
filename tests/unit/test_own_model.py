"""Test models of a user's file: its code is found, tried and named, and its faults are told with its own line."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_job.config.settings import JobConfig
from mnist_job.data.arrays import Split
from mnist_job.errors import UsageError
from mnist_job.models import origin, source
from mnist_job.models.source import Shapes
from mnist_job.training import preflight
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.compiled import Compiled
from mnist_job.training.passes import Validation
from mnist_job.usercode import files as code
from mnist_job.usercode.apart import Apart
from tests.unit.here import here

SHAPES = Shapes((8, 8), 3, 255, 5)
RANDOM = np.random.default_rng(0)
EXAMPLES = Split(RANDOM.integers(0, 256, (16, 8, 8), dtype=np.uint8), (np.arange(16) % 3).astype(np.int32))
HEAD = "import keras\nfrom keras import layers\n"
TWICE = """
@keras.saving.register_keras_serializable()
class Twice(layers.Layer):
    def call(self, x):
        return 2 * x
"""
COMPILED = """
from parts.twice import Twice

print("as a notebook does")

def model():
    network = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), Twice(), layers.Dense(3)])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return network
"""

LOGITS = """
def model():
    network = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(3)])
    network.compile("sgd", "sparse_categorical_crossentropy")
    return network
"""


def written(folder, text: str, name: str = "notebook.py"):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(HEAD + text)
    return path


def network(dense: str, shape: str = "(8, 8)") -> str:
    return f"    return keras.Sequential([keras.Input({shape}), layers.Flatten(), layers.Dense({dense})])"


def checked(model: source.Source, folder, process=None, given=None):
    with process or here(model.code, folder / "imported") as apart:
        return preflight.check(apart, model, None, SHAPES, EXAMPLES, given)


def tried(folder, text: str, arguments=None):
    return checked(source.read(f"{written(folder, text)}:model", arguments or {}, None, ()), folder)


def test_a_function_gets_the_parameters_that_it_declares(tmp_path):
    text = "def model(input_shape, classes, width, seed):\n    assert (width, seed) == (7, 5)\n"
    found = tried(tmp_path, text + network("classes, 'softmax'", "input_shape"), {"width": 7})
    assert (found.was_compiled, found.parameters) == (False, 64 * 3 + 3)


def test_a_compiled_model_with_its_own_layer_and_its_own_modules_in_a_process_of_its_own(tmp_path):
    written(tmp_path, TWICE, "code/parts/twice.py")
    text = "import matplotlib, sklearn  # as notebooks begin\n" + COMPILED
    place, modules = f"{written(tmp_path, text)}:model", str(tmp_path / "code")
    start = origin.read(JobConfig(data="digits", model=place, code=modules))
    assert checked(start.model, tmp_path, Apart(start.code)).was_compiled


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("import nothing_of_that_name", "notebook.py:3: in <module>(): ModuleNotFoundError: No module named "),
        ("def model(:\n    pass", "notebook.py:3: SyntaxError: "),
        ("raise SystemExit('run me')", "notebook.py:3: in <module>(): SystemExit: run me"),
        ("def other():\n    pass", "notebook has no function model()"),
        ("def model():\n    return 5", "model() returned int, no Keras model"),
        ("def model():\n    return layers.Dense(-1)", "notebook.py:4: in model(): ValueError: "),
        ("def model():\n" + network("3, 'softmax'", "(9, 9)"), "cannot be trained on this data: "),
        ("def model():\n" + network("3"), "is not compiled, and its outputs are no probabilities"),
        ("def model():\n" + network("2, 'softmax'"), "gives 2 outputs, but the data has 3 classes"),
        (LOGITS, "gives rows that do not sum to 1, so they are not probabilities; end the model with a softmax"),
    ],
    ids=["import", "syntax", "exit", "function", "no model", "frame", "shape", "logits", "classes", "compiled logits"],
)
def test_a_fault_is_told_in_a_line(tmp_path, text, refusal):
    with pytest.raises(UsageError) as refused:
        tried(tmp_path, text)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"--model {tmp_path}/notebook.py:model: ")
    assert refusal in line


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"model": "none.py:model"}, "--model none.py:model: none.py: no such file"),
        ({"model": "none.keras"}, "--model none.keras: no such file"),
        ({"code": "none"}, "--code none: is not a folder"),
        ({"callbacks": "none.py:callbacks"}, "--callbacks none.py:callbacks: none.py: no such file"),
        (
            {"model": "~nobody-at-all/a.py:model"},
            "--model ~nobody-at-all/a.py:model: ~nobody-at-all/a.py: no such file",
        ),
        ({"code": "~nobody-at-all"}, "--code ~nobody-at-all: is not a folder"),
        ({"data": "none.py:data"}, "--data none.py:data: none.py: no such file"),
        ({"code": "other"}, "a.py: two different files have this name"),
        ({"callbacks": "callbacks"}, "--callbacks callbacks: is not FILE.py:FUNCTION or MODULE:FUNCTION"),
        (
            {"callbacks": "other/a.py:callbacks"},
            "a.py: two different files have this name; give their folder by --code",
        ),
    ],
)
def test_what_is_not_there_is_named(arguments, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.py").write_text("# another")
    with pytest.raises(UsageError, match=refusal):
        origin.read(JobConfig(**{"data": "digits", "model": "a.py:model"} | arguments))


AVERAGED = """
def model():
    network = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(3, "softmax")])
    network.compile(keras.optimizers.Adam(use_ema=True), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network
"""


def test_averages_that_become_the_weights_at_the_end_are_not_those_of_the_best_epoch(tmp_path):
    network = source.read(f"{written(tmp_path, AVERAGED)}:model", {}, None, ())
    with pytest.raises(
        UsageError, match=r"--keep best: .*notebook\.py:model has an optimizer with use_ema, whose aver"
    ):
        checked(network, tmp_path, given={"keep": "best"})


def test_an_unknown_argument_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--model-args width: model\(\) has no such parameter"):
        tried(tmp_path, "def model():\n    pass", {"width": 7})


@pytest.mark.parametrize("name", ["train_step", "compute_loss"])
def test_a_model_that_replaces_a_step_of_fit_is_refused(name):
    replaced = type("Mine", (keras.Sequential,), {name: lambda self, *_: None})
    with pytest.raises(UsageError, match=rf"Mine has its own {name}\(\)"):
        Compiled(replaced([keras.Input((8, 8))]), 1e-3, EXAMPLES)


@pytest.mark.parametrize(
    ("loss", "refusal"),
    [
        (lambda targets, answers: tf.reduce_mean(answers), r"the loss <lambda> is one number for all samples"),
        (keras.losses.Dice(), "the loss dice is one number for all samples"),
        (keras.losses.Circle(), "the loss compares the samples of a batch"),
    ],
    ids=["mean", "dice", "circle"],
)
def test_a_loss_that_depends_on_the_workers_part_of_a_batch_is_refused(loss, refusal):
    network = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    network.compile("sgd", loss)
    with pytest.raises(UsageError, match=refusal):
        Compiled(network, 1e-3, replace(EXAMPLES, one_hot=3))


def test_a_loss_of_ones_own_gets_the_targets_as_keras_gives_them():
    """With one output: a column of floats, as the answers are."""
    seen = []

    def loss(targets, answers):
        seen.append((targets.shape, targets.dtype))
        return keras.losses.mean_squared_error(targets, answers)

    network = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(1)])
    network.compile("sgd", loss)
    Compiled(network, 1e-3, EXAMPLES)
    assert seen == [((16, 1), tf.float32)] * 2  # by this program, and by Keras


def test_a_loss_of_integer_labels_gets_them():
    network = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    network.compile("sgd", keras.losses.CategoricalGeneralizedCrossEntropy(), metrics=["accuracy"])
    assert Compiled(network, 1e-3, EXAMPLES).targets(EXAMPLES.targets) is EXAMPLES.targets


def test_a_loss_that_is_a_sum_is_refused():
    network = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(reduction="sum"))
    with pytest.raises(UsageError, match="the loss has reduction='sum'"):
        Compiled(network, 1e-3, EXAMPLES)


def test_a_frame_is_the_users_only_if_it_is_in_the_users_files(tmp_path):
    """Also if this program is installed below a folder named `code`, and if the user's file is in one."""
    written(tmp_path / "code", "def model():\n    raise ValueError('mine')", "code/notebook.py")
    place = str(tmp_path / "code/code/notebook.py")
    with pytest.raises(UsageError, match=r": notebook\.py:4: in model\(\): ValueError: mine"):
        checked(source.read(f"{place}:model", {}, None, ()), tmp_path)
    try:
        exec(compile("1 / 0", "/home/ann/code/other.py", "exec"))
    except ZeroDivisionError as error:
        assert code.told(error) == "ZeroDivisionError: division by zero"


def test_a_saved_model_is_trained_further_and_its_file_is_recorded(tmp_path):
    network = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    network.compile("sgd", "sparse_categorical_crossentropy")
    network.save(tmp_path / "model.keras")
    saved = source.read(str(tmp_path / "model.keras"), {}, None, ())
    assert checked(saved, tmp_path).was_compiled
    assert list(saved.checksums) == [str(tmp_path / "model.keras")]
    (tmp_path / "model.keras").write_bytes(b"no model")
    assert checked(saved, tmp_path).was_compiled  # read once
    with pytest.raises(UsageError, match=r"--model .*model\.keras: cannot be loaded as a Keras model: it is not a"):
        checked(source.read(str(tmp_path / "model.keras"), {}, None, ()), tmp_path)


LOSS = "sparse_categorical_crossentropy"
IN = "    one, two = keras.Input((8, 8), name='one'), keras.Input((8, 8), name='two')\n"
OUT = (
    IN + "    flat = layers.Flatten()(one)\n    a, b = (layers.Dense(3, 'softmax', name=name)(flat) for name in 'ab')\n"
)
SUBCLASS = """
class Mine(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.dense = layers.Flatten(), layers.Dense(3, "softmax")

    def call(self, images):
        a = self.dense(self.flat(images))
        return RETURNED
"""


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (OUT + "    network = keras.Model(one, [a, b])", r"it has 2 outputs \(a, b\)"),
        (OUT + "    network = keras.Model(one, {'x': a, 'y': b})", r"it has 2 outputs \(.*\)"),
        (
            OUT + "    network = keras.Model([one, two], layers.Add()([a, layers.Dense(3)(layers.Flatten()(two))]))",
            r"it has 2 inputs \(one, two\)",
        ),
        (SUBCLASS.replace("RETURNED", "{'a': a, 'b': a}"), r"it returns a dict of outputs \(a, b\)"),
        (SUBCLASS.replace("RETURNED", "(a, a)"), "it has 2 outputs"),
        (OUT + f"    network = keras.Model(one, a)\n    network.compile('sgd', ['{LOSS}'])", "its loss is a list"),
        (
            OUT + f"    network = keras.Model(one, a)\n    network.compile('sgd', {{'a': '{LOSS}'}})",
            "its loss is a dict",
        ),
    ],
    ids=["outputs", "named", "inputs", "dict", "tuple", "losses", "named losses"],
)
def test_several_inputs_outputs_or_losses_are_refused_by_name(text, refusal):
    """Compiled or not."""
    for compiled in (True, False):
        scope: dict = {"keras": keras, "layers": keras.layers}
        if text.startswith("\nclass"):
            exec(text + "\nnetwork = Mine()", scope)
        else:
            exec("def made():\n" + text + "\n    return network\nnetwork = made()", scope)
        made = scope["network"]
        if compiled and not made.compiled:
            made.compile("sgd", LOSS)
        with pytest.raises(UsageError, match=refusal):
            Compiled(made, 1e-3, EXAMPLES)


@pytest.mark.parametrize("compiled", [True, False])
def test_one_output_in_a_list_is_that_output(compiled):
    image = keras.Input((8, 8))
    scaled = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    network = keras.Model(image, [keras.layers.Dense(3, "softmax")(scaled)])
    if compiled:
        network.compile("sgd", "categorical_crossentropy")
    model = Compiled(network, 1e-3, EXAMPLES)
    strategy, batches = tf.distribute.get_strategy(), ResidentBatches(EXAMPLES, 16, Share(0, 1))
    found, _ = Validation(strategy, model, batches).whole(0)
    expected = keras.losses.sparse_categorical_crossentropy(EXAMPLES.targets, network.predict_on_batch(EXAMPLES.inputs))
    assert found["loss"] == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert ("accuracy" in found) != compiled


POLICY = "    keras.config.set_dtype_policy('mixed_float16')\n"


def test_a_model_is_tried_with_its_precision(tmp_path):
    """And refused by one line if it sets another one itself, or was saved with its own."""
    softmax = network("classes, 'softmax'")
    text = "def model(classes):\n    assert keras.config.dtype_policy().name == 'mixed_bfloat16'\n"
    place = f"{written(tmp_path, text + softmax)}:model"
    assert checked(source.read(place, {}, None, (), "bfloat16"), tmp_path).parameters == 64 * 3 + 3
    written(tmp_path, "def model():\n" + POLICY + network("3"))
    with pytest.raises(UsageError, match=r"^--precision bfloat16: .*:model sets mixed_float16 itself; leave the flag"):
        checked(source.read(place, {}, None, (), "bfloat16"), tmp_path)
    (tmp_path / "model.keras").touch()
    with pytest.raises(UsageError, match=r"^--precision float16: the layers of .*model\.keras keep the precision"):
        source.read(str(tmp_path / "model.keras"), {}, None, (), "float16")
