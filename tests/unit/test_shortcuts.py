"""Test the private parts of Ray: used in one place, checked against the installed Ray, not used if they do not fit."""

import ast
from pathlib import Path

import pytest

import mnist_job
from mnist_job.distributed import fitting
from mnist_job.distributed.shortcuts import controller, local_ray

PACKAGE = Path(mnist_job.__file__).parent


def is_private(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "ray" and any(part.startswith("_") or part == "internal_kv" for part in parts)


def test_nothing_else_imports_them():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(map(is_private, names)):
                found.add(str(path.relative_to(PACKAGE).parent))
    assert found == {"distributed/shortcuts"}


def test_the_installed_ray_has_them():
    assert fitting.quick_trainer() is controller.Trainer
    assert None not in (local_ray.services, local_ray.utils, local_ray.Node, local_ray.GlobalState)


def test_a_ray_with_another_form_of_them_is_used_by_its_public_interface(monkeypatch):
    monkeypatch.setitem(controller._SIGNATURES, controller.DefaultFailurePolicy.make_decision, ["self", "error", "new"])
    assert fitting.quick_trainer() is None


def test_a_ray_that_takes_other_arguments_is_used_by_its_public_interface(monkeypatch):
    monkeypatch.setitem(controller._CALLS, controller.TrainController.__init__, {"scaling_policy", "policies"})
    assert fitting.quick_trainer() is None


@pytest.mark.parametrize("part", ["services", "utils", "Node", "GlobalState"])
def test_a_ray_without_one_of_them_starts_as_it_does(monkeypatch, tmp_path, part):
    monkeypatch.setattr(local_ray, part, None)
    replacements = local_ray.signals_kept() + local_ray.unseen(tmp_path) + local_ray.lean()
    with local_ray.replaced(replacements):
        pass
