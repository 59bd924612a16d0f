"""Test the real MNIST, which the user has copied to a volume."""

from pathlib import Path

import pytest

from tests.e2e.conftest import given
from tests.e2e.kube import Release


@pytest.fixture
def claim(open_namespace, image) -> str:
    """Yield a PersistentVolumeClaim with MNIST in it."""
    mnist = Path(given("E2E_MNIST")).read_bytes()
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "mnist"}
    open_namespace.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    pod = open_namespace.start("upload", image, claim="mnist")
    open_namespace.exec(pod, "sh", "-c", "cat > /volume/mnist.npz", stdin=mnist)
    open_namespace.kubectl("delete", "pod", pod)
    return "mnist"


@pytest.mark.full
@pytest.mark.full
def test_two_workers_are_as_good_as_one_machine(release, open_namespace, image, claim):
    """The job uses its defaults. On one machine, the lowest accuracy of five seeds was 0.9791."""
    before = open_namespace.resources()
    mnist_job: Release = release("mnist-job", open_namespace)
    mnist_job.install(
        {
            "settings": {"data": "/storage/mnist.npz", "epochs": 10, "min_accuracy": 0.978},
            "storage": {"persistentVolumeClaim": {"create": False, "existingClaim": claim}},
        }
    )
    status = mnist_job.finished()["status"]
    assert status["jobStatus"] == "SUCCEEDED", status["message"]
    result = mnist_job.result()
    assert float(result["accuracy"]) >= 0.978
    reader = open_namespace.start("reader", image, claim=claim)
    folder = str(Path(result["model"]).parent).replace("/storage/", "/volume/")
    files = open_namespace.exec(reader, "ls", folder).split()
    assert {"model.keras", "outcome.json"} <= set(files)
    open_namespace.kubectl("delete", "pod", reader)
    mnist_job.uninstall()
    mnist_job.gone(but=before)
