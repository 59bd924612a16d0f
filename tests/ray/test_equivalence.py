"""Test that data-parallel training is the same training: 1, 2 and 3 workers have the same losses."""

from pathlib import Path

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset
from mnist_job.distributed import cluster, trainer
from mnist_job.models import origin as origins
from mnist_job.phases import Clock
from mnist_job.storage.folder import RunFolder
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.progress import Epoch
from tests.store import RUN

BATCH_OF_ALL = 1149  # the whole training split, so that an epoch is one step


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.connected(JobConfig()):
        yield


def losses(tmp_path, **settings) -> list[Epoch]:
    config = JobConfig(data="digits", cpus_per_worker=0.5, seed=3, **settings)
    origin = origins.read(config)
    with RunFolder.opened(str(tmp_path), "job", RUN) as folder:
        checkpoints = Checkpoints(folder.filesystem, folder.checkpoints, RUN)
        checked = dataset.check(config, origin.data).training_facts
        history = trainer.train(
            config, origin, checked, folder, checkpoints, Clock(), lambda entry: None
        ).checkpoint.history
        folder.clear()
    return history


def assert_follow(history: list[Epoch], reference: list[Epoch], relative: float) -> None:
    for name in ("train_loss", "validation_loss"):
        ours, theirs = ([getattr(row, name) for row in rows] for rows in (history, reference))
        assert ours == pytest.approx(theirs, rel=relative), name
    correct, expected = ([round(row.train_accuracy * BATCH_OF_ALL) for row in rows] for rows in (history, reference))
    assert correct == pytest.approx(expected, abs=1)  # one image can be classified differently because of rounding
    assert [row.learning_rate for row in history] == [row.learning_rate for row in reference]


UNEVEN = {"batch_size": 50}  # not divisible by 3 workers, and 1,149 images are not divisible by it
SETTINGS = {
    "epochs": (UNEVEN | {"epochs": 4}, 1e-4),
    "constant": (UNEVEN | {"epochs": 2, "learning_rate_schedule": "constant"}, 1e-4),
    "steps": ({"epochs": 5, "batch_size": BATCH_OF_ALL}, 1e-6),  # one step per epoch, to compare the first steps
    # more gradients than two workers exchange in one message
    # batch statistics, regularizers, constraints, clipping, metrics, and an optimizer of its own
    "own": (UNEVEN | {"epochs": 2, "model": f"{Path(__file__).with_name('notebook.py')}:convolutional"}, 1e-4),
    "large": (UNEVEN | {"epochs": 2, "hidden_layers": (1024, 256)}, 1e-4),
}


@pytest.fixture(scope="module")
def one(request, tmp_path_factory) -> list[Epoch]:
    """The history of one worker."""
    return losses(tmp_path_factory.mktemp("one"), workers=1, **SETTINGS[request.param][0])


@pytest.mark.parametrize(
    ("one", "name", "workers"),
    [
        pytest.param(name, name, workers, marks=[] if seldom is None else seldom, id=f"{name}-{workers}")
        for name, workers, seldom in (
            ("epochs", 2, None),
            ("epochs", 3, None),
            ("own", 2, None),
            ("own", 3, pytest.mark.full),
            ("steps", 2, pytest.mark.full),
            ("steps", 3, None),
            ("large", 2, None),
            ("large", 3, pytest.mark.full),
            ("constant", 2, pytest.mark.full),
            ("constant", 3, pytest.mark.full),
        )
    ],
    indirect=["one"],
)
def test_the_loss_does_not_depend_on_the_workers(tmp_path, one, name, workers):
    settings, relative = SETTINGS[name]
    assert one[0].train_loss > one[-1].train_loss  # it learns, or equal losses would show nothing
    assert_follow(losses(tmp_path, workers=workers, **settings), one, relative)
