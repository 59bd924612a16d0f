"""Test the dashboard: Grafana's schema contains all of its fields, and each query finds series in a real Prometheus."""

import json
import re
import time
import typing
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from prometheus_client import CollectorRegistry
from pydantic import ConfigDict, TypeAdapter

from mnist_job.results import live, metrics
from mnist_job.training.progress import Progress
from tests.prometheus import Prometheus
from tests.unit.test_alerts import promtool
from tests.unit.test_metrics import failed, outcome

DASHBOARD = json.loads((Path(__file__).parents[2] / "charts/mnist-job/files/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
QUERIES = [target["expr"] for target in TARGETS]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
LIVE = live.values(Progress(3, 500, 1000, 0.5, 9000, 60), epochs=10)
# Some metrics that Ray 2.60 exports, with its labels. tests/ray/test_prometheus.py uses a real Ray.
RAY = {
    "ray_node_cpu_utilization": ({"ip": "10.0.0.1"}, 50),
    "ray_node_mem_used": ({"ip": "10.0.0.1"}, 1e9),
    "ray_node_gpus_utilization": ({"ip": "10.0.0.1", "GpuIndex": "0", "GpuDeviceName": "A"}, 50),
    "ray_object_store_memory": ({"NodeAddress": "10.0.0.1", "Location": "MMAP_SHM"}, 1e6),
    "ray_resources": ({"NodeAddress": "10.0.0.1", "Name": "CPU", "State": "USED"}, 2),
} | {f"ray_{name}": ({"NodeAddress": "10.0.0.1", "WorkerId": "ab", "name": "nightly"}, LIVE[name]) for name in LIVE}


def test_grafanas_schema_knows_every_field_and_every_value_of_it():
    """Grafana's classes drop fields that they do not know, so this compares the dashboard before and after."""
    register_default_plugins()
    dashboard = Dashboard.from_json(DASHBOARD)
    assert unknown(DASHBOARD, json.loads(JSONEncoder().encode(dashboard)), "") == []
    check_values(dashboard)
    kinds = {panel.type_val: panel.options for panel in dashboard.panels or [] if isinstance(panel, Panel)}
    assert [kind for kind, options in kinds.items() if isinstance(options, dict)] == []  # kinds without a schema


def unknown(ours: typing.Any, theirs: typing.Any, at: str) -> list[str]:
    """Return the places where `theirs` lacks something that `ours` has. `theirs` may have more: the defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [place for key in ours for place in unknown(ours[key], theirs.get(key, ...), f"{at}/{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [place for i, pair in enumerate(zip(ours, theirs, strict=True)) for place in unknown(*pair, f"{at}/{i}")]
    return [] if ours == theirs else [at]


def check_values(model: typing.Any) -> None:
    """Fail if a value of one of the schema's objects does not have the declared type, or is not in the enumeration."""
    if isinstance(model, list | dict):
        for item in model.values() if isinstance(model, dict) else model:
            check_values(item)
    elif type(model).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(model, Enum):
        hints = typing.get_type_hints(type(model))
        for name, value in vars(model).items():
            if not isinstance(value, list | dict):  # the schema's reader does not convert some of these
                TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
            check_values(value)


@pytest.fixture(
    scope="module",
    params=[{"namespace": "ml", "pod": "head", "app_kubernetes_io_instance": "nightly"}, {}],
    ids=["Kubernetes", "elsewhere"],
)
def prometheus(request, tmp_path_factory) -> Iterator[Prometheus]:
    """Yield a Prometheus with a success 3 hours ago, a failure 2 hours ago, a success 30 minutes ago, and a run now."""
    now, hour = time.time(), 3600
    runs = {
        "a": outcome(finished=now - 3 * hour),
        "b": replace(failed(), finished=now - 2 * hour),
        "c": outcome(finished=now - hour / 2),
    }
    times = {
        "a": (now - 3 * hour, now - 2.5 * hour),
        "b": (now - 2 * hour, now - 1.5 * hour),
        "c": (now - hour / 2, now),
    }
    series: dict[str, tuple[float, tuple[float, float]]] = {}
    for run, ended in runs.items():
        registry: CollectorRegistry = metrics.measured(ended) if ended.succeeded else metrics.status(ended)
        for sample in (sample for family in registry.collect() for sample in family.samples):
            where = request.param | ({"pod": f"head-{run}"} if request.param else {"instance": run})
            series[text(sample.name, sample.labels | where | {"job": "nightly"})] = (sample.value, times[run])
    for name, (labels, value) in RAY.items():
        series[text(name, labels | request.param | {"job": "ray", "SessionName": "s"})] = (value, (now - hour / 4, now))
    lines = [
        f"{name} {value} {at}"
        for name, (value, (first, last)) in series.items()
        for at in range(int(first), int(last) + 1, 60)
    ]
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "metrics").write_text("\n".join([*lines, "# EOF\n"]))
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "metrics", folder / "data")
    (folder / "prometheus.yaml").touch()
    prometheus = Prometheus(folder / "prometheus.yaml")
    with prometheus.running():
        yield prometheus


