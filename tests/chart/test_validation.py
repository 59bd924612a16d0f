"""Rules across values: each fault is a sentence that names the value and what to do, and all are told at once."""

import re

import pytest
from helm_python import Chart, HelmRenderError

from tests.chart.rendering import render

GROUP = {"replicas": 1, "gpus": 0, "resources": {}}
GPU_TAG = {"image": {"tag": "1.0-gpu"}}
GPUS = GPU_TAG | {"workerGroups": {"default": {"gpus": 1}}}
NO_CLAIM = {"persistentVolumeClaim": {"create": False}}
SHARED = {"storage": {"persistentVolumeClaim": {"accessModes": ["ReadWriteMany"]}}}


def faults(values: dict, chart: Chart | None = None) -> list[str]:
    try:
        render(values, of=chart)
    except HelmRenderError as error:
        return [line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- ")]
    return []


def several(number: int) -> dict:
    return {"workerGroups": {f"group{i}": GROUP for i in range(number)} | {"default": None}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (GPU_TAG | {"workerGroups": {"a": GROUP | {"gpus": 1}}}, r"workerGroups: a with GPUs, default without; .*"),
        (
            {"workerGroups": {"default": {"gpus": 1}}},
            r"image.tag: workerGroups.default has GPUs, and 0.1.0 names an .*; set image.tag=0.1.0-gpu.*",
        ),
        (
            {"workerGroups": {"default": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}},
            r"workerGroups.default.resources.limits: nvidia.com/gpu .* set workerGroups.default.gpus .*",
        ),
        ({"settings": {"evaluate_on_gpu": True}}, r"settings.evaluate_on_gpu: no group .* has GPUs; give one gpus, .*"),
        (
            {"settings": {"batch_size": 3}, "workerGroups": {"default": {"replicas": 4}}},
            r"settings.batch_size: 3 is less than one image for each of the 4 training processes .*; raise it, .*",
        ),
        ({"storage": NO_CLAIM}, r"storage: head and workers share no place .*; set persistentVolumeClaim.create, .*"),
        (
            {"storage": {"uri": "s3://a", "persistentVolumeClaim": {"existingClaim": "b"}}},
            r"storage: uri and persistentVolumeClaim.existingClaim are both set.*; empty one of them",
        ),
        ({"storage": {"credentialsSecret": "s3"}}, r"storage.credentialsSecret: neither .* is a URI.*; empty it"),
        (
            {"settings": {"data": "mnist.npz"}},
            r"settings.data: mnist.npz is relative, .*; use mnist, digits, a path .*",
        ),
        ({"settings": {"data": "s3://key:secret@b/x.npz"}}, r"settings.data: holds a password, .*; put it into .*"),
        ({"env": [{"name": "MNIST_JOB_EPOCHS", "value": "1"}]}, r"env: MNIST_JOB_EPOCHS .*; set settings.epochs .*"),
        (
            {"podLabels": {"app.kubernetes.io/name": "x"}},
            r"podLabels: app.kubernetes.io/name is what Services .* select pods by; choose another key",
        ),
        ({"labels": {"app.kubernetes.io/instance": "x"}}, r"labels: app.kubernetes.io/instance is what .*"),
        (
            {"limits": {"activeDeadlineSeconds": 900}},
            r"limits.preRunningDeadlineSeconds: 900 would never be reached, .* \(900\) .*; lower it",
        ),
        ({"metrics": {"port": 8265}}, r"metrics.port: Ray uses 8265 itself; choose another, such as 8000"),
        ({"metrics": {"port": 10001}}, r"metrics.port: Ray uses 10001 itself; .*"),
        (
            {
                "metrics": {"podMonitor": {"enabled": True, "interval": "2m"}},
                "limits": {"ttlSecondsAfterFinished": 239},
            },
            r"limits.ttlSecondsAfterFinished: 239 s are less than two scrapes .*: 2m\).*; raise it to 240 or more",
        ),
        (
            {"metrics": {"pushgateway": {"url": "http://a", "deploy": {"enabled": True}}}},
            r"metrics.pushgateway: url and deploy.enabled are both set, .*; choose",
        ),
        ({"scheduling": {"queue": "a"}}, r"scheduling.queue: a means nothing without scheduling.provider; set .*"),
        ({"scheduling": {"provider": "kueue"}}, r"scheduling.queue: kueue needs the name of one"),
        (SHARED | {"scheduling": {"provider": "yunikorn"}}, r"scheduling.queue: yunikorn needs the name of one"),
        (
            {"scheduling": {"provider": "yunikorn", "queue": "a"}},
            r"scheduling.provider: YuniKorn reserves places by pods .*; use storage.uri, or .* ReadWriteMany",
        ),
        (
            {"scheduling": {"provider": "kueue", "queue": "a"}, **several(7)},
            r"workerGroups: Kueue admits at most 6 groups at once, and these are 7; merge some",
        ),
        (
            {"scheduling": {"provider": "kueue", "queue": "a"}, "workerGroups": {"submitter": GROUP}},
            r"workerGroups.submitter: Kueue has this name for pods of its own; choose another",
        ),
    ],
)
def test_a_rule_is_told_as_a_sentence(values, sentence):
    (fault,) = faults(values)
    assert re.fullmatch(sentence, fault), fault


