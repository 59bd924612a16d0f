"""Test that `mnist-job submit` creates what Helm creates from the corresponding values of the chart."""

import json
import sys

import pytest
import yaml

from mnist_job.cli.main import main
from mnist_job.config import sources
from mnist_job.config.sources import flag
from mnist_job.kubernetes import submit
from ops.chart import DECIDED
from tests.chart.rendering import CI, NAMESPACE, RELEASE, Manifests, render
from tests.chart.test_names import GPUS, SETTINGS, other


@pytest.fixture
def submitted(capsys):
    """Return the objects that these arguments create."""

    def dry_run(*arguments: object) -> Manifests:
        where = ("--name", RELEASE, "--namespace", NAMESPACE)
        assert main(["submit", *where, "--dry-run", *map(str, arguments)]) == 0
        return Manifests(yaml.safe_load_all(capsys.readouterr().out))

    return dry_run


def assert_equal(found: Manifests, expected: Manifests) -> None:
    def ordered(manifests):
        return sorted(manifests, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert ordered(found) == ordered(expected)


def test_without_flags_it_is_the_chart(submitted):
    assert_equal(submitted(), render())


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_the_chart_s(submitted, setting):
    value = other(setting)
    text = [] if value is True else [sources.text(value)]
    gpus = ("--image", "ghcr.io/mnist-job/mnist-job:x-gpu", "--gpus", 1)
    assert_equal(submitted(*gpus, flag(setting), *text), render(GPUS | {"settings": {setting: value}}))


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--image", "here:5000/a/b:1.2"], {"image": {"repository": "here:5000/a/b", "tag": "1.2"}}),
        (["--image", "here:5000/a/b"], {"image": {"repository": "here:5000/a/b"}}),
        (
            ["--image", f"a/b@sha256:{'0' * 64}"],
            {"image": {"repository": "a/b", "digest": f"sha256:{'0' * 64}"}},
        ),
        (["--workers", 5], {"workerGroups": {"default": {"replicas": 5}}}),
        (["--workers", "1:5"], {"workerGroups": {"default": {"minReplicas": 1, "maxReplicas": 5}}}),
        (
            ["--workers", "2:6", "--gpus", 2, "--image", "a:1-gpu"],
            {
                "workerGroups": {"default": {"minReplicas": 1, "maxReplicas": 3, "gpus": 2}},
                "image": {"repository": "a", "tag": "1-gpu"},
            },
        ),
        (
            ["--workers", 6, "--gpus", 3, "--image", "a:1-gpu"],
            {"workerGroups": {"default": {"replicas": 2, "gpus": 3}}, "image": {"repository": "a", "tag": "1-gpu"}},
        ),
        (["--output", "s3://bucket/runs?region=here"], {"storage": {"uri": "s3://bucket/runs?region=here"}}),
        (
            ["--pushgateway-url", "http://push:9091", "--exporter-port", 9000],
            {"metrics": {"port": 9000, "pushgateway": {"url": "http://push:9091"}}},
        ),
    ],
)
def test_other_flags_are_other_values(submitted, arguments, values):
    assert_equal(submitted(*arguments), render(values))


