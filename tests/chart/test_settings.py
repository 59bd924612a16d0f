"""Test the settings in the chart: they are generated, checked by the schema, and read by the program unchanged."""

import json

import jsonschema
import pytest
import yaml
from helm_python import HelmError

from mnist_job.config import sources
from mnist_job.config.settings import JobConfig
from ops import chart
from tests.chart.rendering import CHART, render
from tests.chart.test_names import GPUS, SETTINGS, other

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Maps with any keys, which Kubernetes or a user defines.
FREE = {"affinity", "extraEgress", "extraIngress", "global", "valueFrom", "namespaceSelector", "podSelector"}
B = {"replicas": 1, "gpus": 2, "resources": {}}
NUMBERS = {"seed": 2**32 - 1, "epochs": 1_000_000, "learning_rate": 1e-7, "worker_timeout": 0.5, "start_timeout": 86400}


def read(values: dict, tmp_path) -> JobConfig:
    """Return the settings that the program reads from the chart's file."""
    file = tmp_path / "settings.yaml"
    file.write_text(render(values).settings)
    return sources.load(JobConfig, {}, {}, str(file))


def test_all_that_is_generated_is_current():
    stale = [path.name for path, text in chart.generated().items() if path.read_text() != text]
    assert stale == [], "run `make chart`"


def test_every_setting_of_the_program_is_a_value_or_decided_by_the_chart():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert sorted(values["settings"]) == SETTINGS
    assert JobConfig.model_fields.keys() >= chart.DECIDED


def test_every_value_has_a_comment():
    values = (CHART / "values.yaml").read_text()
    root = yaml.compose(values)
    rows = [row for key, node in root.value for row in chart.rows(key, node, values.splitlines())]
    assert [row.path for row in rows if not row.comment] == []


def test_the_defaults_are_the_programs(tmp_path):
    config = read({}, tmp_path)
    differing = {name for name in JobConfig.model_fields if getattr(config, name) != getattr(JobConfig(), name)}
    assert differing <= chart.DECIDED


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_reaches_the_program(setting, tmp_path):
    value = other(setting)
    found = getattr(read(GPUS | {"settings": {setting: value}}, tmp_path), setting)
    assert found == (tuple(value) if isinstance(value, list) else value)


def test_numbers_reach_the_program_unrounded(tmp_path):
    config = read({"settings": NUMBERS}, tmp_path)
    assert {name: getattr(config, name) for name in NUMBERS} == NUMBERS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"workers": 2, "use_gpu": False, "exporter_port": 8000, "name": "demo"}),
        ({"workerGroups": {"b": {"replicas": 3, "gpus": 0, "resources": {}}}}, {"workers": 5}),
        (GPUS | {"workerGroups": {"default": {"replicas": 3, "gpus": 4}}}, {"workers": 12, "use_gpu": True}),
        ({"workerGroups": {"default": {"minReplicas": 1, "maxReplicas": 3}}}, {"workers": "1:3"}),
        ({"workerGroups": {"default": {"minReplicas": 0, "maxReplicas": 3}}}, {"workers": "1:3"}),
        ({"workerGroups": {"default": {"minReplicas": 0, "maxReplicas": 1}}}, {"workers": 1}),
        (
            GPUS | {"workerGroups": {"default": {"gpus": 4, "maxReplicas": 3}, "b": B}},
            {"workers": "10:14", "use_gpu": True},
        ),
        (
            {"metrics": {"port": 9000, "pushgateway": {"url": "http://push:9091"}}},
            {"pushgateway_url": "http://push:9091"},
        ),
        (
            {"metrics": {"pushgateway": {"deploy": {"enabled": True}}}},
            {"pushgateway_url": "http://demo-pushgateway:9091"},
        ),
        ({"mode": "cluster"}, {"output": "/storage/runs/demo"}),
        ({"mode": "cluster"}, {"kubernetes_result": None, "kubernetes_rayjob": None, "exporter_port": 8000}),
    ],
)
def test_what_the_chart_decides(values, expected, tmp_path):
    config = read(values, tmp_path)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("uri", "output"),
    [
        ("", "/storage/runs/{}"),
        ("gs://bucket/runs/", "gs://bucket/runs/{}"),
        ("s3://bucket/runs?scheme=http&region=here", "s3://bucket/runs/{}?scheme=http&region=here"),
    ],
)
def test_a_retry_finds_its_runs_checkpoints_and_another_run_does_not(tmp_path, uri, output):
    places = set()
    for seed in (0, 0, 1):
        values = {"storage": {"uri": uri}, "settings": {"seed": seed}}
        config = read(values, tmp_path)
        assert config.output == output.format(config.kubernetes_rayjob)
        places.add(config.output)
    assert len(places) == 2


