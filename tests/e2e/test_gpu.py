"""Test pods with a MIG slice each, on a node that only pretends to have some. TensorFlow sees none; the job reports it.

The third walk-through tests whole GPUs.
"""

import re

import pytest

from tests.e2e.kube import Release

MIG = "nvidia.com/mig-1g.5gb"


@pytest.mark.parametrize("pretended_gpus", [MIG], indirect=True)
def test_gpus_that_tensorflow_does_not_see(release, open_namespace, pretended_gpus, gpu_image):
    mnist_job: Release = release("mnist-job", open_namespace)
    mnist_job.install({"image": gpu_image, "workerGroups": {"default": {"gpus": 1, "gpuResource": MIG}}})
    status = mnist_job.finished()["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("FAILED", "Failed")
    result = mnist_job.result()
    assert (result["exit-code"], result["succeeded"]) == ("4", "false")
    assert "TensorFlow sees no GPU" in result["reason"]
    (event,) = mnist_job.events(result["rayjob"])
    assert event["reason"] == "ClusterError"
    assert "TensorFlow sees no GPU" in event["message"]

    workers = mnist_job.pods("worker")
    assert [worker["spec"]["containers"][0]["resources"]["limits"][MIG] for worker in workers] == ["1", "1"]
    counted = open_namespace.exec(mnist_job.head(), "ray", "status")
    assert re.search(r"/2\.0 GPU", counted), counted
    mnist_job.uninstall()