def text(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels.items())}}}"


def filled(query: str) -> str:
    """Return a query with the values that Grafana would insert for its variables."""
    for variable, value in {"$job": "nightly", "$namespace": ".*", "$__range": "6h"}.items():
        query = query.replace(variable, value)
    return query


def test_every_query_finds_something(prometheus):
    now = time.time()
    window = {"start": str(now - 6 * 3600), "end": str(now), "step": "60"}
    for target in TARGETS:
        query = filled(target["expr"])
        asked = ("query", {}) if target.get("instant") else ("query_range", window)
        assert prometheus.api(asked[0], query=query, **asked[1])["result"], query


def test_every_variable_finds_something(prometheus):
    (selector,) = re.findall(r"label_values\((.+), namespace\)", VARIABLES["namespace"]["query"]["query"])
    on_kubernetes = bool(prometheus.query('mnist_job_info{pod!=""}'))
    assert prometheus.api("label/namespace/values", **{"match[]": selector}) == (["ml"] if on_kubernetes else [])
    (query,) = re.findall(r"query_result\((.+)\)$", VARIABLES["job"]["query"]["query"])
    ((labels, _),) = prometheus.query(filled(query))
    pattern = VARIABLES["job"]["regex"].strip("/")
    assert re.findall(pattern, text("", labels)) == ["nightly"]


@pytest.mark.parametrize(
    "title, low, high",
    [
        ("Last run", 1, 1),
        ("Failed runs", 1, 1),
        ("Since the last success", 1800, 2400),
        ("Test accuracy", 0.75, 0.75),
        ("Progress", 0.25, 0.25),
    ],
)
def test_what_the_numbers_say(prometheus, title, low, high):
    (panel,) = (panel for panel in PANELS if panel["title"] == title)
    ((_, value),) = prometheus.query(filled(panel["targets"][0]["expr"]))
    assert low <= value <= high


def test_every_metric_of_the_job_is_asked_for_and_no_other():
    emitted = {family.name for family in metrics.measured(outcome()).collect()}
    asked = set(re.findall(r"\bmnist_job_\w+", " ".join(QUERIES)))
    assert asked == emitted - {"mnist_job_test_samples"}
    assert set(re.findall(r"\bmnist_job_\w+", json.dumps(DASHBOARD["templating"]))) <= emitted


def test_rays_metrics_are_those_of_the_locked_ray():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = set(re.findall(r"\bray_(\w+)", " ".join(QUERIES)))
    assert {f"ray_{name}" for name in asked} == RAY.keys()
    assert asked - METRICS_GAUGES.keys() - LIVE.keys() == {"object_store_memory", "resources"}  # from Ray's C++ code


def test_every_variable_that_is_used_is_declared_and_no_data_source_is_named():
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", json.dumps(DASHBOARD))) - {"__range", "__all"}
    assert used == set(VARIABLES)
    assert {target["datasource"]["uid"] for target in TARGETS} == {"${datasource}"}


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for box in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
