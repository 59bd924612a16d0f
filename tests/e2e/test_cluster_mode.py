"""Test a permanent Ray cluster: who can use it with a token, and who can reach it through the network.

Its jobs can use an object store in the same namespace.
"""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.documents import ROOT, block
from tests.e2e.conftest import given, new_namespace
from tests.e2e.kube import PATIENCE, Namespace, Release, serving, wait_until
from tests.e2e.network import api_server, listening, reached

RAY = str(Path(sys.executable).with_name("ray"))
GCS, DASHBOARD, CLIENT = 6379, 8265, 10001
METRICS = {8000, 8080, 44217, 44227}


S3 = "scheme=http&endpoint_override=s3:9000&region=us-east-1"
TO_S3 = {"to": [{"podSelector": {"matchLabels": {"app": "s3"}}}], "ports": [{"port": 9000}]}


@pytest.fixture(scope="module")
def credentials(open_namespace) -> str:
    """Start an object store at s3:9000. Return the name of a Secret with its credentials."""
    open_namespace.start("s3", given("E2E_S3_IMAGE"), {"app": "s3"}, idle=False)
    service = {"selector": {"app": "s3"}, "ports": [{"port": 9000}]}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    open_namespace.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3"}, "spec": service},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys},
    )
    open_namespace.wait("create", "endpoints/s3")
    return "s3"


@pytest.fixture(scope="module")
def standing(release, open_namespace, credentials) -> SimpleNamespace:
    """Install a release with `mode: cluster`, and wait for its pods. Return it with its notes and its token."""
    before = open_namespace.resources()
    mnist_job: Release = release("mnist-job", open_namespace)
    values = {"storage": {"credentialsSecret": credentials}, "networkPolicy": {"extraEgress": [TO_S3]}}
    notes = mnist_job.install({"mode": "cluster"} | values)
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
    jobs_api: str, *arguments: str, home: Path, folder: Path | None = None, command: str = "run", **environment: str
) -> subprocess.CompletedProcess[str]:
    there = ["--working-dir", str(folder)] if folder else []
    words = [RAY, "job", "submit", "--address", jobs_api, *there, "--", "mnist-job", command, *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE, env=clean | {"HOME": str(home)} | environment
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


UPLOAD = """
import io, time
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from pyarrow import fs
from sklearn.datasets import load_digits

store, _ = fs.FileSystem.from_uri("s3://data?allow_bucket_creation=true&%s")
for _ in range(60):
    try:
        store.create_dir("data")
        break
    except OSError:
        time.sleep(1)

def upload(sample):
    number, (image, label) = sample
    content = io.BytesIO()
    Image.fromarray((image * 15).astype("uint8")).save(content, "png")
    with store.open_output_stream(f"data/images/digit-{label}/{number}.png") as stream:
        stream.write(content.getvalue())

digits = load_digits()
with ThreadPoolExecutor(8) as threads:
    list(threads.map(upload, enumerate(zip(digits.images[::3], digits.target[::3]))))
"""
WITHIN_AN_EPOCH = """
import re
from pyarrow import fs

store, _ = fs.FileSystem.from_uri("s3://data?%s")
for entry in store.get_file_info(fs.FileSelector("data/runs", recursive=True, allow_not_found=True)):
    if re.search(r"killed/.*checkpoints/0*[1-9]\\d*\\.\\d+-.*/manifest.json", entry.path):
        print(entry.path)
"""


def test_images_in_an_object_store_are_prepared_and_trained_on_whatever_is_lost(standing, jobs_api, tmp_path):
    """A worker pod is deleted within an epoch. The run ends with the digits of an undisturbed one."""
    release = standing.release
    release.namespace.exec(release.head(), "python", "-c", UPLOAD % S3)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": standing.token}
    source = ("--data", f"s3://data/images?{S3}", "--test-fraction", "0.2")
    flags = (*source, "--destination", f"s3://data/shards?{S3}", "--shard-megabytes", "0.002")
    done = submit(jobs_api, *flags, command="prepare", home=tmp_path, **token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test, 96 val): s3://data/shards" in done.stdout

    def trained(name: str, *more: str) -> str:
        places = ("--data", f"s3://data/shards?{S3}", "--output", f"s3://data/runs?{S3}", "--name", name)
        how = ("--workers", "2", "--batch-size", "4", "--epochs", "20", *more)
        done = submit(jobs_api, *places, *how, home=tmp_path, **token)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    undisturbed = trained("undisturbed")
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(trained, "killed", "--checkpoint-minutes", "0.002")

        def is_within_an_epoch() -> bool:
            assert not killed.done(), killed.result()
            return bool(release.namespace.exec(release.head(), "python", "-c", WITHIN_AN_EPOCH % S3))

        wait_until(is_within_an_epoch, "a checkpoint within an epoch")
        release.delete(release.pods("worker")[0]["metadata"]["name"])
    assert re.search(r"2 workers have started, at epoch \d+", killed.result()), killed.result()

    def quality(printed: str) -> str:
        return printed.partition("test accuracy")[2].splitlines()[0]

    assert quality(killed.result()) == quality(undisturbed)


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
