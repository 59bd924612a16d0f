"""Test the rules that concern several values: each fault is a sentence that names the value and says what to do."""

import re

import pytest
from helm_python import Chart, HelmRenderError

from mnist_job.config.training import DATA_SETS
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
        (GPU_TAG | {"workerGroups": {"a": GROUP | {"gpus": 1}}}, r"workerGroups: .* GPUs \(a\), .*\(default\); .*"),
        (
            {"workerGroups": {"default": {"gpus": 1}}},
            r"image.tag: workerGroups.default has GPUs, but 0.1.0 names an .*; set image.tag=0.1.0-gpu.*",
        ),
        (
            {"workerGroups": {"default": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}},
            r"workerGroups.default.resources.limits: nvidia.com/gpu .* set workerGroups.default.gpus .*",
        ),
        (
            {"workerGroups": {"default": {"resources": {"requests": {"nvidia.com/mig-1g.5gb": 1}}}}},
            r"workerGroups.default.resources.requests: nvidia.com/mig-1g.5gb .*; set .*gpus and .*gpuResource .*",
        ),
        (
            {"head": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
            r"head.resources.limits: nvidia.com/gpu would be reserved but not used, .*; remove it",
        ),
        (
            GPU_TAG | {"workerGroups": {"default": {"gpus": 1, "gpuResource": "amd.com/gpu"}}},
            r"workerGroups.default.gpuResource: amd.com/gpu is not NVIDIA's, .*; set nvidia.com/gpu or .*",
        ),
        (
            GPU_TAG | {"workerGroups": {"default": {"gpus": 2, "gpuResource": "nvidia.com/mig-1g.5gb"}}},
            r"workerGroups.default.gpus: a pod can use only one MIG slice, .* gpus is 2; set .*gpus=1, .*",
        ),
        (
            {"workerGroups": {"default": {"gpuResource": "nvidia.com/mig-1g.5gb"}}},
            r"workerGroups.default.gpuResource: nvidia.com/mig-1g.5gb has no effect without GPUs; set .*gpus",
        ),
        (
            {"workerGroups": {"default": {"minReplicas": 3}}},
            r"workerGroups.default: minReplicas \(3\) is greater than maxReplicas \(2\); change one of them .*",
        ),
        (
            {"settings": {"batch_size": 3}, "workerGroups": {"default": {"maxReplicas": 4}}},
            r"settings.batch_size: 3 is less than one image for each of the 4 training processes .*; raise it, .*",
        ),
        (
            {"scheduling": {"provider": "kueue", "queue": "a"}, "workerGroups": {"default": {"maxReplicas": 4}}},
            r"workerGroups: Kueue admits all pods of a job at once, .* Ray's autoscaler; set minReplicas and .*",
        ),
        (
            {"workerGroups": {"default": {"resources": {"requests": {"memory": "4.5Gi"}}}}},
            r"workerGroups.default.resources: .* memory \(4.5Gi\) is greater than its limit \(4Gi\), .*; raise the .*",
        ),
        (
            {"head": {"resources": {"requests": {"ephemeral-storage": "11Gi"}}}},
            r"head.resources.requests: ephemeral-storage \(11Gi\) is greater than tmpSizeLimit \(10Gi\); raise .*",
        ),
        ({"settings": {"evaluate_on_gpu": True}}, r"settings.evaluate_on_gpu: no group .* has GPUs; set gpus .*"),
        (
            {"settings": {"batch_size": 3}, "workerGroups": {"default": {"replicas": 4}}},
            r"settings.batch_size: 3 is less than one image for each of the 4 training processes .*; raise it, .*",
        ),
        ({"storage": NO_CLAIM}, r"storage: head and workers share no place .*; set persistentVolumeClaim.create, .*"),
        (
            {"storage": {"uri": "s3://a", "persistentVolumeClaim": {"existingClaim": "b"}}},
            r"storage: uri and persistentVolumeClaim.existingClaim are both set.*; unset one of them",
        ),
        ({"storage": {"credentialsSecret": "s3"}}, r"storage.credentialsSecret: neither .* is a URI.*; unset it"),
        (
            {"settings": {"data": "mnist.npz"}},
            r"settings.data: mnist.npz is a relative path, .*; use mnist, .*, cifar100, digits, an absolute path .*",
        ),
        ({"settings": {"data": "s3://key:secret@b/x.npz"}}, r"settings.data: .* a password, .*; put it into .*"),
        ({"env": [{"name": "MNIST_JOB_EPOCHS", "value": "1"}]}, r"env: MNIST_JOB_EPOCHS .*; set settings.epochs .*"),
        (
            {"podLabels": {"app.kubernetes.io/name": "x"}},
            r"podLabels: Services .* select pods by app.kubernetes.io/name; choose another key",
        ),
        ({"labels": {"app.kubernetes.io/instance": "x"}}, r"labels: Services .* by app.kubernetes.io/instance; .*"),
        (
            {"limits": {"activeDeadlineSeconds": 900}},
            r"limits.preRunningDeadlineSeconds: 900 would never be reached, .* \(900\) .*; lower it",
        ),
        ({"metrics": {"port": 8265}}, r"metrics.port: Ray itself uses port 8265; choose another port, such as 8000"),
        ({"metrics": {"port": 10001}}, r"metrics.port: Ray itself uses port 10001; .*"),
        (
            {
                "metrics": {"podMonitor": {"enabled": True, "interval": "2m"}},
                "limits": {"ttlSecondsAfterFinished": 239},
            },
            r"limits.ttlSecondsAfterFinished: 239 s is less than .* two scrapes .*: 2m\).*; raise it to 240 or more",
        ),
        (
            {"metrics": {"pushgateway": {"url": "http://a", "deploy": {"enabled": True}}}},
            r"metrics.pushgateway: url and deploy.enabled are both set, .*; unset one of them",
        ),
        (
            {"settings": {"model": "a.py:model"}},
            r"settings.model: a.py:model is not in code; add it with --set-file .*",
        ),
        (
            {"settings": {"model": "a.py:model", "data": "b.py:data"}, "code": {"a.py": "x = 1"}},
            r"settings.data: b.py:data is not in code; add it with --set-file code.b\\.py=FILE",
        ),
        (
            {"settings": {"model": "a.py:model", "callbacks": "b.py:callbacks"}, "code": {"a.py": "x = 1"}},
            r"settings.callbacks: b.py:callbacks is not in code; add it with --set-file code.b\\.py=FILE",
        ),
        (
            {"code": {"a.py": "x" * 900_001}},
            r"code: the files are larger than 900 kB, which a ConfigMap cannot hold; .*",
        ),
        ({"scheduling": {"queue": "a"}}, r"scheduling.queue: a has no effect without scheduling.provider; set .*"),
        ({"scheduling": {"provider": "kueue"}}, r"scheduling.queue: kueue needs the name of a queue"),
        (SHARED | {"scheduling": {"provider": "yunikorn"}}, r"scheduling.queue: yunikorn needs the name of a queue"),
        (
            {"scheduling": {"provider": "yunikorn", "queue": "a"}},
            r"scheduling.provider: YuniKorn reserves resources with .*; use storage.uri, or .* ReadWriteMany",
        ),
        (
            {"scheduling": {"provider": "kueue", "queue": "a"}, **several(7)},
            r"workerGroups: Kueue admits at most 6 groups at once, but there are 7; merge some",
        ),
        (
            {"scheduling": {"provider": "kueue", "queue": "a"}, "workerGroups": {"submitter": GROUP}},
            r"workerGroups.submitter: Kueue uses this name for other pods of the job; choose another name",
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
        {"storage": {"credentialsSecret": "s3"}, "mode": "cluster"},  # for the jobs that will come
        *({"settings": {"data": name}} for name in DATA_SETS),
        {"settings": {"data": "s3://bucket/a@b.npz"}},
        {"metrics": {"podMonitor": {"enabled": True, "interval": "2m"}}, "limits": {"ttlSecondsAfterFinished": 240}},
        {"limits": {"ttlSecondsAfterFinished": 0}},
        {"scheduling": {"provider": "kueue", "queue": "a"}, **several(6)},
        {"scheduling": {"provider": "kueue", "queue": "a"}, "mode": "cluster", **several(7)},
        {"scheduling": {"provider": "volcano"}},
        GPU_TAG | {"workerGroups": {"default": {"gpus": 1, "gpuResource": "nvidia.com/mig-1g.5gb"}}},
        GPU_TAG | {"workerGroups": {"default": {"gpus": 4, "gpuResource": "nvidia.com/gpu.shared"}}},
        {"workerGroups": {"default": {"resources": {"limits": {"rdma/ib": 1, "cpu": 2}}}}},
        {"workerGroups": {"default": {"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": "1.5"}}}}},
        {"head": {"resources": {"requests": {"memory": "4000M"}, "limits": {"memory": "4Gi"}}}},
        {"workerGroups": {"default": {"minReplicas": 0, "maxReplicas": 32}}},
        {"scheduling": {"provider": "kueue", "queue": "a"}, "workerGroups": {"default": {"maxReplicas": 2}}},
        {"tmpSizeLimit": "100Mi"},
    ],
)
def test_what_is_just_allowed(values):
    assert faults(values) == []


