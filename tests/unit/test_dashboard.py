"""The Grafana dashboard: its queries parse, and ask for metrics that exist."""

import json
import re
import subprocess
from pathlib import Path

import yaml

from job import metrics
from tests.conftest import tool
from tests.unit.test_metrics import outcome

DASHBOARD = json.loads((Path(__file__).parents[2] / "charts/mnist-job/files/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def test_every_query_parses(tmp_path):
    queries = [query.replace("$__range", "1h") for query in QUERIES]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    check = subprocess.run([tool("promtool"), "check", "rules", file], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_metric_of_the_job_is_asked_for_and_no_other():
    emitted = {family.name for family in metrics.measured(outcome()).collect()}
    asked = set(re.findall(r"mnist_job_\w+", " ".join(QUERIES)))
    assert asked == emitted - {"mnist_job_test_samples"}
    assert set(re.findall(r"mnist_job_\w+", json.dumps(DASHBOARD["templating"]))) <= emitted


def test_rays_metrics_are_those_of_the_locked_ray():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = set(re.findall(r"\bray_(\w+)", " ".join(QUERIES)))
    assert asked
    assert asked - METRICS_GAUGES.keys() == {"object_store_memory"}  # counted in Ray's C++


def test_every_variable_that_is_used_is_declared_and_no_data_source_is_named():
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__range", "__all"}
    assert used == set(VARIABLES)
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for box in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
