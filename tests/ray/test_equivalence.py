"""Test that data-parallel training is the same training: by 1, 2 and 3 workers, and by Keras's own `fit`."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.distributed import cluster
from mnist_job.training.batches import ResidentBatches, Share
from mnist_job.training.checkpoint import Checkpoint
from mnist_job.training.compiled import Compiled
from mnist_job.training.progress import Epoch
from tests import networks
from tests.ray import group, notebook
from tests.unit.test_parity import BATCH, EPOCHS, fitted, random_split

BATCH_OF_ALL = 1149  # the whole training split, so that an epoch is one step
UNEVEN = {"batch_size": 50}  # not divisible by 3 workers, and 1,149 images are not divisible by it
SETTINGS = {
    "epochs": (UNEVEN | {"epochs": 4}, 1e-4),
    "constant": (UNEVEN | {"epochs": 2, "learning_rate_schedule": "constant"}, 1e-4),
    "steps": ({"epochs": 5, "batch_size": BATCH_OF_ALL}, 1e-6),  # one step per epoch, to compare the first steps
    # batch statistics, regularizers, constraints, clipping, metrics, and an optimizer of its own
    "own": (UNEVEN | {"epochs": 2, "model": f"{notebook.__file__}:convolutional"}, 1e-4),
    # more gradients than two workers exchange in one message
    "large": (UNEVEN | {"epochs": 2, "hidden_layers": (1024, 256)}, 1e-4),
}
MODELS = {build.__name__: (build, tolerance) for build, tolerance in networks.MODELS}
Trained = Callable[[str, int], Checkpoint]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with cluster.connected(JobConfig()):
        yield


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory) -> Trained:
    """A function that returns the last checkpoint of a run by so many workers.

    They train all runs that the selected tests need, one after another.
    """
    folder = tmp_path_factory.mktemp("groups")
    wanted: dict[int, dict[str, JobConfig]] = {1: {}, 2: {}, 3: {}}
    for test in request.session.items:
        if test.path == request.path:
            name = test.callspec.params["name"]
            for workers in {test.callspec.params["workers"], *([1] if name in SETTINGS else [])}:
                wanted[workers][name] = configured(name, folder)

    @functools.cache
    def group_of(workers: int) -> dict[str, Any]:
        (folder / str(workers)).mkdir()
        return group.trained(workers, wanted[workers], folder / str(workers))

    def found(name: str, workers: int) -> Checkpoint:
        checkpoint = group_of(workers)[name]
        assert isinstance(checkpoint, Checkpoint), checkpoint
        return checkpoint

    return found


def configured(name: str, folder: Path) -> JobConfig:
    if name in SETTINGS:
        return JobConfig(data="digits", cpus_per_worker=0.5, seed=3, **SETTINGS[name][0])
    split = split_of(name)
    data = folder / f"{split.targets.max()}.npz"
    part = {"train": split, "val": split, "test": split}
    arrays = {f"x_{key}": one.inputs for key, one in part.items()} | {
        f"y_{key}": one.targets for key, one in part.items()
    }
    np.savez(data, **arrays)
    model = f"{networks.__file__}:{name}"
    return JobConfig(data=str(data), cpus_per_worker=0.5, batch_size=BATCH, epochs=EPOCHS, model=model)


def split_of(name: str):
    return random_split(2 if name == "binary" else networks.CLASSES)


@functools.cache
def by_fit(name: str) -> tuple[keras.Model, dict[str, list[float]]]:
    """The model after `fit` with the batches of the loop, and its history."""
    split = split_of(name)
    keras.utils.set_random_seed(0)
    network = MODELS[name][0]()
    batches = ResidentBatches(split, BATCH, Share(0, 1), seed=0)
    targets = Compiled(network, 1e-3, split[:4]).targets
    return network, fitted(network, split, batches, targets)


def assert_follow(history: list[Epoch], reference: list[Epoch], relative: float) -> None:
    for name in ("train_loss", "validation_loss"):
        ours, theirs = ([getattr(row, name) for row in rows] for rows in (history, reference))
        assert ours == pytest.approx(theirs, rel=relative), name
    correct, expected = ([round(row.train_accuracy * BATCH_OF_ALL) for row in rows] for rows in (history, reference))
    assert correct == pytest.approx(expected, abs=1)  # one image can be classified differently because of rounding
    assert [row.learning_rate for row in history] == [row.learning_rate for row in reference]


def cases(names: Iterable[str], always: dict[int, Collection[str]]) -> list[Any]:
    """Return a case for each name with two and with three workers. Those that are not for `always` are marked full."""
    return [
        pytest.param(name, workers, marks=[] if name in always[workers] else [pytest.mark.full], id=f"{name}-{workers}")
        for name in names
        for workers in (2, 3)
    ]


@pytest.mark.parametrize(("name", "workers"), cases(SETTINGS, {2: ("epochs", "own", "large"), 3: ("epochs", "steps")}))
def test_the_loss_does_not_depend_on_the_workers(trained, name, workers):
    one = trained(name, 1).history
    assert one[0].train_loss > one[-1].train_loss  # it learns, or equal losses would show nothing
    assert_follow(trained(name, workers).history, one, SETTINGS[name][1])


@pytest.mark.parametrize(
    ("name", "workers"),
    cases(
        MODELS,
        {2: ("regularized", "convolutional", "accumulating", "binary"), 3: ("convolutional", "adamw", "averaged")},
    ),
)
def test_several_workers_do_what_fit_does(trained, name, workers):
    """208 steps: losses, metrics and final weights. Each epoch ends with a batch of 8, uneven for 3 workers."""
    tolerance = MODELS[name][1]
    checkpoint = trained(name, workers)
    network, history = by_fit(name)
    ours = [
        row.measured("train") | {f"val_{key}": value for key, value in row.measured("validation").items()}
        for row in checkpoint.history
    ]
    for key, values in history.items():
        assert [row[key] for row in ours] == pytest.approx(values, rel=tolerance, abs=tolerance), key
    assert set(ours[0]) == set(history)
    saved = keras.saving.load_model(checkpoint.model.path, compile=False)
    for mine, other in zip(saved.get_weights(), network.get_weights(), strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)
