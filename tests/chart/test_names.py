"""Test the names of objects, and when the RayJob gets another name, which starts a new run."""

import re

import pytest
import yaml

from mnist_job.config.setting import declared
from mnist_job.config.settings import JobConfig
from ops.chart import DECIDED
from tests.chart.rendering import RELEASE, Manifests, render

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONG = "a" + "-long" * 10 + "er"  # 53 characters: the longest name that Helm allows

GPUS = {"image": {"tag": "x-gpu"}, "workerGroups": {"default": {"gpus": 1}}}  # for settings.evaluate_on_gpu
OTHER = {
    "timeout": 60.0,
    "data": "/storage/other.npz",
    "test_fraction": 0.2,
    "image_size": "28x28",
    "label": "species",
    "features": ["width", "length"],
    "data_arrays": {"x_train": "a", "y_train": "b"},
    "learning_rate_schedule": "constant",
    "precision": "bfloat16",
    "batch_norm": "per-worker",
    "on_nan": "ignore",
    "hidden_layers": [32],
    "model": "package.module:function",
    "model_args": {"width": 64},
    "patience": 3,
    "keep": "best",
    "class_weight": "balanced",
    "monitor": "validation_accuracy",
    "callbacks": "package.module:function",
    "validation_fraction": 0.5,
    "validation_split": "tail",
    "min_accuracy": 0.5,
    "min_recall": 0.5,
    "evaluate_on_gpu": True,
    "verbose": True,
    "log_format": "json",
}


SETTINGS = sorted(JobConfig.model_fields.keys() - DECIDED)


def other(setting: str) -> object:
    """Return a valid value that is not the default."""
    default = JobConfig.model_fields[setting].default
    return OTHER[setting] if setting in OTHER else default / 2 if isinstance(default, float) else default + 1


def name(manifests: Manifests) -> str:
    rayjob: str = manifests.ray["metadata"]["name"]
    return rayjob


@pytest.mark.parametrize("release", ["a", "7", "7.up", "my.dotted-release.1", "a--b.c", LONG, LONG.replace("-", ".")])
@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_every_release_that_helm_allows_gets_valid_names(release, mode):
    assert len(release) <= 53
    manifests = render({"mode": mode, "metrics": {"pushgateway": {"deploy": {"enabled": True}}}}, name=release)
    assert len(name(manifests)) <= 47  # the limit for a RayJob; a RayCluster may have 53
    for manifest in manifests:
        assert DNS_1035.fullmatch(manifest["metadata"]["name"])
        assert len(manifest["metadata"]["name"]) <= 63
    assert yaml.safe_load(manifests.settings)["name"] == release


def test_an_ordinary_release_gives_its_own_name():
    manifests = render(name="nightly-training")
    assert {manifest["metadata"]["name"].removeprefix("nightly-training") for manifest in manifests} == {
        "",  # claim and ServiceAccount
        name(manifests).removeprefix("nightly-training"),
        *("-result", "-test", "-ray", "-head", "-submitter"),
    }


@pytest.mark.parametrize("releases", [(LONG[:52] + "x", LONG[:52] + "y"), ("a.b", "a-b"), ("1", "job-1")])
def test_two_releases_share_no_name(releases):
    first, second = ({(m["kind"], m["metadata"]["name"]) for m in render(name=release)} for release in releases)
    assert not first & second


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_runs_the_job_again_if_it_can_change_the_result(setting):
    changed = name(render(GPUS | {"settings": {setting: other(setting)}})) != name(render(GPUS))
    affects = declared(JobConfig.model_fields[setting], "affects_result")
    assert changed == (affects or setting in ("min_accuracy", "min_recall"))


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"tag": "2"}},
        {"image": {"repository": "example.com/mnist-job"}},
        {"image": {"digest": "sha256:" + "0" * 64}},
        {"rerun": "again"},
        {"workerGroups": {"default": {"replicas": 3}}},
        {"workerGroups": {"default": {"maxReplicas": 3}}},
        {"workerGroups": {"more": {"replicas": 1, "gpus": 0, "resources": {}}}},
    ],
)
def test_these_values_run_it_again(values):
    assert name(render(values)) != name(render())


@pytest.mark.parametrize(
    "values",
    [
        {"labels": {"team": "vision"}, "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"}},
        {"limits": {"backoffLimit": 3, "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 1000}},
        {"head": {"resources": {"limits": {"memory": "8Gi"}}}, "env": [{"name": "AWS_REGION", "value": "x"}]},
        {"workerGroups": {"default": {"resources": {"requests": {"cpu": "3"}}, "nodeSelector": {"a": "b"}}}},
        {"workerGroups": {"default": {"replicas": 1}, "more": {"replicas": 1, "gpus": 0, "resources": {}}}},
        {"workerGroups": {"default": {"replicas": 5, "minReplicas": 2, "maxReplicas": 2}}},
        {"autoscaler": {"resources": {"limits": {"memory": "2Gi"}}}, "tmpSizeLimit": "1Gi"},
        {"metrics": {"port": 8001, "podMonitor": {"enabled": True}, "dashboard": {"enabled": True}}},
        {"metrics": {"pushgateway": {"url": "http://push:9091"}}},
        {"scheduling": {"provider": "kueue", "queue": "q"}, "networkPolicy": {"enabled": False}},
        {"storage": {"uri": "s3://bucket/runs", "credentialsSecret": "s3"}},
        {"image": {"pullPolicy": "Always", "pullSecrets": ["x"], "tag": "0.1.0"}},
        {"settings": {"epochs": 10.0}},
    ],
)
def test_these_values_do_not(values):
    assert name(render(values)) == name(render())


def test_resume_is_another_rayjob_over_the_same_folder():
    manifests = [render(values) for values in ({}, {"resume": "1"}, {"resume": "2"}, {"resume": "1", "rerun": "2"})]
    names = [name(each) for each in manifests]
    assert len(set(names)) == 4
    assert all(DNS_1035.fullmatch(each) and re.fullmatch(f"{RELEASE}-[0-9a-f]{{8}}", each) for each in names)
    settings = [yaml.safe_load(each.settings) for each in manifests]
    assert [each["kubernetes_rayjob"] for each in settings] == names
    first, second, third, other = (each["output"] for each in settings)
    assert first == second == third == f"/storage/runs/{names[0]}"
    assert other not in {f"/storage/runs/{each}" for each in names}


def test_the_longest_name_is_resumed_too():
    assert len(name(render({"resume": "x" * 1000}, name=LONG))) <= 47


def test_a_standing_cluster_keeps_its_name():
    assert name(render({"mode": "cluster", "settings": {"seed": 1}})) == RELEASE
