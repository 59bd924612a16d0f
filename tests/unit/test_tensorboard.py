"""Test event files with TensorBoard's own reader: those of a run in progress, and those that are published."""

import io
from pathlib import Path

import pytest
import tensorflow as tf

from mnist_job.log import Log
from mnist_job.results import tensorboard
from mnist_job.results.tensorboard import EventFiles
from mnist_job.storage.folder import OUTCOME, RunFolder
from mnist_job.training.progress import Epoch, Progress, Restart, Start
from tests.store import RUN

START = Start(2, [], "node", {})
Point = tuple[str, int, float]


def epoch(number: int) -> Epoch:
    """An epoch whose figures are exact in float32, in which TensorBoard stores them."""
    return Epoch(number, 0.5 / number, 0.25, 0.75, 0.125, 1.5, train_accuracy=0.625)


def progress(number: int, step: int) -> Progress:
    return Progress(number, step, 10, 0.5, 1000.0, 2.0)


@pytest.fixture(params=["disk", "store"])
def output(request, tmp_path) -> str:
    """Return a place on a disk, and on a file system that is treated as a remote one."""
    return str(tmp_path / "runs") if request.param == "disk" else f"store://{tmp_path}/runs"


def read(folder: Path) -> tuple[list[Point], list[int]]:
    """Return all scalars of a run of TensorBoard, file by file, and the steps from which a file replaces others."""
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    events = [event for file in files for event in tf.compat.v1.train.summary_iterator(str(file))]
    assert [event.file_version for event in events if event.file_version] == ["brain.Event:2"] * len(files)
    assert all(event.wall_time > 1e9 for event in events)
    restarts = [event.step for event in events if event.HasField("session_log")]
    return [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value], restarts


def test_a_run_has_its_epochs_and_what_was_seen_within_them(output, tmp_path):
    with RunFolder.opened(output, "job", RUN) as folder:
        with EventFiles.opened(folder, Log()) as files:
            for entry in (START, progress(1, 5), progress(1, 10), epoch(1), progress(2, 10), epoch(2)):
                files.show(entry)
        folder.publish({OUTCOME: "{}"}, folder.event_files(folder.work))
        folder.clear()
    assert read(tmp_path / "runs/job/tensorboard/train") == (
        [
            ("batch_loss", 5, 0.5),
            ("batch_images_per_second", 5, 1000),
            ("batch_loss", 10, 0.5),
            ("batch_images_per_second", 10, 1000),
            ("epoch_loss", 1, 0.5),
            ("epoch_accuracy", 1, 0.625),
            ("epoch_learning_rate", 1, 0.125),
            ("epoch_images_per_second", 1, 1000),
            ("batch_loss", 20, 0.5),
            ("batch_images_per_second", 20, 1000),
            ("epoch_loss", 2, 0.25),
            ("epoch_accuracy", 2, 0.625),
            ("epoch_learning_rate", 2, 0.125),
            ("epoch_images_per_second", 2, 1000),
        ],
        [1],
    )
    assert read(tmp_path / "runs/job/tensorboard/validation") == (
        [("epoch_loss", 1, 0.25), ("epoch_accuracy", 1, 0.75), ("epoch_loss", 2, 0.25), ("epoch_accuracy", 2, 0.75)],
        [1],
    )


def test_they_can_be_read_while_they_grow(output, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "COPYING", 1e9)  # a copy is due at once
    with RunFolder.opened(output, "job", RUN) as folder, EventFiles.opened(folder, Log()) as files:
        seen = []
        for entry in (progress(1, 5), progress(1, 6)):
            files.show(entry)
            scalars, _ = read(tmp_path / "runs/.job/tensorboard/train")
            seen.append([step for _, step, _ in scalars])
    assert seen == [[5, 5], [5, 5, 6, 6]]


def test_a_restart_or_another_process_starts_a_new_file(output, tmp_path):
    with RunFolder.opened(output, "job", RUN) as folder:
        folder.filesystem.create_dir(folder.checkpoints)  # with it, the folder is kept
        with EventFiles.opened(folder, Log()) as files:
            for entry in (START, progress(1, 10), epoch(1), progress(2, 9), Restart("lost"), START, progress(2, 3)):
                files.show(entry)
    with RunFolder.opened(output, "job", RUN) as folder, EventFiles.opened(folder, Log()) as files:
        for entry in (START, progress(3, 1)):
            files.show(entry)
    scalars, restarts = read(tmp_path / "runs/.job/tensorboard/train")
    assert restarts == [1, 11, 21]
    assert [step for tag, step, _ in scalars if tag == "batch_loss"] == [10, 19, 13, 21]


def test_another_runs_files_do_not_stay(output, tmp_path):
    for number in (1, 2):
        with RunFolder.opened(output, "job", RUN) as folder:
            with EventFiles.opened(folder, Log()) as files:
                files.show(progress(number, 1))
            folder.publish({OUTCOME: "{}"}, folder.event_files(folder.work))
            folder.clear()
    _, restarts = read(tmp_path / "runs/job/tensorboard/train")
    assert restarts == [11]


def test_a_run_that_recorded_nothing_has_none(output, tmp_path):
    with RunFolder.opened(output, "job", RUN) as folder:
        with EventFiles.opened(folder, Log()) as files:
            files.show(START)
        folder.publish({OUTCOME: "{}"}, folder.event_files(folder.work))
    assert [path.name for path in (tmp_path / "runs/job").glob("[!.]*")] == [OUTCOME]


def test_a_failed_write_is_reported_once_and_repeated_later(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "COPYING", 1e9)
    said = io.StringIO()
    with RunFolder.opened(str(tmp_path), "job", RUN) as folder:
        (tmp_path / ".job/tensorboard").touch()  # a file at the path of the folder
        with EventFiles.opened(folder, Log(said)) as files:
            files.show(progress(1, 5))
            files.show(progress(1, 6))
            (tmp_path / ".job/tensorboard").unlink()
        scalars, _ = read(tmp_path / ".job/tensorboard/train")
    assert [step for tag, step, _ in scalars if tag == "batch_loss"] == [5, 6]
    assert said.getvalue().count("TensorBoard's files are not up to date: ") == 1
    assert said.getvalue().count("\n") == 1


def test_a_value_that_is_not_finite_is_left_out(output, tmp_path):
    gone = Epoch(1, None, None, 0.75, 0.125, 1.5, train_metrics={"auc": None})
    with RunFolder.opened(output, "job", RUN) as folder:
        with EventFiles.opened(folder, Log()) as files:
            for entry in (START, progress(1, 5)._replace(train_loss=None), gone):
                files.show(entry)
        folder.publish({OUTCOME: "{}"}, folder.event_files(folder.work))
        folder.clear()
    for run, tags in (
        ("train", ["batch_images_per_second", "epoch_learning_rate", "epoch_images_per_second"]),
        ("validation", ["epoch_accuracy"]),
    ):
        points, _ = read(tmp_path / "runs/job/tensorboard" / run)
        assert [tag for tag, *_ in points] == tags
