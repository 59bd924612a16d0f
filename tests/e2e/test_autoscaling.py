"""Test a release that starts without workers: KubeRay's autoscaler creates the pods that its run requests."""

import pytest
import yaml

from tests.e2e.kube import Release


@pytest.mark.full
def test_a_run_begins_without_a_worker_and_gets_two(release, denying_namespace):
    mnist_job: Release = release("mnist-job", denying_namespace)
    mnist_job.install({"workerGroups": {"default": {"minReplicas": 0, "maxReplicas": 2}}})
    rayjob = mnist_job.finished()
    status = rayjob["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("SUCCEEDED", "Complete"), status
    settings = denying_namespace.get("configmap", rayjob["metadata"]["name"])["data"]["settings.yaml"]
    assert yaml.safe_load(settings)["workers"] == "1:2"
    cluster = denying_namespace.get("rayclusters.ray.io", status["rayClusterName"])
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 2)
    assert 1 <= group["replicas"] <= 2  # there was none before the autoscaler requested it
    assert mnist_job.pods("worker")
    mnist_job.uninstall()
