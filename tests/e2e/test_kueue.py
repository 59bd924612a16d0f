"""Test a queue whose quota is used up: the job waits as a whole, and starts as a whole."""

from collections.abc import Iterator

import pytest

from tests.e2e.kube import Namespace, Release, kubectl, wait_until

KUEUE = "kueue.x-k8s.io/v1beta1"
QUOTA_CPUS, TAKEN_CPUS = "1", "700m"  # the pods of the job request more than the rest


@pytest.fixture
def queue(open_namespace, kueue) -> Iterator[str]:
    """Yield the name of a LocalQueue that has its own small quota."""
    name = open_namespace.name
    flavors = [
        {
            "name": name,
            "resources": [{"name": "cpu", "nominalQuota": QUOTA_CPUS}, {"name": "memory", "nominalQuota": "64Gi"}],
        }
    ]
    quota = [{"coveredResources": ["cpu", "memory"], "flavors": flavors}]
    cluster_queue = {
        "resourceGroups": quota,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
    }
    open_namespace.apply(
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": cluster_queue},
        {"apiVersion": KUEUE, "kind": "LocalQueue", "metadata": {"name": "queue"}, "spec": {"clusterQueue": name}},
    )
    yield "queue"
    open_namespace.kubectl("delete", "localqueue", "queue")
    kubectl("delete", f"clusterqueue/{name}", f"resourceflavor/{name}", "--wait=false")


@pytest.fixture
def taker(open_namespace, queue, image) -> str:
    """Return a Job that uses a part of the quota until it is deleted."""
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": TAKEN_CPUS, "memory": "16Mi"}},
        "securityContext": locked | {"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    metadata = {"name": "taker", "labels": {"kueue.x-k8s.io/queue-name": queue}}
    spec = {"suspend": True, "template": {"spec": pod}}
    open_namespace.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    open_namespace.wait("jsonpath={.status.ready}=1", "job/taker")
    return "job/taker"


def workload(release: Release) -> dict:
    """Return Kueue's Workload of the RayJob."""
    uid = release.rayjob()["metadata"]["uid"]
    found = release.namespace.list("workloads.kueue.x-k8s.io", f"kueue.x-k8s.io/job-uid={uid}")
    return found[0] if found else {}


def condition(release: Release, kind: str) -> dict:
    conditions = workload(release).get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})


@pytest.mark.full
def test_a_job_over_the_quota_waits_without_a_pod_and_then_gets_all_of_them(
    release, open_namespace: Namespace, queue, taker
):
    before = open_namespace.resources()
    mnist_job: Release = release("mnist-job", open_namespace)
    values = {"scheduling": {"provider": "kueue", "queue": queue}}
    mnist_job.install(values)
    wait_until(lambda: condition(mnist_job, "QuotaReserved").get("status") == "False", "Kueue to refuse")
    assert "insufficient unused quota for cpu" in condition(mnist_job, "QuotaReserved")["message"]
    wait_until(lambda: mnist_job.rayjob().get("status", {}).get("jobDeploymentStatus") == "Suspended", "the suspension")
    assert mnist_job.pods() == []

    open_namespace.kubectl("delete", taker)
    wait_until(lambda: condition(mnist_job, "Admitted").get("status") == "True", "Kueue to admit")
    admitted = workload(mnist_job)["status"]["admission"]["podSetAssignments"]
    assert {assignment["name"]: assignment["count"] for assignment in admitted} == {
        "head": 1,
        "default": 2,
        "submitter": 1,
    }
    wait_until(lambda: len(mnist_job.pods("head")) == 1 and len(mnist_job.pods("worker")) == 2, "all pods")
    mnist_job.runs()

    running = mnist_job.rayjob()["metadata"]
    mnist_job.install(values)  # Kueue has changed the RayJob, and an upgrade must not undo that
    again = mnist_job.rayjob()["metadata"]
    assert (again["uid"], again["generation"]) == (running["uid"], running["generation"])

    mnist_job.uninstall()  # while the run trains
    mnist_job.gone(but={resource for resource in before if "taker" not in resource})
