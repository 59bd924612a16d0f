"""Check that tests/e2e/test_walkthroughs.py runs all commands of ops/walkthroughs.md."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import render
from tests.documents import block
from tests.e2e.kube import merge

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "ops/walkthroughs.md"
NOT_RUN = {"kind"}  # it creates the cluster; the document says that the tests do not run it
IMAGE = {"IMAGE": "registry.example.com/mnist-job", "TAG": "0.1.0"}
FENCED = re.compile(r"(?:^<!-- block: (?P<name>.+?) -->\n)?^```(?P<language>\w+)\n.*?^```$", re.M | re.S)


def commands() -> list[str | None]:
    """Return the names of all blocks of commands; None for a block without a name."""
    return [found["name"] for found in FENCED.finditer(DOCUMENT.read_text()) if found["language"] == "sh"]


def test_every_command_is_run_on_a_cluster():
    source = ast.parse((ROOT / "tests/e2e/test_walkthroughs.py").read_text())
    strings = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert len(commands()) == len(set(commands()))
    assert set(commands()) - strings == NOT_RUN
    assert not NOT_RUN & strings
    assert "**only that block is not run by the tests.**" in DOCUMENT.read_text()


@pytest.mark.parametrize("name", ["gpu", "nightly"])
def test_the_chart_takes_the_values(name, tmp_path):
    script = block("laptop values", DOCUMENT) + block(f"{name} values", DOCUMENT)
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=IMAGE | {"PATH": os.environ["PATH"]}, check=True)
    laptop, added = (yaml.safe_load((tmp_path / f"{file}.yaml").read_text()) for file in ("laptop", name))
    release = render(merge(laptop, added))
    head = release.cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["image"] == "registry.example.com/mnist-job:0.1.0" + ("-gpu" if name == "gpu" else "")
