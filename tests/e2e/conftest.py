"""Fixtures for the cluster that README.md in this folder describes, its namespaces, and the logs of a failed test."""

import json
import os
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import tool
from tests.e2e.kube import Namespace, Release, kubectl, run

used: list[Namespace] = []  # by the current module


def given(name: str) -> str:
    """Return a variable of the environment, or skip the test if it is not set (in CI, a skip is a failure)."""
    if name not in os.environ:
        pytest.skip(f"{name} is not set: see tests/e2e/README.md")
    return os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Use only a cluster that was given to the tests, so that no other cluster is changed by mistake."""
    given("KUBECONFIG")
    given("E2E_IMAGE")
    tool("kubectl")
    tool("helm")
    kubectl("get", "crd", "rayjobs.ray.io", "podmonitors.monitoring.coreos.com")


@pytest.fixture(scope="session")
def image() -> str:
    return given("E2E_IMAGE")


def new_namespace(*, deny: bool) -> Iterator[Namespace]:
    """Create a namespace that enforces Pod Security `restricted`. With `deny`, it denies all traffic."""
    made = Namespace(f"mnist-job-e2e-{secrets.token_hex(3)}")
    kubectl("create", "namespace", made.name)
    kubectl("label", "namespace", made.name, "pod-security.kubernetes.io/enforce=restricted")
    if deny:
        metadata = {"name": "deny-everything"}
        spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        made.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    # Kubernetes creates these in every namespace, but a moment later
    made.wait("create", "serviceaccount/default", "configmap/kube-root-ca.crt")
    used.append(made)
    yield made
    used.remove(made)
    kubectl("delete", "namespace", made.name, "--wait=false")


@pytest.fixture(scope="module")
def open_namespace() -> Iterator[Namespace]:
    yield from new_namespace(deny=False)


@pytest.fixture(scope="module")
def denying_namespace() -> Iterator[Namespace]:
    yield from new_namespace(deny=True)


@pytest.fixture(scope="session")
def release(image) -> Callable[[str, Namespace], Release]:
    """Return a function that makes a release which fits on a small node together with others."""
    repository, tag = image.rsplit(":", 1)
    small = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
    base = {
        "image": {"repository": repository, "tag": tag},
        "settings": {"data": "digits", "epochs": 3},
        "head": {"resources": small},
        "workerGroups": {"default": {"replicas": 2, "resources": small}},
        "limits": {"backoffLimit": 0},
        "submitter": {"resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}},
    }
    return lambda name, namespace: Release(name, namespace, base)


@pytest.fixture
def pretended_gpus(request) -> Iterator[None]:
    """Make the first node's status and label claim two GPUs (or two of the parameter's resource) during a test."""
    given("E2E_FAKE_GPUS")
    gpu = getattr(request, "param", "nvidia.com/gpu")
    node = json.loads(kubectl("get", "nodes", "--output=json"))["items"][0]
    name = node["metadata"]["name"]
    assert gpu not in node["status"]["capacity"], f"{name} has GPUs, or pretends to already"

    def patch(gpus: str | None) -> None:
        status = {"capacity": {gpu: gpus}, "allocatable": {gpu: gpus}}
        change = json.dumps({"status": status})
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={change}")

    patch("2")
    kubectl("label", "node", name, "nvidia.com/gpu.present=true")
    yield
    kubectl("label", "node", name, "nvidia.com/gpu.present-")
    patch(None)


@pytest.fixture
def gpu_image() -> dict[str, str]:
    repository, tag = given("E2E_GPU_IMAGE").rsplit(":", 1)
    return {"repository": repository, "tag": tag}


@pytest.fixture(scope="session")
def kueue() -> None:
    if run("kubectl", "get", "crd", "clusterqueues.kueue.x-k8s.io", check=False).returncode != 0:
        pytest.skip("Kueue is not installed in the cluster")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Add to the report of a failure what helps to understand it, before it is deleted."""
    report = yield
    if report.failed:
        for namespace in used:
            report.sections.append((f"namespace {namespace.name}", describe(namespace)))
    return report


def describe(namespace: Namespace) -> str:
    in_namespace = ("kubectl", "--namespace", namespace.name)
    logs = ("logs", "--all-containers", "--prefix", "--tail=60", "--max-log-requests=20", "--ignore-errors")
    looks = [
        ("get", "rayjobs,rayclusters,jobs,pods", "--output=wide"),
        ("get", "rayjobs", "--output=jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"),
        ("get", "events", "--sort-by=.metadata.creationTimestamp"),
        (*logs, "--selector=app.kubernetes.io/instance"),
        (*logs, "--selector=batch.kubernetes.io/job-name,!app.kubernetes.io/instance"),
    ]
    return "\n".join(
        f"$ kubectl {' '.join(look)}\n{done.stdout}{done.stderr}"
        for look in looks
        for done in [run(*in_namespace, *look, check=False)]
    )
