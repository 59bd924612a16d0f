"""Test that data-parallel training is the same training: 1, 2 and 3 workers have the same losses."""

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.distributed import cluster, trainer
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
    config = JobConfig(data=sources.absolute("digits"), cpus_per_worker=0.5, seed=3, **settings)
    with RunFolder.opened(str(tmp_path), "job", RUN) as folder:
        checkpoints = Checkpoints(folder.filesystem, folder.checkpoints, RUN)
        checked = dataset.check(config).training_facts
        history = trainer.train(config, checked, folder, checkpoints, Clock(), lambda entry: None).checkpoint.history
        folder.clear()
    return history


def assert_follow(history: list[Epoch], reference: list[Epoch], relative: float) -> None:
    for name in ("train_loss", "validation_loss"):
        ours, theirs = ([getattr(row, name) for row in rows] for rows in (history, reference))
        assert ours == pytest.approx(theirs, rel=relative), name
    correct, expected = ([round(row.train_accuracy * BATCH_OF_ALL) for row in rows] for rows in (history, reference))
    assert correct == pytest.approx(expected, abs=1)  # one image can be classified differently because of rounding
    assert [row.learning_rate for row in history] == [row.learning_rate for row in reference]


@pytest.mark.parametrize(
    ("settings", "relative"),
    [
        # 50 is not divisible by 3 workers, and 1,149 images are not divisible by 50
        ({"epochs": 4, "batch_size": 50}, 1e-4),
        pytest.param(
            {"epochs": 2, "batch_size": 50, "learning_rate_schedule": "constant"}, 1e-4, marks=pytest.mark.full
        ),
        ({"epochs": 5, "batch_size": BATCH_OF_ALL}, 1e-6),  # one step per epoch, to compare the first steps
        # more gradients than two workers exchange in one message
        ({"epochs": 2, "batch_size": 50, "hidden_layers": (1024, 256)}, 1e-4),
    ],
    ids=["epochs", "constant", "steps", "large"],
)
def test_the_loss_does_not_depend_on_the_workers(tmp_path, settings, relative):
    one = losses(tmp_path, workers=1, **settings)
    assert one[0].train_loss > one[-1].train_loss  # it learns, or equal losses would show nothing
    for workers in (2, 3):
        assert_follow(losses(tmp_path, workers=workers, **settings), one, relative)
