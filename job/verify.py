"""Whether a worker or the evaluation has the data that the driver checked: another node may have another file."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from job import data, datasets
from job.config import JobConfig
from job.errors import DataError, UsageError


def load_training(config: JobConfig, checked: data.Facts) -> data.Training:
    """The training data on this node. Raises DataError, naming the node, unless they are what the driver checked."""
    with _node_is_named():
        training = data.load_training(config)
        _compare(training.facts, checked, config.data)
    return training


def load_test(source: str, checked: data.Facts) -> data.Split:
    """The test data on this node. Raises DataError, naming the node, unless they are what the driver checked."""
    with _node_is_named():
        test = data.load_test(source)
        _compare(data.test_facts(test), checked, source)
    return test


@contextmanager
def _node_is_named() -> Iterator[None]:
    try:
        yield
    except (DataError, UsageError) as error:  # of the usage, the driver's own file let it pass
        raise DataError(f"node {socket.gethostname()}: {error}") from error


def _compare(found: data.Facts, checked: data.Facts, source: str) -> None:
    differences = [
        f"{name} {str(found[name])[:12]}, was {str(value)[:12]}"
        for name, value in checked.items()
        if found[name] != value
    ]
    if differences:
        raise DataError(
            f"{datasets.place(source)}: is not the data set that was checked: {'; '.join(differences)}; "
            "give every node the same file, and do not replace it during a run"
        )
