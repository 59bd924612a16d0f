"""Test a permanent Ray cluster: who can use it with a token, and who can reach it through the network."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.documents import ROOT, block
from tests.e2e.conftest import new_namespace
from tests.e2e.kube import PATIENCE, Namespace, Release, serving
from tests.e2e.network import api_server, listening, reached

RAY = str(Path(sys.executable).with_name("ray"))
GCS, DASHBOARD, CLIENT = 6379, 8265, 10001
METRICS = {8000, 8080, 44217, 44227}


@pytest.fixture(scope="module")
def standing(release, open_namespace) -> SimpleNamespace:
    """Install a release with `mode: cluster`, and wait for its pods. Return it with its notes and its token."""
    before = open_namespace.resources()
    mnist_job: Release = release("mnist-job", open_namespace)
    notes = mnist_job.install({"mode": "cluster"})
    ray = f"rayclusters.ray.io/{mnist_job.name}"
    open_namespace.wait("jsonpath={.status.conditions[?(@.type=='RayClusterProvisioned')].status}=True", ray)
    token = base64.b64decode(open_namespace.get("secret", "mnist-job")["data"]["auth_token"]).decode()
    return SimpleNamespace(release=mnist_job, before=before, notes=notes, token=token)


@pytest.fixture(scope="module")
def jobs_api(standing) -> Iterator[str]:
    """Yield the URL of its Jobs API on this machine."""
    release = standing.release
    pod = (f"--namespace={release.namespace.name}", f"pod/{release.head()}")
    with serving("port-forward", *pod, f":{DASHBOARD}") as address:
        yield f"http://{address}"


def submit(
    jobs_api: str, *arguments: str, home: Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    there = ["--working-dir", str(folder)] if folder else []
    command = [RAY, "job", "submit", "--address", jobs_api, *there, "--", "mnist-job", "run", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=clean | {"HOME": str(home)} | environment
    )


def ask(jobs_api: str, token: str) -> list[dict]:
    request = urllib.request.Request(f"{jobs_api}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_a_job_with_the_users_model_is_submitted_from_outside_with_the_token(standing, jobs_api, tmp_path):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": standing.token}
    (tmp_path / "own").mkdir()
    (tmp_path / "own/notebook.py").write_text(block("own model", ROOT / "docs/models.md"))
    own = ("--model", "notebook.py:model", "--data", "notebook.py:data")
    flags = (*own, "--epochs", "1", "--output", "/storage/runs")
    done = submit(jobs_api, *flags, home=tmp_path, folder=tmp_path / "own", **token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout
    (job,) = ask(jobs_api, standing.token)
    assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)


def test_the_exit_status_is_the_jobs(standing, jobs_api, tmp_path):
    """`ray job submit` itself exits only with 0 or 1. The job's own exit code is in its status."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": standing.token}
    done = submit(jobs_api, "--data", "/storage/none.npz", "--output", "/storage/runs", home=tmp_path, **token)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "/storage/none.npz: no such file" in done.stdout
    last = max(ask(jobs_api, standing.token), key=lambda job: job["start_time"])
    assert (last["status"], last["driver_exit_code"]) == ("FAILED", 3)


def test_without_the_token_it_is_refused(standing, jobs_api, tmp_path):
    before = ask(jobs_api, standing.token)
    for environment in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = submit(jobs_api, "--data", "digits", home=tmp_path, **environment)
        assert done.returncode != 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{jobs_api}/api/jobs/")
    assert ask(jobs_api, standing.token) == before


def test_the_notes_say_how_to_submit(standing):
    assert "ray job submit" in standing.notes
    assert standing.token not in standing.notes


@pytest.fixture(scope="module")
def ports(standing, image) -> SimpleNamespace:
    """Return the addresses of the head and of the workers that a pod of the release can reach."""
    namespace = standing.release.namespace
    (head,), workers = standing.release.pods("head"), standing.release.pods("worker")
    labels = {"app.kubernetes.io/instance": "mnist-job", "app.kubernetes.io/component": "worker"}
    own = namespace.start("own", image, labels)
    of_head = reached(namespace, own, listening(namespace, head))
    of_workers = set().union(*(reached(namespace, own, listening(namespace, worker)) for worker in workers))
    assert {port for _, port in of_head} >= {GCS, DASHBOARD, CLIENT, 8080}
    assert {host for host, _ in of_workers} == {worker["status"]["podIP"] for worker in workers}
    return SimpleNamespace(head=of_head, workers=of_workers)


@pytest.fixture(scope="module")
def other_namespace() -> Iterator[Namespace]:
    yield from new_namespace(deny=False)


def test_a_stranger_reaches_no_port(ports, open_namespace, other_namespace, image):
    """It is in the same namespace or in another one. It reaches the API server, so its network works."""
    api = {api_server()}
    for namespace in (open_namespace, other_namespace):
        stranger = namespace.start("stranger", image)
        assert reached(namespace, stranger, ports.head | ports.workers | api) == api


def test_prometheus_reaches_the_metrics_and_nothing_else(ports, other_namespace, image):
    pod = other_namespace.start("prometheus", image, {"app.kubernetes.io/name": "prometheus"})
    found = reached(other_namespace, pod, ports.head | ports.workers)
    assert found == {(host, port) for host, port in ports.head | ports.workers if port in METRICS}


def test_nothing_stays(standing, jobs_api, ports):
    namespace = standing.release.namespace
    namespace.kubectl("delete", "pods", "own", "stranger")
    standing.release.uninstall()
    standing.release.gone(but=standing.before)