@pytest.mark.parametrize(
    "values",
    [
        GPUS | {"settings": {"evaluate_on_gpu": True}},
        {"image": {"digest": "sha256:" + "0" * 64}, "workerGroups": {"default": {"gpus": 1}}},
        {"storage": NO_CLAIM | {"uri": "s3://bucket/runs", "credentialsSecret": "s3"}},
        {"storage": {"credentialsSecret": "s3"}, "settings": {"data": "s3://bucket/x.npz"}},
        {"settings": {"data": "s3://bucket/a@b.npz"}},
        {"metrics": {"podMonitor": {"enabled": True, "interval": "2m"}}, "limits": {"ttlSecondsAfterFinished": 240}},
        {"limits": {"ttlSecondsAfterFinished": 0}},
        {"scheduling": {"provider": "kueue", "queue": "a"}, **several(6)},
        {"scheduling": {"provider": "kueue", "queue": "a"}, "mode": "cluster", **several(7)},
        {"scheduling": {"provider": "volcano"}},
    ],
)
def test_what_is_just_allowed(values):
    assert faults(values) == []


def test_all_faults_are_told_together():
    assert len(faults({"storage": NO_CLAIM, "metrics": {"port": 8080}, "scheduling": {"queue": "a"}})) == 3


@pytest.fixture
def on_a_cluster(overriding):
    """The chart as a cluster with these APIs has it rendered: Helm's engine alone knows no cluster."""
    return lambda *apis: overriding("mnist-job.apiVersions", ["apiregistration.k8s.io/v1", *apis])


@pytest.mark.parametrize(
    ("apis", "values", "sentence"),
    [
        ([], {}, "the cluster has no KubeRay, .*; install it first: helm install kuberay-operator .*"),
        (["ray.io/v1/RayJob"], {"scheduling": {"provider": "kueue", "queue": "a"}}, ".* no Kueue, .*; install it .*"),
        (["ray.io/v1/RayJob"], {"scheduling": {"provider": "volcano"}}, ".* no Volcano, .*; install it .*"),
        (["ray.io/v1/RayJob"], {"metrics": {"podMonitor": {"enabled": True}}}, ".* no Prometheus Operator, .*"),
    ],
)
def test_what_the_cluster_lacks_is_told(apis, values, sentence, on_a_cluster):
    (fault,) = faults(values, on_a_cluster(*apis))
    assert re.fullmatch(sentence, fault), fault


def test_a_cluster_with_everything_is_content(on_a_cluster):
    everything = on_a_cluster("ray.io/v1/RayJob", "kueue.x-k8s.io/v1beta2", "monitoring.coreos.com/v1")
    values = {"scheduling": {"provider": "kueue", "queue": "a"}, "metrics": {"podMonitor": {"enabled": True}}}
    assert faults(values, everything) == []
