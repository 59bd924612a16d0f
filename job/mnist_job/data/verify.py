"""Check that a worker or the evaluation has the same data as the driver: nodes may have different files."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mnist_job.config.training import TrainingDataSettings
from mnist_job.data import dataset
from mnist_job.data.arrays import Samples
from mnist_job.data.described import Facts, Training
from mnist_job.data.sources import Source
from mnist_job.errors import DataError, UsageError


def load_training(config: TrainingDataSettings, data: Source, checked: Facts) -> Training:
    """Load the training data on this node.

    Raises DataError, with the name of the node, if they differ from the data that the driver checked.
    """
    with _node_is_named():
        training = dataset.load_training(config, data)
        _compare(training.facts, checked, data.place)
    return training


def load_test(data: Source, checked: Facts) -> Samples:
    """Load the test data on this node, or open them if they are prepared.

    Raises DataError, with the name of the node, if they differ from the data that the driver checked.
    """
    with _node_is_named():
        test, found = dataset.load_test(data)
        _compare(found, checked, data.place)
    return test


@contextmanager
def _node_is_named() -> Iterator[None]:
    try:
        yield
    except (DataError, UsageError) as error:  # a UsageError depends on the file too: the driver's file caused none
        raise DataError(f"node {socket.gethostname()}: {error}") from error


def _compare(found: Facts, checked: Facts, place: str) -> None:
    differences = [
        f"{name} {str(found[name])[:12]}, was {str(value)[:12]}"
        for name, value in checked.items()
        if found[name] != value
    ]
    if differences:
        raise DataError(
            f"{place}: is not the data set that was checked: {'; '.join(differences)}; "
            "give every node the same data, and do not change them during a run"
        )