def test_a_job_reports_to_its_own_objects(tmp_path):
    manifests = render()
    config = read({}, tmp_path)
    assert config.kubernetes_rayjob == manifests.ray["metadata"]["name"]
    assert manifests.named("ConfigMap", config.kubernetes_result).keys() == {"apiVersion", "kind", "metadata"}
    rules = manifests.of("Role")[0]["rules"]
    assert [(rule["resources"], rule.get("resourceNames"), rule["verbs"]) for rule in rules] == [
        (["configmaps"], [config.kubernetes_result], ["get", "patch"]),
        (["rayjobs"], [config.kubernetes_rayjob], ["get"]),
        (["events"], None, ["create"]),
        (["pods"], None, ["list"]),
    ]


def test_ray_hands_out_what_the_processes_ask_for():
    groups = render(GPUS | {"settings": {"cpus_per_worker": 1.5}, "workerGroups": {"default": {"gpus": 2}}}).cluster[
        "workerGroupSpecs"
    ]
    assert [group["rayStartParams"] for group in groups] == [{"num-cpus": "4", "num-gpus": "2"}]
    assert groups[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert render().cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("bad", [{"": []}, -1, "", [0]])
def test_the_schema_refuses_what_the_program_refuses(setting, bad):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({setting: bad}, {"properties": SCHEMA["properties"]["settings"]["properties"]})


def test_no_unknown_key_anywhere():
    def open_objects(schema, path):
        if isinstance(schema, dict):
            if "properties" in schema and isinstance(schema["properties"], dict):
                if schema.get("additionalProperties") is not False:
                    yield path
            elif schema.get("type") == "object" and "additionalProperties" not in schema:
                yield path
            for key, part in schema.items():
                yield from open_objects(part, key)
        elif isinstance(schema, list):
            for part in schema:
                yield from open_objects(part, path)

    assert set(open_objects(SCHEMA, "values")) <= FREE | {"items"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"setings": {}}, "additional properties 'setings' not allowed"),
        ({"settings": {"epoch": 3}}, "additional properties 'epoch' not allowed"),
        ({"settings": {"workers": 3}}, "additional properties 'workers' not allowed"),
        ({"settings": {"epochs": 0}}, "minimum"),
        ({"storage": {"uri": "s3://key:secret@bucket/runs"}}, "pattern"),
        ({"metrics": {"pushgateway": {"url": "http://user:secret@push:9091"}}}, "pattern"),
        ({"podSecurityContext": {"runAsUser": 0}}, "minimum"),
        ({"podSecurityContext": {"runAsNonRoot": False}}, "additional properties 'runAsNonRoot' not allowed"),
        ({"workerGroups": {"default": None}}, "minProperties"),
        ({"workerGroups": {"Default": {}}}, "invalid propertyName 'Default'"),
        ({"workerGroups": {"more": {"replicas": 1}}}, "missing properties 'gpus', 'resources'"),
    ],
)
def test_the_schema_says_what_is_wrong(values, told):
    with pytest.raises(HelmError, match=told):
        render(values)


def test_own_modules_are_files_of_the_head(tmp_path):
    modules = {"notebook.py": "x = '''{{ a }}'''\n", "parts/layers.py": "y = 1\n"}
    values = {"settings": {"model": "notebook.py:model", "model_args": {"width": 64}}, "code": modules}
    config = read(values, tmp_path)
    assert (config.model, config.model_args, config.code) == (
        "notebook.py:model",
        {"width": 64},
        "/etc/mnist-job/code",
    )
    rendered = render(values)
    configmap = rendered.named("ConfigMap", rendered.ray["metadata"]["name"])
    (volume,) = [one for one in rendered.pods["head"]["spec"]["volumes"] if one["name"] == "settings"]
    placed = {item["path"]: configmap["data"][item["key"]] for item in volume["configMap"]["items"]}
    assert placed == {"settings.yaml": rendered.settings} | {f"code/{name}": text for name, text in modules.items()}
