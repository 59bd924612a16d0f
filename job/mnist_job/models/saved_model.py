"""Load a saved model, which may be damaged or malicious, and compute its answers. Errors name the model, in one line.

No code from the model is run: a Lambda layer, or a class that is not Keras's, is refused.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnist_job.data.arrays import Inputs
from mnist_job.data.fits import shape_text
from mnist_job.errors import EvaluationError, UsageError, one_line
from mnist_job.storage import files

if TYPE_CHECKING:  # the driver imports this module, and must not import TensorFlow
    import keras

BATCH = 1000  # images in a batch; the result does not depend on it
BATCH_VALUES = 10_000_000  # at most so many probabilities in a batch (40 MB), for models with many classes
MOST_OF_NAME, MOST_OF_REASON = 120, 165  # characters; the whole line then has less than 300
# How far the sum of a row of probabilities may be from 1. A bfloat16 number has an error of up to 0.4 %.
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.02
MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def refused(name: str, reason: str) -> EvaluationError:
    """Return the error, in one line, that refuses the model. The user calls it `name`."""
    shown = name if len(name) <= MOST_OF_NAME else f"...{name[3 - MOST_OF_NAME :]}"
    return EvaluationError(f"{one_line(shown, MOST_OF_NAME)}: {one_line(reason, MOST_OF_REASON)}")


def existing(place: str) -> files.File:
    """Return the file at a path or URI. Raises UsageError if there is none."""
    shown = files.shown(place)
    try:
        model = files.File(*files.resolve(place))
        if model.exists():
            return model
        is_folder = model.is_folder()
    except (OSError, ValueError) as error:
        text = one_line(str(error).replace(place, shown), MOST_OF_REASON)
        raise UsageError(f"--model {shown}: cannot be read: {text}") from error
    raise UsageError(f"--model {shown}: {'is a folder; give a .keras file' if is_folder else 'no such file'}")


def load(file: Path, name: str, *, compiled: bool = False) -> "keras.Model":
    """Load the model from a .keras file; if `compiled`, with its optimizer, loss and metrics.

    Raises EvaluationError, whose message calls the model `name`.
    """
    import keras

    if fault := _fault(file):
        raise refused(name, f"cannot be loaded as a Keras model: it {fault}")
    try:
        return keras.saving.load_model(file, compile=compiled)
    except Exception as error:  # Keras raises any kind, with the whole configuration in the message
        raise refused(name, f"cannot be loaded as a Keras model: {_cause(file, error)}") from error


def load_own(file: Path) -> "keras.Model":
    """Load a model that a run has saved, with its loss and metrics. It may contain the user's own code.

    Raises what Keras raises.
    """
    import keras

    return keras.saving.load_model(file, safe_mode=False)


def trained_before(model: files.File, name: str) -> "keras.Model":
    """Load a saved model to train it further, with its optimizer, loss and metrics. Raises UsageError, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(model.read())
        try:
            return load(file, name, compiled=True)
        except EvaluationError as error:
            raise UsageError(f"--model {error}") from error


