"""Test runs on an existing Ray cluster, with data and results on an object store."""

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PARTS, PROGRAM, RAY, TINY, TOKEN, free_port, job, ray_head
from tests.ray import notebook
from tests.unit.test_metrics import values


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Yield the addresses of a Ray head and its Jobs API. Ray is told that it has two GPUs, but it has none."""
    with ray_head(tmp_path_factory.mktemp("head"), "--num-cpus=2", "--num-gpus=2") as head:
        yield {"ray": head.address, "jobs": head.jobs}


def outcome(folder: Path) -> dict:
    return json.loads((folder / "mnist-job/outcome.json").read_text())


def test_it_runs_on_a_cluster_by_address_and_leaves_it_running(head, tmp_path):
    for _ in range(2):
        result = job("run", *TINY, "--force", "--address", head["ray"], cwd=tmp_path, **TOKEN)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"connecting to Ray at {head['ray']}" in result.stdout
    assert outcome(tmp_path / "runs")["evaluation"]["samples"] == 360


def test_more_workers_than_the_cluster_holds_end_at_once(head, tmp_path):
    result = job("run", *TINY, "--address", head["ray"], "--workers", "3", cwd=tmp_path, **TOKEN)
    assert result.returncode == 4
    assert "the workers need 3 x 1 CPU; the cluster's 1 nodes have 2 CPUs and 2 GPUs" in result.stderr


@pytest.mark.full
def test_gpus_that_only_ray_sees_end_the_job_instead_of_training_on_the_cpu(head, tmp_path):
    for flags in (("--use-gpu",), ("--evaluate-on-gpu",)):
        result = job("run", *TINY, "--address", head["ray"], *flags, cwd=tmp_path, **TOKEN)
        assert (result.returncode, len(result.stderr.splitlines())) == (4, 1), result.stderr
        assert f"{flags[0]}: TensorFlow sees no GPU" in result.stderr
        assert not (tmp_path / "runs/mnist-job").exists()


def submit(head, *arguments: object, flags: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", head["jobs"], *map(str, flags), "--", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | TOKEN)


def test_ray_job_submit_of_a_users_model_whatever_the_other_files_are_called(head, tmp_path):
    (tmp_path / "mine/job").mkdir(parents=True)
    (tmp_path / "mine/notebook.py").write_bytes(Path(notebook.__file__).read_bytes())
    for file in ("job/__init__.py", *(f"{part}.py" for part in PARTS if part not in ("job", "kubernetes"))):
        (tmp_path / "mine" / file).write_text("raise SystemExit('imported from the working directory')")
    flags = ("--working-dir", tmp_path / "mine")
    model = ("--model", "notebook.py:convolutional")
    result = submit(head, "run", *TINY, *model, "--output", tmp_path / "runs", flags=flags)
    assert result.returncode == 0, result.stdout
    assert "test accuracy" in result.stdout
    ended = outcome(tmp_path / "runs")
    assert (ended["exit_code"], list(ended["identity"]["code"])) == (0, ["notebook.py"])


def test_ray_job_submit_of_a_job_that_fails(head, tmp_path):
    """`ray job submit` itself exits only with 0 or 1. The job's own exit code is in its status."""
    result = submit(head, "run", "--data", tmp_path / "none.npz", "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "none.npz: no such file" in result.stdout
    request = urllib.request.Request(
        f"{head['jobs']}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(request) as answer:
        last = max(json.load(answer), key=lambda details: details["start_time"])
    assert (last["status"], last["driver_exit_code"]) == ("FAILED", 3)


def test_data_and_results_on_an_object_store(bucket, npz, tmp_path):
    parameters, s3 = bucket
    s3.upload_file(str(npz(x_train=np.random.default_rng(0).integers(0, 9, (100, 4, 5)))), "bucket", "in/data.npz")
    places = ("--data", f"s3://bucket/in/data.npz{parameters}", "--output", f"s3://bucket/out{parameters}")
    result = job("run", *places, "--epochs", "2", cwd=tmp_path, **os.environ)
    assert (result.returncode, result.stderr) == (0, "")
    keys = {entry["Key"]: entry["Size"] for entry in s3.list_objects_v2(Bucket="bucket", Prefix="out/")["Contents"]}
    files = (".mnist-job", "history.csv", "metrics.prom", "model.keras", "outcome.json", "report.html")
    event_files = ("tensorboard/train/events", "tensorboard/validation/events")
    assert {key.partition(".out.tfevents.")[0] for key, size in keys.items() if size} == {
        f"out/mnist-job/{name}" for name in (*files, *event_files)
    }
    ended = json.loads(s3.get_object(Bucket="bucket", Key="out/mnist-job/outcome.json")["Body"].read())
    assert ended["evaluation"]["samples"] == 30
    assert ended["identity"]["dataset"] == "data"


def test_a_missing_object_is_refused(bucket, tmp_path):
    parameters, _ = bucket
    result = job("run", "--data", f"s3://bucket/none.npz{parameters}", cwd=tmp_path, **os.environ)
    assert result.returncode == 3
    assert "no such file" in result.stderr


def exported(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return values(answer.read().decode())


@pytest.mark.full
def test_the_outcome_is_served_after_the_driver_has_gone(head, tmp_path):
    """A failure, of another driver, keeps the job's last success and the metrics of other jobs."""
    port = free_port()
    flags = ("--address", head["ray"], "--exporter-port", port)
    assert job("run", *TINY, *flags, cwd=tmp_path, **TOKEN).returncode == 0
    success = exported(port)
    written = values((tmp_path / "runs/mnist-job/metrics.prom").read_text())
    del written["mnist_job_phase_duration_seconds,phase=publish"]  # it ended only after this delivery
    assert success == written
    result = job("run", "--data", "none.npz", *flags, cwd=tmp_path, **TOKEN)
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1), result.stderr
    failure = exported(port)
    completed = "mnist_job_last_completion_timestamp_seconds"
    assert failure[completed] > success[completed]
    assert failure == success | {"mnist_job_last_run_succeeded": 0, completed: failure[completed]}
    assert job("run", "--data", "none.npz", "--name", "other", *flags, cwd=tmp_path, **TOKEN).returncode == 3
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert text.count("# TYPE mnist_job_last_run_succeeded gauge") == 1
    assert 'mnist_job_last_run_succeeded{job="other"} 0.0' in text
    assert 'mnist_job_test_samples{dataset="digits",job="mnist-job"} 360.0' in text


def test_an_exporter_port_that_is_taken_ends_the_job_before_it_trains(head, tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        result = job("run", *TINY, "--address", head["ray"], "--exporter-port", port, cwd=tmp_path, **TOKEN)
    assert (result.returncode, list(tmp_path.iterdir())) == (4, [])
    assert f"mnist-job: --exporter-port {port}: cannot be served on the Ray head" in result.stderr
    assert "Address already in use" in result.stderr
