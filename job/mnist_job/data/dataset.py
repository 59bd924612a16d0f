"""Load a data set, check it, and split off the validation part.

The images of a file are uint8 arrays of N x H x W or N x H x W x C. Other dtypes are converted in chunks, so that a
process holds at most the uint8 images and one chunk. What a user's function returns may have any shape, and is called
images here too. Values stay as they are, because the model scales them (`Training.scale`): a saved model takes the
inputs as they are in the data set.

Labels are class numbers, int32 arrays of N, or floats of N or N x K, the targets of a model that is no classifier.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_job.config.setting import declared
from mnist_job.config.sources import flag
from mnist_job.config.training import SplitSettings, TrainingDataSettings
from mnist_job.data import fits, prepared, sources, split
from mnist_job.data.arrays import Samples, Split
from mnist_job.data.described import EXAMPLES, Facts, Summary, Training
from mnist_job.data.fits import shape_text
from mnist_job.data.sources import Parts, Source
from mnist_job.data.streamed_part import StreamedPart
from mnist_job.data.weights import weighted
from mnist_job.errors import DataError, UsageError

HOLDOUT = ("validation_fraction", "validation_split")


def check(config: TrainingDataSettings, data: Source) -> Summary:
    """Read the whole data set once and return its properties.

    Raises the errors of `load_training`, and DataError if the test data do not fit the training data.
    """
    if (there := data.prepared) is not None:
        check_no_split(config, data.place)
        return prepared.summary(config, there, sources.name(data.text))
    with data.opened() as parts:
        training, digest, of_class = _training(config, parts, data.place)
        facts, shape, holdout = training.facts, training.image_shape, training.holdout
        examples, classes, scale = _copied(training.examples), training.classes, training.scale
        names = training.names
        train, validation = len(training.train), len(training.validation)
        del training  # free the memory before the test images are read
        test = parts.load("test")
    fits.check(test, examples, of_class, data.place, "test")
    update(digest, test)
    return Summary(
        name=sources.name(data.text),
        image_shape=shape,
        classes=classes,
        train=train,
        validation=validation,
        test=len(test),
        sha256=digest.hexdigest(),
        holdout=holdout,
        absent=np.flatnonzero(of_class == 0).tolist(),
        scale=scale,
        examples=examples,
        names=names,
        most_workers=None,
        training_facts=facts,
        test_facts=test_facts(test),
    )


def load_training(config: TrainingDataSettings, data: Source) -> Training:
    """Load the training data. The validation part is that of the data set, or is split off if it has none.

    Raises DataError if the data cannot be read, or for an empty split, fewer than two classes, only black images, fewer
    training images than a batch, or a class that only the validation part has. Raises UsageError if the user asks for
    a split and the data set has its own validation part, or for weights of classes that there are not.
    """
    if (there := data.prepared) is not None:
        check_no_split(config, data.place)
        return prepared.training(config, there)
    with data.opened() as parts:
        return _training(config, parts, data.place)[0]


def _training(
    config: TrainingDataSettings, parts: Parts, where: str
) -> tuple[Training, "hashlib._Hash", npt.NDArray[np.int64]]:
    """Return the training data, their hash, and the number of training images of each class."""
    whole = parts.load("train")
    classes = split.count_classes(whole.targets, f"{where}: y_train") if whole.has_classes else None
    classes = classes and max(classes, whole.one_hot, len(parts.class_names or ()))
    scale = max(whole.inputs.max().item(), -whole.inputs.min().item())
    if scale == 0:
        raise DataError(f"{where}: x_train: every pixel is 0")
    digest = hashlib.sha256(repr(whole.inputs.shape[1:]).encode())
    if parts.has_validation:
        check_no_split(config, where)
        train, validation = whole, parts.load("val")
        holdout = dict.fromkeys(HOLDOUT)
        of_class = np.bincount(whole.targets) if classes else np.zeros(0, np.int64)
        fits.check(validation, whole, of_class, where, "val")
        update(digest, train)
        update(digest, validation)
    else:
        holdout = {name: in_effect(config, name) for name in HOLDOUT}
        train, validation = _divided(whole, config, digest, where)
    if len(train) < config.batch_size:
        raise DataError(
            f"{where}: x_train: {len(train)} training images are fewer than one batch of {config.batch_size}"
        )
    train = weighted(train, config.class_weight, classes)
    sha256, names = digest.hexdigest(), parts.class_names
    training = Training(train, validation, train[:EXAMPLES], classes, scale, sha256, holdout, names)
    of_class = np.bincount(train.targets, minlength=classes) if classes else np.zeros(0, np.int64)
    return training, digest, of_class


def _divided(whole: Split, config: TrainingDataSettings, digest: "hashlib._Hash", where: str) -> tuple[Split, Split]:
    """Return the training part and the validation part, as views of the same arrays.

    For a stratified split, first move the rows for validation to the end, in place.
    """
    held = held_out(config, split.strata(whole.targets), where)
    at = len(whole) - len(held)
    train, validation = whole[:at], whole[at:]
    update(digest, train)  # before any row moves: the hash is that of the file's order
    update(digest, validation)
    there = [array for array in (whole.inputs, whole.targets, whole.weights) if array is not None]
    split.move_to_end(there, held)
    return train, validation


def held_out(config: SplitSettings, strata: npt.NDArray[np.int32], where: str) -> split.Rows:
    """Return the rows for validation, sorted. `strata` has the class of each row. Raises DataError."""
    fraction = in_effect(config, "validation_fraction")
    at, different = split.boundary(len(strata), fraction), len(np.unique(strata))
    if not 0 < at < len(strata):
        raise DataError(
            f"{where}: x_train: {len(strata)} images leave nothing for "
            f"{'validation' if at else 'training'} at --validation-fraction {fraction}"
        )
    if in_effect(config, "validation_split") == "tail":
        lacking = split.absent(strata[:at], strata[at:])
        if lacking:
            raise DataError(
                f"{where}: y_train: the last {len(strata) - at} labels, its validation part, hold "
                f"{split.named(lacking)}, but the training part does not; "
                "--validation-split stratified divides each class"
            )
        return np.arange(at, len(strata))
    if at < different:
        raise DataError(
            f"{where}: x_train: {at} training images at --validation-fraction {fraction} are fewer than one of each of "
            f"{different} classes"
        )
    return split.stratified(strata, len(strata) - at, config.seed)


def load_test(data: Source) -> tuple[Samples, Facts]:
    """Load the held-out test data, or open them if they are prepared. Return their facts, too. Raises DataError."""
    if (there := data.prepared) is not None:
        return StreamedPart(there, "test"), prepared.test_facts(there)
    with data.opened() as parts:
        test = parts.load("test")
    return test, test_facts(test)


def check_test(data: Source) -> tuple[Facts, tuple[str, ...] | None]:
    """Load the test data and return their facts, and the names of the classes. Raises DataError."""
    if (there := data.prepared) is not None:
        return prepared.test_facts(there), there.manifest.names
    with data.opened() as parts:
        return test_facts(parts.load("test")), parts.class_names


def test_facts(test: Split) -> Facts:
    """Return the properties that the test data must have in the evaluation."""
    digest = hashlib.sha256()
    update(digest, test)
    shape = shape_text(test.inputs.shape[1:])
    return {"test images": len(test), "image shape": shape, "SHA-256": digest.hexdigest()}


def update(digest: "hashlib._Hash", part: Split) -> None:
    """Add the arrays to the hash. What an .npz of images cannot have counts only if it is there: its type and form."""
    if part.inputs.dtype != np.uint8 or not part.has_classes or part.one_hot:
        digest.update(f"{part.inputs.dtype} {part.targets.dtype} {part.targets.shape[1:]} {part.one_hot}".encode())
    for array in (part.inputs, part.targets, part.weights):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)


def _copied(part: Split) -> Split:
    weights = None if part.weights is None else part.weights.copy()
    return Split(part.inputs.copy(), part.targets.copy(), weights, part.one_hot)


def in_effect(config: SplitSettings, name: str) -> Any:
    """Return the value of a setting of the split, or what is in effect if it was not given."""
    value = getattr(config, name)
    return declared(SplitSettings.model_fields[name], "in_effect") if value is None else value


def check_no_split(config: SplitSettings, where: str) -> None:
    """Check that no split is asked for, since the data have a validation part. Raises UsageError."""
    for name in HOLDOUT:
        value = getattr(config, name)
        if value is not None:
            raise UsageError(f"{flag(name)} {value}: {where} has its own validation part; remove one of the two")
