"""GPU pods on a node that only pretends to have GPUs: TensorFlow sees none, and the job says so instead of training."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import given
from tests.e2e.kube import Release, kubectl

GPU = "nvidia.com/gpu"


@pytest.fixture
def pretended_gpus() -> Iterator[None]:
    """Two GPUs on the first node, by its status alone."""
    given("E2E_FAKE_GPUS")
    node = json.loads(kubectl("get", "nodes", "--output=json"))["items"][0]
    name = node["metadata"]["name"]
    assert GPU not in node["status"]["capacity"], f"{name} has GPUs, or pretends to already"

    def patch(gpus: str | None) -> None:
        status = {"capacity": {GPU: gpus}, "allocatable": {GPU: gpus}}
        change = json.dumps({"status": status})
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={change}")

    patch("2")
    yield
    patch(None)


@pytest.fixture
def gpu_image() -> dict[str, str]:
    repository, tag = given("E2E_GPU_IMAGE").rsplit(":", 1)
    return {"repository": repository, "tag": tag}


def test_gpus_that_tensorflow_does_not_see(release, open_namespace, pretended_gpus, gpu_image):
    mnist_job: Release = release("mnist-job", open_namespace)
    mnist_job.install({"image": gpu_image, "workerGroups": {"default": {"gpus": 1}}})
    status = mnist_job.finished()["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("FAILED", "Failed")
    result = mnist_job.result()
    assert (result["exit-code"], result["succeeded"]) == ("4", "false")
    assert "TensorFlow sees no GPU" in result["reason"]
    (event,) = mnist_job.events(result["rayjob"])
    assert event["reason"] == "ClusterError"
    assert "TensorFlow sees no GPU" in event["message"]

    workers = mnist_job.pods("worker")
    assert [worker["spec"]["containers"][0]["resources"]["limits"][GPU] for worker in workers] == ["1", "1"]
    counted = open_namespace.exec(mnist_job.head(), "ray", "status")
    assert re.search(r"/2\.0 GPU", counted), counted
    mnist_job.uninstall()
