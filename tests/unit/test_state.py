"""Test what a run does with what runs of the same name have left: resume it, deliver it again, or refuse it."""

import json
from dataclasses import replace

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.errors import UsageError
from mnist_job.results import earlier
from mnist_job.results.earlier import Record
from mnist_job.results.outcome import Identity
from mnist_job.storage.folder import OUTCOME, RunFolder
from tests.store import RUN
from tests.unit.test_metrics import outcome

CONFIG = JobConfig(data="digits")
ADDED = {"patience", "keep", "monitor", "callbacks"}  # settings that the first runs did not have


def record(sha256: str = "ab", **changes) -> Record:
    return Record.of(CONFIG.model_copy(update=changes).model_dump(mode="json"), sha256)


def settle(folder: RunFolder, mine: Record, run: str = "2", *, force: bool = False, dry_run: bool = False):
    return earlier.settle(folder, mine, run, force=force, dry_run=dry_run)


@pytest.fixture
def folder(tmp_path):
    with RunFolder.opened(str(tmp_path), "job", RUN) as folder:
        yield folder


@pytest.fixture
def unfinished(folder) -> RunFolder:
    settle(folder, record(), "1")
    folder.filesystem.create_dir(f"{folder.checkpoints}/0000001-{RUN}")
    return folder


@pytest.fixture
def finished(folder):
    ended = outcome(identity=replace(Identity.of(CONFIG), data_sha256="ab"))
    folder.publish({OUTCOME: ended.to_json()}, {})
    return folder, ended


def test_a_first_run_begins_and_says_what_it_is(folder):
    assert settle(folder, record()) is None
    assert json.loads(folder.read(f"{folder.work}/run.json") or b"")["run"] == "2"


def test_a_dry_run_writes_nothing(folder):
    assert settle(folder, record(), dry_run=True) is None
    assert folder.read(f"{folder.work}/run.json") is None


def test_an_unfinished_run_is_resumed(unfinished):
    assert settle(unfinished, record()) is None
    assert unfinished.has_checkpoints()


def test_a_finished_run_is_known(finished):
    folder, ended = finished
    assert settle(folder, record()) == ended
    assert folder.read(f"{folder.work}/run.json") is None


@pytest.mark.parametrize("state_of", ["unfinished", "finished"])
@pytest.mark.parametrize(
    ("mine", "difference"),
    [
        (record(epochs=11), "--epochs is 11, was 10"),
        (record(hidden_layers=(1, 2)), "--hidden-layers is 1,2, was 128,64"),
        (record(seed=1, workers=3), "--workers is 3, was 2; --seed is 1, was 0"),
        (record("cd"), "--data holds other images or labels"),
    ],
)
def test_another_run_is_refused_with_what_differs_unless_forced(request, state_of, mine, difference):
    there = request.getfixturevalue(state_of)
    folder = there[0] if state_of == "finished" else there
    with pytest.raises(UsageError) as refusal:
        settle(folder, mine)
    assert f"differs: {difference}. Take another --name, or --force" in str(refusal.value)
    assert folder.has_checkpoints() == (state_of == "unfinished")
    assert settle(folder, mine, force=True) is None
    assert not folder.has_checkpoints()


@pytest.mark.parametrize("state_of", ["unfinished", "finished"])
def test_old_runs_without_a_recorded_split_used_the_tail(folder, state_of):
    former = CONFIG.model_copy(update={"validation_fraction": 0.2}).model_dump(mode="json")
    del former["validation_split"]
    ended = outcome(identity=replace(Identity.of(CONFIG), config=former, data_sha256="ab"))
    if state_of == "finished":
        folder.publish({OUTCOME: ended.to_json()}, {})
    else:
        settle(folder, Record.of(former, "ab"), "1")
    tail, stratified = (record(validation_fraction=0.2, validation_split=split) for split in ("tail", "stratified"))
    with pytest.raises(UsageError, match="differs: --validation-split is stratified, was tail"):
        settle(folder, stratified)
    assert settle(folder, tail) == (ended if state_of == "finished" else None)


def test_old_runs_that_knew_no_early_end_are_resumed_with_the_defaults(folder):
    former = {name: value for name, value in record().settings.items() if name not in ADDED}
    settle(folder, Record(former, "ab"), "1")
    with pytest.raises(UsageError, match="differs: --patience is 3, was None; --keep is best, was last"):
        settle(folder, record(patience=3, keep="best"))
    assert settle(folder, record()) is None


def test_what_cannot_change_the_result_may_differ(finished):
    folder, ended = finished
    changes = {"data": "elsewhere.npz", "pushgateway_url": "http://x", "min_accuracy": 0.5, "verbose": True}
    assert settle(folder, record(**changes)) == ended


def test_a_forced_run_that_was_lost_is_resumed_in_spite_of_the_old_result(finished):
    folder, _ = finished
    settle(folder, record(), force=True)
    folder.filesystem.create_dir(folder.checkpoints)
    assert settle(folder, record()) is None
    assert folder.has_checkpoints()


def test_a_run_that_was_killed_after_its_result_was_there_is_finished(finished):
    folder, ended = finished
    settle(folder, record(), ended.identity.run, force=True)
    folder.filesystem.create_dir(folder.checkpoints)
    assert settle(folder, record()) == ended


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"run": "1", "record": {}}', None])
def test_damaged_state_is_refused_and_starts_no_new_run(unfinished, content):
    path = f"{unfinished.work}/run.json"
    unfinished.filesystem.delete_file(path)
    if content is not None:
        unfinished.write("run.json", content)
    with pytest.raises(UsageError, match=r"run\.json: is missing or damaged; --force"):
        settle(unfinished, record())
    assert unfinished.has_checkpoints()


def test_a_damaged_result_is_refused(folder):
    folder.publish({OUTCOME: "{"}, {})
    with pytest.raises(UsageError, match=r"outcome\.json: is damaged; --force"):
        settle(folder, record())