@pytest.mark.parametrize(
    "file", [file for file in CI if "mode: cluster" not in file.read_text()], ids=lambda file: file.stem
)
def test_a_values_file_is_helm_s(submitted, file):
    assert_equal(submitted("--values", file), render(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("folder", [False, True])
def test_own_modules_travel_with_it(submitted, tmp_path, folder):
    modules = {"notebook.py": "def model(): ...\n"} | ({"parts/layers.py": "x = 1\n"} if folder else {})
    for name, text in modules.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    where = (
        ["--code", tmp_path, "--model", "notebook.py:model"] if folder else ["--model", f"{tmp_path}/notebook.py:model"]
    )
    values = {"settings": {"model": "notebook.py:model"}, "code": modules}
    assert_equal(submitted(*where), render(values))


def test_callbacks_travel_with_it_in_the_models_file_or_in_their_own(submitted, tmp_path):
    for name in ("notebook.py", "ends.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    own = {"settings": {"callbacks": "ends.py:callbacks"}, "code": {"ends.py": "# ends.py\n"}}
    where = ["--callbacks", f"{tmp_path}/ends.py:callbacks"]
    assert_equal(submitted(*where), render(own))
    model, both = ["--model", f"{tmp_path}/notebook.py:model"], {"code": {"notebook.py": "# notebook.py\n"}}
    notebook = f"{tmp_path}/notebook.py"
    both["settings"] = {name: f"notebook.py:{name}" for name in ("model", "data", "callbacks")}
    flags = ("--data", f"{notebook}:data", "--callbacks", f"{notebook}:callbacks")
    assert_equal(submitted(*model, *flags), render(both))


def test_a_saved_model_of_the_cluster_is_not_looked_for_here(submitted):
    model = "/storage/runs/first/model.keras"
    assert_equal(submitted("--model", model), render({"settings": {"model": model}}))


def test_flags_beat_the_values_file_and_defaults_do_not(submitted, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("settings: {epochs: 3, seed: 3}\nworkerGroups: {default: {replicas: 3}}\npodLabels: {a: b}\n")
    expected = {"settings": {"epochs": 4, "seed": 3}, "workerGroups": {"default": {"replicas": 3}}}
    assert_equal(submitted("--values", file, "--epochs", 4), render(expected | {"podLabels": {"a": "b"}}))


def test_a_number_of_workers_beats_a_range_in_the_values_file(submitted, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("workerGroups: {default: {minReplicas: 1, maxReplicas: 8}}\n")
    fixed = {"workerGroups": {"default": {"replicas": 3}}}
    assert_equal(submitted("--values", file, "--workers", 3), render(fixed))


def test_the_effective_configuration_of_run_can_be_submitted(submitted, tmp_path, capsys):
    assert main(["config", "--epochs", "4", "--data", "digits"]) == 0
    file = tmp_path / "job.yaml"
    file.write_text(capsys.readouterr().out)
    assert_equal(submitted("--config", file), render({"settings": {"epochs": 4, "data": "digits"}}))


def test_every_setting_has_its_place():
    assert submit.ELSEWHERE | submit.MEANINGLESS == DECIDED
    assert not submit.ELSEWHERE & submit.MEANINGLESS


def test_as_json_it_is_one_list(submitted, capsys):
    expected = submitted("--epochs", 4)
    assert (
        main(["submit", "--name", RELEASE, "--namespace", NAMESPACE, "--epochs", "4", "--dry-run", "-o", "json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["items"]) == ("List", list(expected))


def test_force_is_another_run(submitted):
    again = submitted("--force").ray["metadata"]["name"]
    assert again.rpartition("-")[0] == RELEASE
    assert again != render().ray["metadata"]["name"]


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--workers", "3", "--gpus", "2"], {}, "--workers 3: --gpus 2 runs 2 of them in a pod each; give a multiple"),
        (["--workers", "1:4", "--gpus", "2"], {}, "--workers 1:4: --gpus 2 runs 2 of them in a pod each; give a multi"),
        (["--workers", "1:64"], {}, "--batch-size: is less than one image for each of 64 workers"),
        (["--gpus", "two"], {}, "--gpus two: is not a number of GPUs for each worker pod"),
        (["--gpus", "1"], {}, "image.tag: workerGroups.default has GPUs, but 0.1.0 names an image without CUDA; set"),
        (
            ["--output", "/runs"],
            {},
            "--output /runs: is a local folder, which pods cannot share; give a URI, or leave it out",
        ),
        (["--epochs", "0"], {}, "--epochs: 0: Input should be greater than or equal to 1"),
        (
            ["--data", "here.npz"],
            {},
            "settings.data: here.npz is a relative path, and the pods share no current folder; use",
        ),
        (["--name", "a_b"], {}, "--name a_b: invalid release name"),
        (["--values", "none.yaml"], {}, "--values none.yaml: cannot be read as YAML: "),
        (["--address", "auto"], {}, "--address: no such argument"),
        (
            [],
            {"MNIST_JOB_ADDRESS": "auto"},
            "address: has no effect with `submit`, because the chart sets it; leave it out",
        ),
    ],
)
def test_faults_are_told_before_a_cluster_is_asked(arguments, environment, told, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["submit", *arguments, "--dry-run"]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith(f"mnist-job: {told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("setings: {}", "the chart's values: at '': additional properties 'setings' not allowed"),
        ("mode: cluster", "--values {}: mode: cluster has no job to submit; use `helm install` for it"),
        ("- a", "--values {}: holds list, not the chart's values as `name: value`"),
        (
            "workerGroups: {default: null, big: {replicas: 1, gpus: 0, resources: {}}}",
            "--values {}: defines other worker groups; set replicas and gpus of each group there",
        ),
    ],
)
def test_faults_of_the_values_file(content, told, capsys, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(content)
    assert main(["submit", "--workers", "2", "--values", str(file), "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"mnist-job: {told.format(file)}")


def test_only_submit_needs_helms_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "helm_python", None)
    assert main(["submit", "--dry-run"]) == 2
    assert "pip install 'mnist-job[submit]'" in capsys.readouterr().err