def probabilities(network: "keras.Model", images: Inputs, name: str) -> Iterator[npt.NDArray[Any]]:
    """Yield the model's probabilities batch by batch (images x classes). Raises EvaluationError."""
    import keras

    expected = getattr(network, "input_shape", None)
    if not isinstance(expected, tuple) or not _takes(expected[1:], images.shape[1:]):
        raise refused(name, f"takes {expected}, but the test images are {shape_text(images.shape[1:])}")
    inputs = getattr(network, "input", None)  # a tensor, or a dict or list with one
    sizes = keras.tree.flatten(getattr(network, "output_shape", ()))
    step = max(1, min(BATCH, BATCH_VALUES // max((size for size in sizes if size), default=1)))
    for start in range(0, len(images), step):
        batch = images[start : start + step]
        fed = batch if inputs is None else keras.tree.map_structure(lambda _, batch=batch: batch, inputs)
        try:
            given = keras.tree.flatten(network.predict_on_batch(fed))
        except Exception as error:
            raise refused(name, f"fails on the test images: {type(error).__name__}: {error}") from error
        if len(given) != 1:
            raise refused(name, f"gives {len(given)} outputs; expected one, with a probability for each class")
        yield checked(as_probabilities(np.asarray(given[0]), network), name)


def as_probabilities(answers: npt.NDArray[Any], network: "keras.Model") -> npt.NDArray[Any]:
    """Return the answers as probabilities of classes, if the compiled loss says that they are something else.

    With `from_logits=True` they are logits. A loss that is binary has the probability of class 1 of two.
    """
    from scipy.special import expit, softmax

    loss = network.loss if network.compiled else None
    logits = loss is not None and hasattr(loss, "get_config") and bool(loss.get_config().get("from_logits", False))
    wide = answers.astype(np.float32) if answers.dtype.itemsize == 2 else answers  # SciPy does not know bfloat16
    if answers.ndim == 2 and answers.shape[1] == 1 and "binary" in loss_name(loss):
        positive = expit(wide) if logits else wide
        return np.concatenate([1 - positive, positive], axis=1)
    return softmax(wide, axis=1) if logits and answers.ndim == 2 else answers


def is_classifier(network: "keras.Model") -> bool:
    """Return whether the model gives probabilities of classes: its loss needs them, or it was not compiled.

    A model that was trained on another loss, such as the mean squared error, may give anything.
    """
    name = loss_name(network.loss) if network.compiled else "crossentropy"
    return "crossentropy" in name or name in ("kl_divergence", "categorical_generalized_cross_entropy")


def loss_name(loss: object) -> str:
    """Return the name that Keras gives to a loss, whether it was compiled as a text, a function or an object."""
    import keras

    found = keras.losses.get(loss) if isinstance(loss, str) else loss
    return str(getattr(found, "name", getattr(found, "__name__", type(found).__name__)))


def checked(answers: npt.NDArray[Any], name: str) -> npt.NDArray[np.floating[Any]]:
    """Check that the answers are probabilities (images x classes). Return them as float32, or as float64 if they are.

    Raises EvaluationError.
    """
    if answers.ndim != 2 or answers.shape[1] < 2:
        raise refused(name, f"gives shape {answers.shape}, not a probability for each of two or more classes")
    wide: npt.NDArray[np.floating[Any]] = answers.astype(
        np.float64 if answers.dtype == np.float64 else np.float32, copy=False
    )
    if not np.isfinite(wide).all():
        raise refused(name, "gives probabilities that are not finite; nothing is published")
    if not np.allclose(wide.sum(axis=1), 1, atol=tolerance(answers.dtype.itemsize)):
        raise refused(
            name, "gives rows that do not sum to 1, so they are not probabilities; end the model with a softmax"
        )
    return wide


def tolerance(bytes_of_a_number: int) -> float:
    """Return how far the sum of a row of probabilities, which are numbers of this size, may be from 1."""
    return HALF_TOLERANCE if bytes_of_a_number == 2 else TOLERANCE


def _takes(expected: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(expected) == len(shape) and all(want in (None, size) for want, size in zip(expected, shape, strict=True))


def _fault(file: Path) -> str | None:
    """Return what is wrong with the file, or None. This check runs before Keras reads the file."""
    with file.open("rb") as stream:
        content = stream.read(len(_HDF5))
    if not content:
        return "is empty"
    if content == _HDF5:
        return "is an HDF5 file; load it with Keras and save it again as NAME.keras"
    if not zipfile.is_zipfile(file):
        return "is not a .keras file, or is truncated; save it with model.save('NAME.keras')"
    try:
        with zipfile.ZipFile(file) as archive:
            if missing := [member for member in MEMBERS if member not in archive.namelist()]:
                return f"is a zip file without {missing[0]}; save it with model.save('NAME.keras')"
            damaged = archive.testzip()
    except Exception:  # noqa: BLE001 a damaged archive can raise many kinds
        damaged = "its archive"
    return damaged and f"is damaged: {damaged} has changed since it was written"


def _cause(file: Path, error: Exception) -> str:
    """Return a short reason why Keras could not load the model."""
    try:
        with zipfile.ZipFile(file) as archive:
            objects = list(_objects(json.loads(archive.read("config.json"))))
    except (ValueError, RecursionError):
        return "its config.json is not valid JSON"
    if any(thing["class_name"] in ("Lambda", "__lambda__") for thing in objects):
        return "a Lambda layer contains code, which is not run; replace it by a layer of Keras"
    foreign = [_name(thing) for thing in objects if not str(thing.get("module", "keras")).startswith("keras")]
    if foreign:
        names = ", ".join(dict.fromkeys(foreign))
        return f"it needs code that is not Keras's own: {names}"
    return f"{type(error).__name__}: {error}"


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the configuration of each object that Keras would create."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _name(thing: dict[str, Any]) -> str:
    return str(thing["config"] if thing["class_name"] == "function" else thing["class_name"])