@pytest.mark.parametrize("kind", ["requests", "limits"])
@pytest.mark.parametrize(
    "resource",
    [
        *("nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb", "amd.com/gpu", "gpu.intel.com/i915"),
        *(
            "google.com/tpu",
            "aws.amazon.com/neuron",
            "aws.amazon.com/neuroncore",
            "habana.ai/gaudi",
            "qualcomm.com/qaic",
        ),
        *("huawei.com/Ascend910", "cambricon.com/mlu", "aliyun.com/gpu-mem", "volcano.sh/vgpu-number", "hygon.com/dcu"),
    ],
)
def test_no_accelerator_is_reserved_and_not_used(resource, kind):
    asked = {"resources": {kind: {resource: 1}}}
    places = {"head": asked, "submitter": asked, "autoscaler": asked, "test": asked}
    deployed = {"pushgateway": {"deploy": {"enabled": True, **asked}}}
    found = faults(places | {"metrics": deployed, "workerGroups": {"default": asked}})
    assert {fault.split(".resources")[0] for fault in found if f"{kind}: {resource} " in fault} == {
        *("head", "submitter", "autoscaler", "test", "metrics.pushgateway.deploy", "workerGroups.default"),
    }
    assert len(found) == 6


def test_all_faults_are_told_together():
    assert len(faults({"storage": NO_CLAIM, "metrics": {"port": 8080}, "scheduling": {"queue": "a"}})) == 3


@pytest.fixture
def on_a_cluster(overriding):
    """Return a function that makes a chart which sees a cluster with these APIs. Helm's engine alone sees none."""
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


def test_a_cluster_with_all_apis_is_accepted(on_a_cluster):
    everything = on_a_cluster("ray.io/v1/RayJob", "kueue.x-k8s.io/v1beta2", "monitoring.coreos.com/v1")
    values = {"scheduling": {"provider": "kueue", "queue": "a"}, "metrics": {"podMonitor": {"enabled": True}}}
    assert faults(values, everything) == []
