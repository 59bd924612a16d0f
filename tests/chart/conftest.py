"""Fixtures for tests in which the chart asks a cluster for something."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helm_python import Chart

from tests.chart.rendering import CHART


@pytest.fixture
def overriding(tmp_path: Path) -> Callable[[str, Any], Chart]:
    """Return a function that loads the chart with one of its named templates replaced by this JSON."""

    def load(template: str, content: Any) -> Chart:
        copy = shutil.copytree(CHART, tmp_path / "mnist-job")
        # The engine reads `_a.tpl` last, and the last definition is used.
        (copy / "templates/_a.tpl").write_text(f'{{{{ define "{template}" }}}}{json.dumps(content)}{{{{ end }}}}')
        return Chart.load(copy)

    return load
