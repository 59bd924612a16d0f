"""The run's folder: whole or not at all, on a disk and on an object store."""

import json
from pathlib import Path

import pytest
from pyarrow import fs

from job import report
from job.errors import DeliveryError, UsageError
from job.folder import OUTCOME, RunFolder
from job.outcome import TrainingRecord
from job.storage import File
from tests.unit.test_metrics import ROW, outcome

FILES = {OUTCOME: "{}", "metrics.prom": "m 1\n"}


@pytest.fixture(params=["disk", "store"])
def output(request, tmp_path) -> str:
    """A place below which nothing exists: on a disk, and on a file system that is treated as a remote one."""
    return str(tmp_path / "a/b") if request.param == "disk" else f"local://{tmp_path}/a/b"


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_appears_with_all_files_and_no_trace_of_the_work(output, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    folder = RunFolder.create(output, "job", "run1")
    folder.publish(FILES, {"model.keras": File(fs.LocalFileSystem(), str(tmp_path / "model"))})
    folder.discard()
    assert listing(tmp_path / "a") == ["b/job/metrics.prom", "b/job/model.keras", "b/job/outcome.json"]
    assert (tmp_path / "a/b/job/model.keras").read_bytes() == b"weights"
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["job"]


def test_a_later_run_replaces_it(output, tmp_path):
    for run in ("1", "2"):
        folder = RunFolder.create(output, "job", run)
        folder.publish({OUTCOME: run}, {})
        folder.discard()
    assert (tmp_path / "a/b/job/outcome.json").read_text() == "2"
    assert listing(tmp_path / "a") == ["b/job/outcome.json"]


def test_a_run_that_publishes_nothing_leaves_nothing(output, tmp_path):
    RunFolder.create(output, "job", "run1").discard()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_publishes_nothing_leaves_what_was_there(output, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/other").write_text("kept")
    RunFolder.create(output, "job", "run1").discard()
    assert listing(tmp_path) == ["a/other"]
    assert not (tmp_path / "a/b").exists()


def test_a_failure_to_publish_leaves_the_former_result(output, tmp_path):
    first = RunFolder.create(output, "job", "1")
    first.publish(FILES, {})
    first.discard()
    second = RunFolder.create(output, "job", "2")
    with pytest.raises(DeliveryError, match="cannot be written"):
        second.publish({OUTCOME: "new"}, {"model.keras": File(fs.LocalFileSystem(), str(tmp_path / "none"))})
    second.discard()
    assert (tmp_path / "a/b/job/outcome.json").read_text() == "{}"


@pytest.mark.parametrize("place", ["{}/file/below", "nowhere://bucket", "/proc/none"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output"):
        RunFolder.create(place.format(tmp_path), "job", "run")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_outcome_as_json_holds_everything_and_no_nan():
    content = json.loads(outcome().to_json())
    assert content["identity"]["config"]["data"] == "digits"
    assert content["evaluation"]["accuracy"] == 0.75
    assert content["training"]["history"] == [ROW._asdict()]
    with pytest.raises(ValueError, match="JSON"):
        outcome(training=TrainingRecord(1, 0, 1.0, [ROW._replace(train_loss=float("nan"))])).to_json()


def test_the_history_has_a_row_an_epoch():
    assert outcome().history_csv() == (
        "epoch,train_loss,validation_loss,validation_accuracy,learning_rate,seconds\n1,0.5,0.4,0.9,0.001,1.5\n"
    )


def test_the_report_shows_the_result_and_escapes_what_it_is_given():
    page = report.render(outcome(exit_code=7, reason="<script>"))
    assert "0.7500" in page
    assert "0.2500" in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/png;base64,") == 2
    assert report.render(outcome(training=None)).count("data:image/png;base64,") == 1
