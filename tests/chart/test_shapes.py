"""Test each supported combination of values (ci/*-values.yaml) with Helm, Kubernetes, KubeRay and Pod Security."""

import functools
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import lint

from tests.chart import kuberay
from tests.chart.rendering import CHART, CI, Manifests, render

KUBERAY = json.loads(kuberay.FILE.read_text())
KUBERNETES = {"1.28", kubernetes_validate.latest_version()}  # the oldest supported version, and the newest known one
OPERATOR = {"PodMonitor", "PrometheusRule"}  # kinds of Prometheus Operator; test_metrics.py tests them

shapes = pytest.mark.parametrize("file", CI, ids=lambda file: file.name.removesuffix("-values.yaml"))


@functools.cache
def shape(file: Path) -> Manifests:
    return render(yaml.safe_load(file.read_text()))


@shapes
def test_lint_finds_nothing(file):
    result = lint(CHART, yaml.safe_load(file.read_text()), strict=True)
    assert [message["error"] for message in result["messages"]] == []


@shapes
def test_kubernetes_knows_every_field(file):
    manifests = shape(file)
    pods = [{"apiVersion": "v1", "kind": "Pod", **template} for template in manifests.pods.values()]
    for pod in pods:
        pod["metadata"] = {"name": "pod", **pod["metadata"]}
    for manifest in [*manifests, *pods]:
        if manifest["kind"] not in OPERATOR | KUBERAY.keys():
            validate(json.dumps(manifest))


@functools.cache  # each call takes half a second, and many objects are equal
def validate(manifest: str) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@shapes
def test_kuberay_knows_every_field(file):
    ray = shape(file).ray
    jsonschema.validate(ray, KUBERAY[ray["kind"]])


@shapes
def test_every_pod_satisfies_pod_security_restricted(file):
    for component, template in shape(file).pods.items():
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, component
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert pod.get("runAsUser") != 0, component
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), component
        allowed = {"name", "configMap", "emptyDir", "persistentVolumeClaim"}
        assert all(volume.keys() <= allowed for volume in spec.get("volumes", [])), component
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, component
            assert not any("hostPort" in port for port in container.get("ports", [])), component


@shapes
def test_only_the_head_gets_a_token_of_the_api_server(file):
    manifests = shape(file)
    mounts = {name for name, pod in manifests.pods.items() if pod["spec"]["automountServiceAccountToken"]}
    asks = manifests.ray["kind"] == "RayJob" or manifests.cluster.get("enableInTreeAutoscaling")
    assert mounts == ({"head"} if asks else set())
    assert all(account["automountServiceAccountToken"] is False for account in manifests.of("ServiceAccount"))


@shapes
def test_every_pod_is_bounded_and_without_service_links(file):
    for component, template in shape(file).pods.items():
        assert template["spec"]["enableServiceLinks"] is False, component
        (container,) = template["spec"]["containers"]
        disk = set() if "kueue" in file.name and component not in ("test", "pushgateway") else {"ephemeral-storage"}
        assert container["resources"]["limits"].keys() >= {"memory"} | disk, component
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"} | disk, component


@shapes
def test_all_objects_carry_the_standard_labels(file):
    standard = {"helm.sh/chart", *(f"app.kubernetes.io/{key}" for key in ("name", "instance", "version", "managed-by"))}
    for manifest in shape(file):
        assert standard <= manifest["metadata"]["labels"].keys(), manifest["metadata"]["name"]


@shapes
def test_no_pod_of_ray_carries_a_name_of_its_own(file):
    """The head's Service selects by `app.kubernetes.io/name: kuberay`. KubeRay sets this label, not the chart."""
    pods = shape(file).pods
    for component in ("head", "worker"):
        assert "app.kubernetes.io/name" not in pods[component]["metadata"]["labels"]


def test_the_ray_version_is_the_locked_one():
    lock = (CHART.parents[1] / "requirements.lock").read_text()
    assert f"\nray=={render().cluster['rayVersion']} " in lock
    assert render({"image": {"rayVersion": "2.58.1"}}).cluster["rayVersion"] == "2.58.1"  # for a user's own image
