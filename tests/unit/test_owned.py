"""Test that the program replaces and removes nothing that it did not write, for all names and all ends of a run."""

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from mnist_job.cli.main import main
from mnist_job.config.settings import JobConfig
from mnist_job.errors import DataError, DeliveryError, UsageError
from mnist_job.results import earlier
from mnist_job.results.earlier import Record
from mnist_job.results.outcome import Identity
from mnist_job.storage import claim, owned
from mnist_job.storage.folder import LOCK, OUTCOME, RECORD, RunFolder
from mnist_job.storage.owned import MARKER, Mark
from tests.store import LATER, RUN
from tests.unit.test_metrics import outcome

CONFIG = JobConfig(data="digits")
MINE = Record.of(CONFIG.model_dump(mode="json"), "ab")
NAME = "precious"


def snapshot(folder: Path) -> dict[str, object]:
    """Return what is at each path below a folder: a link's target, a file's content, or None for a folder."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def publish(folder: RunFolder) -> None:
    ended = outcome(identity=replace(Identity.of(CONFIG), name=NAME, data_sha256="ab"))
    folder.publish({OUTCOME: ended.to_json(), "metrics.prom": "m 1\n"}, {})
    folder.clear()


def leave_result(output: str) -> None:
    with RunFolder.opened(output, NAME, RUN) as folder:
        publish(folder)


def leave_unfinished(output: str) -> None:
    with RunFolder.opened(output, NAME, RUN) as folder:
        earlier.settle(folder, MINE, RUN, force=True, dry_run=False)
        checkpoint = f"{folder.checkpoints}/0000001-{RUN}"
        folder.filesystem.create_dir(checkpoint, recursive=True)
        folder.write(f"checkpoints/0000001-{RUN}/model.keras", b"weights")


def leave_nothing(_: str) -> None:
    pass


# Each function ends a run of NAME in another way.


def ends_dry(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER, dry_run=True) as folder:
        earlier.settle(folder, MINE, LATER, force=False, dry_run=True)


def ends_dry_with_force(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER, dry_run=True, replaces=True) as folder:
        earlier.settle(folder, MINE, LATER, force=True, dry_run=True)


def ends_with_bad_data(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER):
        raise DataError("no such file")


def ends_well(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER) as folder:
        if earlier.settle(folder, MINE, LATER, force=False, dry_run=False) is None:
            publish(folder)


def ends_well_with_force(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER, replaces=True) as folder:
        earlier.settle(folder, MINE, LATER, force=True, dry_run=False)
        publish(folder)


def is_evaluation(output: str) -> None:
    with RunFolder.opened(output, NAME, LATER, replaces=True) as folder:
        earlier.check_for_evaluation(folder)
        publish(folder)


ENDINGS = (ends_dry, ends_dry_with_force, ends_with_bad_data, ends_well, ends_well_with_force, is_evaluation)

# Files of a user below OUTPUT: with their own names, or with the program's names where it does not write them.
PLACES = (
    NAME,
    f".{NAME}",
    "other",
    *(f"{NAME}/{path}" for path in ("notes.txt", "report.html", "tensorboard/train/mine", "export/model", MARKER)),
    *(
        f".{NAME}/{path}"
        for path in ("notes.txt", "checkpoints/notes", f"checkpoints/0000001-{RUN}/mine", "new/mine", "old/a/b", LOCK)
    ),
)


def put(path: Path, kind: str, elsewhere: Path) -> None:
    with suppress(OSError):  # there is already something at the path or above it
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "file" if not path.exists():
                path.write_text("mine")
            case "empty folder":
                path.mkdir()
            case "folder":
                path.mkdir()
                (path / "mine.txt").write_text("mine")
            case "link to a folder":
                path.symlink_to(elsewhere)
            case "link to a file":
                path.symlink_to(elsewhere / "file")
            case "broken link":
                path.symlink_to(elsewhere / "none")


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


KINDS = ("file", "empty folder", "folder", "link to a folder", "link to a file", "broken link")


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=st.sampled_from((leave_nothing, leave_result, leave_unfinished)),
    foreign=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(KINDS)), max_size=3),
    ending=st.sampled_from(ENDINGS),
    on_store=st.booleans(),
)
def test_files_of_users_stay_unchanged(
    before: Callable[[str], None],
    foreign: list[tuple[str, str]],
    ending: Callable[[str], None],
    on_store: bool,
) -> None:
    with temporary() as folder:
        elsewhere, output = folder / "elsewhere", folder / "a/output"
        before(place := f"store://{output}" if on_store else str(output))
        ours = snapshot(folder)
        elsewhere.mkdir()
        (elsewhere / "file").write_text("mine")
        for where, kind in foreign:
            if not on_store or "link" not in kind:  # a store has no links
                put(output / where, kind, elsewhere)
        with_theirs = snapshot(folder)
        theirs = {path: content for path, content in with_theirs.items() if ours.get(path, ...) != content}
        refused = False
        try:
            ending(place)
        except (UsageError, DataError) as error:
            refused = isinstance(error, UsageError)
        after = snapshot(folder)
        in_ours = {str(output / NAME), str(output / f".{NAME}"), str(output), str(output.parent)}
        kept = {path: content for path, content in theirs.items() if not (on_store and is_empty(path, with_theirs))}
        assert {path: after.get(path, ...) for path in kept} == kept
        if "dry" in ending.__name__ or refused:
            assert after == with_theirs
        else:
            assert {p for p in after if not any(p == own or p.startswith(f"{own}/") for own in in_ours)} == {
                p for p in with_theirs if not any(p == own or p.startswith(f"{own}/") for own in in_ours)
            }


def is_empty(path: str, tree: dict[str, object]) -> bool:
    """Return whether a folder contains no files. Such a folder does not exist on an object store."""
    return tree[path] is None and not any(
        other.startswith(f"{path}/") and content is not None for other, content in tree.items()
    )


@pytest.mark.parametrize("command", ["run", "evaluate"])
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
@pytest.mark.parametrize("name", ["git", "venv", "ssh", NAME])
def test_a_folder_of_somebody_else_is_refused_at_once(tmp_path, monkeypatch, capsys, command, flags, name):
    """If these command lines were not refused, the program would look for data that do not exist."""
    importlib.import_module("mnist_job.pipeline.job")  # here, because matplotlib writes its cache to HOME
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (".git", ".venv/bin", ".ssh", NAME):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".ssh/id").write_text("mine")
    (tmp_path / NAME / "mine.txt").write_text("mine")
    before = snapshot(tmp_path)
    force = ("--force",) if command == "run" else ("--model", "none.keras")
    code = main([command, *flags, *force, "--data", "none.npz", "--output", "~", "--name", name])
    where = tmp_path / (name if name == NAME else f".{name}")
    assert (code, capsys.readouterr().err) == (
        2,
        f"mnist-job: {where}: this folder is in the way, and mnist-job did not make it; move it, or take another "
        "--name or --output\n",
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", ["{}", "store://{}"])
def test_a_result_with_a_file_of_the_users_is_refused_before_it_is_replaced_and_named(tmp_path, place):
    output = place.format(tmp_path)
    leave_result(output)
    (tmp_path / NAME / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    ends_well(output)  # it has already been done, and nothing is replaced
    assert snapshot(tmp_path) == before
    with pytest.raises(UsageError, match=rf"{NAME}/notes\.txt: mnist-job did not write this, .* move it, or take"):
        ends_well_with_force(output)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", ["{}", "store://{}"])
def test_a_file_that_comes_while_a_run_is_in_progress_is_not_lost(tmp_path, place):
    output = place.format(tmp_path)
    leave_result(output)
    with RunFolder.opened(output, NAME, LATER, replaces=True) as folder:
        (tmp_path / NAME / "notes.txt").write_text("mine")
        (tmp_path / f".{NAME}/notes.txt").write_text("mine")
        with pytest.raises(DeliveryError, match=r"notes\.txt: mnist-job did not write this"):
            publish(folder)
    assert (tmp_path / NAME / "notes.txt").read_text() == "mine"
    assert (tmp_path / f".{NAME}/notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=rf"\.{NAME}/notes\.txt: mnist-job did not write this"):
        ends_well(output)
    (tmp_path / NAME / "notes.txt").unlink()
    (tmp_path / f".{NAME}/notes.txt").unlink()
    ends_well_with_force(output)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_folder_that_comes_while_a_run_is_in_progress_is_not_replaced(tmp_path):
    with RunFolder.opened(str(tmp_path), NAME, RUN) as folder:
        (tmp_path / NAME).mkdir()
        with pytest.raises(DeliveryError, match="this folder is in the way"):
            publish(folder)
    assert list((tmp_path / NAME).iterdir()) == []


def test_a_rename_replaces_nothing(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("none")
    for target in ("empty", "link"):
        with pytest.raises(FileExistsError):
            owned.rename_new(str(tmp_path / "new"), str(tmp_path / target))
    owned.rename_new(str(tmp_path / "new"), str(tmp_path / "done"))
    assert (tmp_path / "done/file").exists()


@pytest.mark.parametrize("place", ["{}", "store://{}"])
def test_folders_of_versions_without_markers_are_recognized(tmp_path, place):
    output = place.format(tmp_path)
    leave_result(output)
    leave_unfinished(output)
    for marker in tmp_path.rglob(MARKER):
        marker.unlink()
    with RunFolder.opened(output, NAME, LATER) as folder:
        assert folder.has_checkpoints()
        publish(folder)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME / MARKER).exists()


@pytest.mark.parametrize("content", [b"{}", b"{", None])
def test_a_result_without_a_marker_and_a_readable_outcome_is_refused(tmp_path, content):
    leave_result(str(tmp_path))
    (tmp_path / NAME / MARKER).unlink()
    (tmp_path / NAME / OUTCOME).unlink()
    if content is not None:
        (tmp_path / NAME / OUTCOME).write_bytes(content)
    with pytest.raises(UsageError, match="this folder is in the way"):
        ends_well_with_force(str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", Mark("other", RUN).to_json(), json.dumps({"name": NAME, "run": RUN}).encode()]
)
def test_a_marker_of_another_job_or_of_nobody_shows_nothing(tmp_path, content):
    (tmp_path / f".{NAME}").mkdir()
    (tmp_path / f".{NAME}" / MARKER).write_bytes(content)
    with pytest.raises(UsageError, match="this folder is in the way"):
        ends_well(str(tmp_path))


def test_an_evaluation_does_not_replace_a_trained_model(tmp_path):
    leave_result(str(tmp_path))
    with pytest.raises(UsageError, match="a run of this name, with its model, is there"):
        is_evaluation(str(tmp_path))
    shutil.rmtree(tmp_path / NAME)
    leave_unfinished(str(tmp_path))
    with pytest.raises(UsageError, match="an unfinished run of this name is there"):
        is_evaluation(str(tmp_path))


def test_only_folders_that_the_run_made_and_nobody_uses_are_removed(tmp_path):
    with RunFolder.opened(str(tmp_path / "a/b/c"), NAME, RUN):
        (tmp_path / "a/theirs").mkdir()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


def test_what_a_run_left_beside_its_folder_when_it_was_killed_is_removed_by_the_next(tmp_path):
    """It finds only what has this job's marker, and nothing that another run may be creating now."""
    names = [f".{NAME}.{LATER}.{end}" for end in ("new", "old")]
    marks = {name: Mark(NAME, LATER) for name in names}
    marks |= {f".{NAME}.{RUN}.new": Mark(NAME, RUN), f".other.{RUN}.new": Mark("other", RUN)}
    for name, mark in marks.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_bytes(mark.to_json())
    (tmp_path / f".{NAME}.{RUN}.old").mkdir()  # nothing shows who wrote it
    for name in (*names, f".other.{RUN}.new", f".{NAME}.{RUN}.old"):
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f".{NAME}.20260103T000000Z-0003.new").symlink_to(names[0])
    with RunFolder.opened(str(tmp_path), NAME, "20260104T000000Z-0004"):
        left = sorted(path.name for path in tmp_path.iterdir() if path.name != f".{NAME}")
    assert left == sorted(
        [f".{NAME}.{RUN}.new", f".other.{RUN}.new", f".{NAME}.{RUN}.old", f".{NAME}.20260103T000000Z-0003.new"]
    )


def test_what_the_program_writes_is_what_it_may_remove():
    """If a later version writes a file that the patterns do not contain, it would be refused as a user's file."""
    assert all(map(owned.in_work, (LOCK, RECORD, MARKER, f"{RECORD}.new", f"new/{OUTCOME}.new", f"ray-{RUN}/a/b")))
    assert not any(
        map(owned.in_work, ("ray-mine/", "checkpoints/0000001-mine/", "lock@", "notes.txt", "new/notes.txt"))
    )
    assert claim.LOCK == LOCK


def test_links_are_not_followed_when_a_folder_is_removed(tmp_path):
    elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
    (elsewhere / "train").mkdir(parents=True)
    (elsewhere / "train/events.1").write_text("mine")
    work.mkdir()
    (work / "tensorboard").symlink_to(elsewhere)
    (work / "lock").symlink_to(elsewhere / "train/events.1")
    before = snapshot(tmp_path)
    owned.remove(fs.LocalFileSystem(), str(work), lambda _: True)
    assert snapshot(tmp_path) == before
