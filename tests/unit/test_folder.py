"""Test that the run's folder is published completely or not at all, on a disk and on an object store."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pyarrow import fs

from mnist_job.errors import DeliveryError, UsageError
from mnist_job.results.outcome import Outcome, TrainingRecord
from mnist_job.storage import owned
from mnist_job.storage.files import File
from mnist_job.storage.folder import OUTCOME, RunFolder
from mnist_job.storage.owned import MARKER, Mark
from tests.store import LATER, RUN
from tests.unit.test_metrics import ROW, outcome

FILES = {OUTCOME: "{}", "metrics.prom": "m 1\n"}


@pytest.fixture(params=["disk", "store"])
def output(request, tmp_path) -> str:
    """Return a place where nothing exists yet: on a disk, and on a file system that is treated as a remote one."""
    return str(tmp_path / "a/b") if request.param == "disk" else f"store://{tmp_path}/a/b"


def listing(folder: Path) -> list[str]:
    """Return all files, without the markers of folders."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not path.endswith(MARKER)]


def test_it_appears_with_all_files_and_no_trace_of_the_work(output, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    with RunFolder.opened(output, "job", RUN) as folder:
        folder.publish(FILES, {"model.keras": File(fs.LocalFileSystem(), str(tmp_path / "model"))})
    assert listing(tmp_path / "a") == ["b/job/metrics.prom", "b/job/model.keras", "b/job/outcome.json"]
    assert (tmp_path / "a/b/job/model.keras").read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["job"]


def test_a_later_run_replaces_it(output, tmp_path):
    for run in ("1", "2"):
        with RunFolder.opened(output, "job", RUN) as folder:
            folder.publish({OUTCOME: run}, {})
    assert (tmp_path / "a/b/job/outcome.json").read_text() == "2"
    assert listing(tmp_path / "a") == ["b/job/outcome.json"]


def test_a_run_that_publishes_nothing_leaves_nothing(output, tmp_path):
    with RunFolder.opened(output, "job", RUN):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_publishes_nothing_leaves_what_was_there(output, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/other").write_text("kept")
    with RunFolder.opened(output, "job", RUN):
        pass
    assert listing(tmp_path) == ["a/other"]
    assert not (tmp_path / "a/b").exists()


def test_a_failure_to_publish_leaves_the_former_result(output, tmp_path):
    with RunFolder.opened(output, "job", RUN) as first:
        first.publish(FILES, {})
    with RunFolder.opened(output, "job", RUN) as second, pytest.raises(DeliveryError, match="cannot be written"):
        second.publish({OUTCOME: "new"}, {"model.keras": File(fs.LocalFileSystem(), str(tmp_path / "none"))})
    assert (tmp_path / "a/b/job/outcome.json").read_text() == "{}"


def test_a_model_that_is_not_the_one_that_was_evaluated_is_not_published(output, tmp_path):
    """The model in the checkpoint was replaced after its evaluation."""
    model = File(fs.LocalFileSystem(), str(tmp_path / "model"))
    Path(model.path).write_bytes(b"weights")
    evaluated = {"model.keras": model.sha256()}
    with RunFolder.opened(output, "job", RUN) as folder:
        folder.publish(FILES, {"model.keras": model}, evaluated)
        Path(model.path).write_bytes(b"other")
        with pytest.raises(DeliveryError, match=r"model\.keras is not the one that was evaluated"):
            folder.publish({OUTCOME: "new"}, {"model.keras": model}, evaluated)
    assert (tmp_path / "a/b/job/outcome.json").read_text() == "{}"
    assert (tmp_path / "a/b/job/model.keras").read_bytes() == b"weights"


@pytest.mark.parametrize("place", ["{}/file/below", "nowhere://bucket", "/proc/none"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output"), RunFolder.opened(place.format(tmp_path), "job", RUN):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_work_with_checkpoints_stays_and_is_what_the_next_run_finds(output, tmp_path):
    with RunFolder.opened(output, "job", RUN) as folder:
        folder.write("run.json", b"{}")
        folder.filesystem.create_dir(folder.checkpoints)
    with RunFolder.opened(output, "job", RUN) as folder:
        assert folder.read(f"{folder.work}/run.json") == b"{}"
        folder.clear()
    assert list((tmp_path / "a/b").iterdir()) == []


def test_two_runs_of_a_name_do_not_get_into_each_others_way(tmp_path):
    with (
        RunFolder.opened(str(tmp_path), "job", RUN),
        RunFolder.opened(str(tmp_path), "other", RUN),
        pytest.raises(UsageError, match="job: another run of this name is in progress"),
        RunFolder.opened(str(tmp_path), "job", RUN),
    ):
        pass
    with RunFolder.opened(str(tmp_path), "job", RUN):
        pass


def test_what_a_killed_run_was_writing_is_replaced(tmp_path):
    with RunFolder.opened(str(tmp_path), "job", RUN) as folder:
        folder.publish(FILES, {})
    owned.make_marked(str(tmp_path / ".job"), Mark("job", RUN))
    for rest in ("new", "old"):
        (tmp_path / ".job" / rest).mkdir(parents=True)
        (tmp_path / ".job" / rest / "model.keras").touch()
    with RunFolder.opened(str(tmp_path), "job", LATER) as folder:
        folder.publish(FILES, {})
    assert listing(tmp_path) == ["job/metrics.prom", "job/outcome.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["job"]


def test_the_outcome_as_json_holds_everything_and_no_nan():
    content = json.loads(outcome().to_json())
    assert content["identity"]["config"]["data"] == "digits"
    assert content["evaluation"]["accuracy"] == 0.75
    assert content["training"]["history"] == [asdict(ROW)]
    with pytest.raises(ValueError, match="JSON"):
        outcome(training=TrainingRecord(1, 0, 1.0, [replace(ROW, train_loss=float("nan"))])).to_json()


def test_the_outcome_is_read_back_as_it_was():
    ended = outcome()
    assert Outcome.from_json(ended.to_json().encode()) == ended
    for damaged in (b"", b"{}", ended.to_json().encode()[:-3]):
        with pytest.raises(ValueError, match="validation error"):
            Outcome.from_json(damaged)


def test_the_history_has_a_row_an_epoch():
    assert outcome().history_csv() == (
        "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,learning_rate,seconds\n"
        "1,0.5,0.8,0.4,0.9,0.001,1.5\n"
    )
