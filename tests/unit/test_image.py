"""Test what the image is built from, without building it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
# A package, its hashes, and the packages that need it. Any other line would be an option of pip, such as an address.
NEEDED_BY = r"(?:(?:-[rc]|--override) )?[a-z0-9._-]+(?: \(pyproject\.toml(?::(?:dev|benchmark))?\))?"
LINE = re.compile(
    r"[a-z0-9._-]+==[^ ;:]+(?: ; [^:]+)? \\"
    r"|    --hash=sha256:[0-9a-f]{64}(?: \\)?"
    rf"|    # via(?: {NEEDED_BY})?|    #   {NEEDED_BY}"
)
PINNED = re.compile(r"^([a-z0-9-]+)==([^ ]+)(?: ; (.+?))? \\$", re.MULTILINE)


def packages(lock: str) -> set[tuple[str, ...]]:
    """Return name, version and marker of each locked package."""
    return set(PINNED.findall((ROOT / lock).read_text()))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_lock_names_where_its_packages_come_from(lock):
    lines = lock.read_text().splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []


def test_the_image_is_made_of_what_the_tests_ran_with():
    whole = packages("requirements.lock")
    assert len(whole) > 100
    assert {name for name, *_ in packages("requirements-cpu.lock") - whole} == {"tensorflow", "tensorflow-cpu"}
    ((_, version, _),) = {package for package in whole if package[0] == "tensorflow"}
    assert packages("requirements-cpu.lock") >= {
        ("tensorflow-cpu", version, "platform_machine == 'x86_64'"),
        ("tensorflow", version, "platform_machine != 'x86_64'"),
    }


def test_with_gpus_it_is_the_same_and_cuda():
    added = packages("requirements-gpu.lock") - packages("requirements.lock")
    assert packages("requirements.lock") <= packages("requirements-gpu.lock")
    assert {"nvidia-nccl-cu12", "nvidia-cudnn-cu12"} <= {name for name, *_ in added}
    assert all(name.startswith("nvidia-") for name, *_ in added)


def test_the_image_has_the_package_s_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nARG VERSION={project['version']}\n" in (ROOT / "Dockerfile").read_text()
