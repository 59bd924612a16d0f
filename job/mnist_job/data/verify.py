"""Check that a worker or the evaluation has the same data as the driver: nodes may have different files."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mnist_job.config.parts import TrainingDataSettings
from mnist_job.data import dataset, sources
from mnist_job.errors import DataError, UsageError


def load_training(config: TrainingDataSettings, checked: dataset.Facts) -> dataset.Training:
    """Load the training data on this node.

    Raises DataError, with the name of the node, if they differ from the data that the driver checked.
    """
    with _node_is_named():
        training = dataset.load_training(config)
        _compare(training.facts, checked, config.data)
    return training


def load_test(source: str, checked: dataset.Facts) -> dataset.Split:
    """Load the test data on this node.

    Raises DataError, with the name of the node, if they differ from the data that the driver checked.
    """
    with _node_is_named():
        test = dataset.load_test(source)
        _compare(dataset.test_facts(test), checked, source)
    return test


@contextmanager
def _node_is_named() -> Iterator[None]:
    try:
        yield
    except (DataError, UsageError) as error:  # a UsageError depends on the file too: the driver's file caused none
        raise DataError(f"node {socket.gethostname()}: {error}") from error


def _compare(found: dataset.Facts, checked: dataset.Facts, source: str) -> None:
    differences = [
        f"{name} {str(found[name])[:12]}, was {str(value)[:12]}"
        for name, value in checked.items()
        if found[name] != value
    ]
    if differences:
        raise DataError(
            f"{sources.place(source)}: is not the data set that was checked: {'; '.join(differences)}; "
            "give every node the same file, and do not replace it during a run"
        )
