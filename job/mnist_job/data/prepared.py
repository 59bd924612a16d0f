"""The training data and the summary of a prepared data set: from its manifest, without reading the data."""

import numpy as np

from mnist_job.config.training import TrainingDataSettings
from mnist_job.data import weights
from mnist_job.data.described import Facts, Summary, Training
from mnist_job.data.fits import shape_text
from mnist_job.data.shards import Prepared
from mnist_job.data.streamed_part import StreamedPart
from mnist_job.errors import DataError


def training(config: TrainingDataSettings, prepared: Prepared) -> Training:
    """Return the training data, which are read when they are needed.

    Raises DataError for fewer training images than a batch, and UsageError for weights of classes that there are not.
    """
    manifest, of_class = prepared.manifest, np.array(prepared.manifest.of_class["train"])
    classes = len(of_class) or None
    class_weights = weights.of_each(of_class, config.class_weight, classes)
    train = StreamedPart(prepared, "train", class_weights)
    if len(train) < config.batch_size:
        raise DataError(
            f"{prepared.place}: {len(train)} training images are fewer than one batch of {config.batch_size}"
        )
    return Training(
        train,
        StreamedPart(prepared, "val"),
        prepared.read(manifest.examples),
        classes,
        manifest.scale,
        manifest.sha256,
        {"validation_fraction": None, "validation_split": None},
        manifest.names,
    )


def summary(config: TrainingDataSettings, prepared: Prepared, name: str) -> Summary:
    """Return what the driver knows of the data set. Raises the errors of `training`."""
    found, manifest = training(config, prepared), prepared.manifest
    assert isinstance(found.train, StreamedPart)
    assert isinstance(found.validation, StreamedPart)
    return Summary(
        name=name,
        image_shape=found.image_shape,
        classes=found.classes,
        train=len(found.train),
        validation=len(found.validation),
        test=manifest.samples("test"),
        sha256=manifest.sha256,
        holdout=found.holdout,
        absent=np.flatnonzero(np.array(manifest.of_class["train"]) == 0).tolist(),
        scale=found.scale,
        examples=found.examples,
        names=found.names,
        most_workers=min(found.train.streams, found.validation.streams),
        training_facts=found.facts,
        test_facts=test_facts(prepared),
    )


def test_facts(prepared: Prepared) -> Facts:
    """Return the properties of the test data. The shards are verified as they are read."""
    manifest = prepared.manifest
    return {
        "test images": manifest.samples("test"),
        "image shape": shape_text(manifest.form.shape),
        "SHA-256": manifest.sha256,
    }
