"""Test pods that are deleted, that never start, or that get too little memory."""

import json
import re
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import job
from tests.e2e.kube import Namespace, Release, kubectl, wait_until

EPOCHS = 30
BATCH = 2
SETTINGS = {"batch_size": BATCH, "epochs": EPOCHS}  # at least half a minute, so that there is time for the damage
KILL = """
import os, pathlib, signal, sys

found = {}
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (entry / "cmdline").read_bytes().split(b"\\0")
        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        continue
    if b"python" in words[0] and any(word.endswith(b"/mnist-job") for word in words):
        found[int(entry.name)] = parent
driver = found.keys() - set(found.values())
assert driver, "no mnist-job runs here"
for process in sorted(found) if sys.argv[1] == "everything" else driver:
    os.kill(process, signal.SIGKILL)
"""
OPERATOR = "app.kubernetes.io/component=kuberay-operator"
LABELS = {  # of the metrics of KubeRay's operator that files/alerts.yaml uses
    "kuberay_job_info": ("namespace", "name"),
    "kuberay_job_deployment_status": ("namespace", "name", "deployment_status"),
    "controller_runtime_max_concurrent_reconciles": ("controller",),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> float:
    """Return the test loss of an undisturbed run on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    flags = ("--data", "digits", "--batch-size", BATCH, "--epochs", EPOCHS)
    assert job("run", *flags, cwd=folder).returncode == 0
    return json.loads((folder / "runs/mnist-job/outcome.json").read_text())["evaluation"]["loss"]


@pytest.fixture
def running(release, open_namespace, request) -> SimpleNamespace:
    """Yield a release that has finished its second epoch."""
    mnist_job: Release = release("mnist-job", open_namespace)
    values = {"settings": SETTINGS, "limits": {"backoffLimit": 0}}
    values |= getattr(request, "param", {})
    mnist_job.install(values)
    mnist_job.runs()
    rayjob = mnist_job.rayjob()
    folder = f"/storage/runs/{rayjob['metadata']['name']}/.mnist-job/checkpoints"
    finished = ("sh", "-c", f"ls {folder}/*/manifest.json 2>/dev/null || true")  # the last two checkpoints are kept
    wait_until(lambda: len(open_namespace.exec(mnist_job.head(), *finished).split()) == 2, "the second epoch")
    yield SimpleNamespace(release=mnist_job, values=values, first_cluster=rayjob["status"]["rayClusterName"])
    mnist_job.uninstall()
    wait_until(lambda: not mnist_job.pods(), "the end of the pods")


def assert_ended_like(release: Release, undisturbed: float) -> None:
    status, result = release.finished()["status"], release.result()
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("SUCCEEDED", "Complete"), status
    assert float(result["loss"]) == pytest.approx(undisturbed, rel=1e-3)


@pytest.mark.full
def test_a_worker_pod_that_is_deleted_costs_its_epoch(running, undisturbed):
    release = running.release
    release.delete(release.pods("worker")[0]["metadata"]["name"])
    assert_ended_like(release, undisturbed)
    assert release.rayjob()["status"]["rayClusterName"] == running.first_cluster
    families = text_string_to_metric_families(release.namespace.raw(f"pods/{release.head()}:8000/proxy/metrics"))
    restarts = {s.value for family in families for s in family.samples if s.name == "mnist_job_worker_restarts"}
    assert restarts == {1}


def kill(release: Release, whom: str) -> None:
    """Send SIGKILL only to the driver, or to `everything`: then also to the process that supervises it."""
    release.namespace.exec(release.head(), "python", "-c", KILL, whom)


def goes_on(release: Release, rayjob: str) -> int:
    """Wait until the run of this RayJob says from which epoch it resumes, or evaluates. Return that epoch.

    Workers that have lost their head may have trained the last epochs before they ended.
    """

    def told() -> list[str]:
        printed = release.namespace.kubectl("logs", f"--selector=job-name={rayjob}", "--tail=-1", "--ignore-errors")
        evaluates = [str(EPOCHS + 1)] if "evaluating on the test data" in printed else []
        return re.findall(r"training on 2 workers, from epoch (\d+)", printed) or evaluates

    return int(wait_until(told, f"{rayjob} to resume")[-1])


def as_kuberay_measures(rayjob: dict) -> dict[str, set[tuple[str, ...]]]:
    """Return the labels of this RayJob's metrics in KubeRay's operator."""
    found: dict[str, set[tuple[str, ...]]] = {name: set() for name in LABELS}
    for operator in json.loads(kubectl("get", "pods", "--all-namespaces", f"-l{OPERATOR}", "--output=json"))["items"]:
        where = operator["metadata"]
        metrics = Namespace(where["namespace"]).raw(f"pods/{where['name']}:8080/proxy/metrics")
        for sample in (sample for family in text_string_to_metric_families(metrics) for sample in family.samples):
            of_it = rayjob["metadata"]["uid"] == sample.labels.get("uid") or sample.labels.get("controller") == "rayjob"
            if of_it and sample.name in LABELS:
                found[sample.name].add(tuple(sample.labels[label] for label in LABELS[sample.name]))
    return found


@pytest.mark.full
@pytest.mark.parametrize("running", [{"limits": {"backoffLimit": 1}}], indirect=True)
def test_a_head_pod_that_is_deleted_costs_its_epoch(running, undisturbed):
    """KubeRay creates another head or another Ray cluster. It depends on whether KubeRay or its submitter is faster."""
    release = running.release
    release.delete(release.head())
    assert goes_on(release, release.rayjob()["metadata"]["name"]) > 2
    assert_ended_like(release, undisturbed)


def test_a_driver_that_is_killed_is_told_of_and_resume_goes_on(running, undisturbed, tmp_path):
    """Kill the driver, and then every process that could report it. Each time, Helm's `resume` continues the run."""
    release, name = running.release, running.release.name
    first = release.rayjob()["metadata"]["name"]
    kill(release, "driver")
    assert release.finished()["status"]["jobDeploymentStatus"] == "Failed"
    result = release.result()
    assert (result["rayjob"], result["succeeded"], result["exit-code"]) == (first, "false", "4")
    assert "SIGKILL" in result["reason"]
    (event,) = release.events(first)
    assert (event["type"], event["reason"]) == ("Warning", "ClusterError")
    status = job("status", "--namespace", release.namespace.name, name, cwd=tmp_path).stdout
    assert result["reason"] in status

    release.install(running.values | {"resume": "1"})
    second = release.rayjob()["metadata"]["name"]
    epochs = [goes_on(release, second)]
    kill(release, "everything")
    failed = release.finished()
    assert failed["status"]["jobDeploymentStatus"] == "Failed"
    assert release.result() == result  # no process was left that could report it ...
    namespace = release.namespace.name
    assert as_kuberay_measures(failed) == {  # ... but KubeRay does
        "kuberay_job_info": {(namespace, second)},
        "kuberay_job_deployment_status": {(namespace, second, "Failed")},
        "controller_runtime_max_concurrent_reconciles": {("rayjob",)},
    }

    release.install(running.values | {"resume": "2"})
    epochs.append(goes_on(release, release.rayjob()["metadata"]["name"]))
    assert 2 < epochs[0] <= epochs[1]
    assert_ended_like(release, undisturbed)


def test_what_can_never_start_ends_as_a_failure_with_its_reason(release, open_namespace):
    bounds = {"limits": {"preRunningDeadlineSeconds": 30}}
    unpulled: Release = release("unpulled", open_namespace)
    unpulled.install(bounds | {"image": {"tag": "there-is-none"}})
    unscheduled: Release = release("unscheduled", open_namespace)
    huge = {"default": {"resources": {"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}}}
    unscheduled.install(bounds | {"workerGroups": huge})
    for one in (unpulled, unscheduled):
        status = one.finished()["status"]
        assert (status["jobDeploymentStatus"], status["reason"]) == ("Failed", "PreRunningDeadlineExceeded")
    waiting = unpulled.pods("head")[0]["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] in ("ErrImagePull", "ImagePullBackOff")
    conditions = unscheduled.pods("worker")[0]["status"]["conditions"]
    assert "Unschedulable" in {condition.get("reason") for condition in conditions}
    for one in (unpulled, unscheduled):
        one.uninstall()


@pytest.mark.full
def test_too_little_memory_is_told_as_that(release, open_namespace):
    mnist_job: Release = release("mnist-job", open_namespace)
    memory = {"requests": {"memory": "200Mi"}, "limits": {"memory": "500Mi"}}
    mnist_job.install({"workerGroups": {"default": {"resources": memory}}, "settings": {"max_failures": 0}})
    status = mnist_job.finished()["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("FAILED", "Failed")
    result = mnist_job.result()
    assert result["exit-code"] == "5"
    # Ray noticed it first, or the kernel was faster
    assert "ran out of memory" in result["reason"] or "OOMKilled (exit code 137): mnist-job-" in result["reason"]
    mnist_job.uninstall()
