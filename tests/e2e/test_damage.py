"""Pods that go away, that never come, and that get too little memory."""

import json
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import job
from tests.e2e.kube import Release, wait_until

EPOCHS = 60
BATCH = 2
SETTINGS = {"batch_size": BATCH, "epochs": EPOCHS}  # the best part of a minute: time to do damage in


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> float:
    """The test loss of such a run on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    flags = ("--data", "digits", "--batch-size", BATCH, "--epochs", EPOCHS)
    assert job("run", *flags, cwd=folder).returncode == 0
    return json.loads((folder / "runs/mnist-job/outcome.json").read_text())["evaluation"]["loss"]


@pytest.fixture
def running(release, open_namespace) -> SimpleNamespace:
    """A release whose second epoch is done."""
    mnist_job: Release = release("mnist-job", open_namespace)
    mnist_job.install({"settings": SETTINGS, "limits": {"backoffLimit": 1}})
    mnist_job.runs()
    rayjob = mnist_job.rayjob()
    folder = f"/storage/runs/{rayjob['metadata']['name']}/.mnist-job/checkpoints"
    finished = ("sh", "-c", f"ls {folder}/*/manifest.json 2>/dev/null || true")  # of which the last two are kept
    wait_until(lambda: len(open_namespace.exec(mnist_job.head(), *finished).split()) == 2, "the second epoch")
    yield SimpleNamespace(release=mnist_job, first_cluster=rayjob["status"]["rayClusterName"])
    mnist_job.uninstall()
    wait_until(lambda: not mnist_job.pods(), "the end of the pods")


def delete(release: Release, pod: str) -> None:
    """Gone in a second, and not when the run is over."""
    release.namespace.kubectl("delete", "--wait=false", "--grace-period=1", "pod", pod)


def assert_ended_like(running: SimpleNamespace, undisturbed: float) -> None:
    rayjob = running.release.finished()
    status, result = rayjob["status"], running.release.result()
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("SUCCEEDED", "Complete"), status
    assert float(result["loss"]) == pytest.approx(undisturbed, rel=1e-3)


def test_a_worker_pod_that_is_deleted_costs_its_epoch(running, undisturbed):
    release = running.release
    delete(release, release.pods("worker")[0]["metadata"]["name"])
    assert_ended_like(running, undisturbed)
    assert release.rayjob()["status"]["rayClusterName"] == running.first_cluster
    families = text_string_to_metric_families(release.namespace.raw(f"pods/{release.head()}:8000/proxy/metrics"))
    restarts = {s.value for family in families for s in family.samples if s.name == "mnist_job_worker_restarts"}
    assert restarts == {1}


def test_a_head_pod_that_is_deleted_is_retried_and_goes_on_from_storage(running, undisturbed):
    release = running.release
    release.namespace.kubectl("delete", "--wait=false", "--grace-period=1", "pod", release.head())
    assert_ended_like(running, undisturbed)
    printed = release.namespace.kubectl(
        "logs", "--selector=app.kubernetes.io/component=submitter", "--tail=-1", "--ignore-errors"
    )
    assert "training on 2 workers, from epoch " in printed


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


def test_too_little_memory_is_told_as_that(release, open_namespace):
    mnist_job: Release = release("mnist-job", open_namespace)
    memory = {"requests": {"memory": "200Mi"}, "limits": {"memory": "500Mi"}}
    mnist_job.install({"workerGroups": {"default": {"resources": memory}}, "settings": {"max_failures": 0}})
    status = mnist_job.finished()["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("FAILED", "Failed")
    result = mnist_job.result()
    assert result["exit-code"] == "5"
    # Ray noticed in time, or the kernel was quicker.
    assert "ran out of memory" in result["reason"] or "OOMKilled (exit code 137): mnist-job-" in result["reason"]
    mnist_job.uninstall()
