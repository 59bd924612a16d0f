"""Test private temporary folders: one for a process and its children, removed at the end; nothing else is touched."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mnist_job.system import temporary


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Return the temporary folder that TMPDIR names."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def made(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_temporary_files_are_in_one_folder_that_is_removed(place):
    with temporary.private() as folder:
        with tempfile.NamedTemporaryFile(delete=False) as file, temporary.private() as inner:
            assert inner == folder == Path(file.name).parent == Path(os.environ["TMPDIR"])
        tempfile.mkdtemp()
        (folder / "read-only").mkdir(mode=0o500)
        (folder / "link").symlink_to(place)
        assert (folder.parent, len(made(place)), folder.stat().st_mode & 0o777) == (place, 1, 0o700)
        with temporary.as_before():
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(place)
    assert made(place) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(place)


def abandon(place: Path) -> Path:
    """Return the folder of a process that was killed."""
    script = (
        "import os; from mnist_job.system import temporary\n"
        "with temporary.private() as it: print(it, flush=True); os._exit(1)"
    )
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    return Path(left.stdout.strip())


def test_folders_of_killed_processes_are_removed_and_those_in_use_stay(place):
    folder = abandon(place)
    (folder / "session/logs").mkdir(parents=True)
    (folder / "session/logs/raylet.out").write_text("")
    script = (
        "from mnist_job.system import temporary\nwith temporary.private() as folder: print(folder, flush=True); input()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        in_use = Path(other.stdout.readline().strip())
        assert made(place) == [in_use.name]
        with temporary.private() as mine:
            assert made(place) == sorted([in_use.name, mine.name])
        other.stdin.write("\n")
    assert made(place) == []


def of_another_kind(folder: Path) -> None:
    (folder / temporary.MARKER).unlink()


def of_another_user(folder: Path) -> None:
    os.chown(folder, 4321, 4321)


def with_the_marker_of_another_user(folder: Path) -> None:
    os.chown(folder / temporary.MARKER, 4321, 4321)


def with_a_link_for_a_marker(folder: Path) -> None:
    (folder / temporary.MARKER).rename(folder / "elsewhere")
    (folder / temporary.MARKER).symlink_to(folder / "elsewhere")


def of_another_name(folder: Path) -> None:
    folder.rename(folder.with_name("precious"))


def a_link(folder: Path) -> None:
    folder.rename(folder.with_name("precious"))
    folder.symlink_to(folder.with_name("precious"))


@pytest.mark.parametrize(
    "change",
    [
        of_another_kind,
        of_another_user,
        with_the_marker_of_another_user,
        with_a_link_for_a_marker,
        of_another_name,
        a_link,
    ],
)
def test_a_folder_that_is_not_shown_to_be_its_own_stays(place, change):
    folder = abandon(place)
    (folder / "file").write_text("mine")
    try:
        change(folder)
    except PermissionError:
        pytest.skip("to give a file to another user takes root")
    before = sorted(place.rglob("*"))
    with temporary.private():
        pass
    assert sorted(place.rglob("*")) == before


def test_the_next_place_is_taken_where_the_first_cannot_be_written(place):
    with temporary.private([str(place / "none")]) as folder:
        assert folder.parent == place
