"""Run the commands of ops/walkthroughs.md, each walk-through in its own namespace."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from tests.documents import block
from tests.e2e.conftest import new_namespace
from tests.e2e.kube import CHART, Namespace, kubectl, merge, run, wait_until
from tests.e2e.prometheus import scraping

DOCUMENT = CHART.parents[1] / "ops/walkthroughs.md"
DROPPED = 'ALERTS{alertname="MnistJobAccuracyDropped"}'


@dataclass(frozen=True)
class Reader:
    """A user who follows the document in this folder, with these variables and this current namespace."""

    folder: Path
    environment: dict[str, str]

    def does(self, *names: str) -> str:
        """Run blocks one after another in one shell, and return what they print."""
        script = "".join(block(name, DOCUMENT) for name in names)
        return run("sh", "-ec", script, environment=self.environment, folder=self.folder).stdout

    @contextmanager
    def doing(self, name: str) -> Iterator[Iterator[str]]:
        """Run a block that does not end by itself, until the end of this context. Yield the lines that it prints."""
        with subprocess.Popen(
            ["sh", "-ec", block(name, DOCUMENT)],
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,
        ) as process:
            try:
                assert process.stdout is not None
                yield iter(process.stdout)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def watches(self) -> str:
        """Return the line at which the user stops watching, according to the document."""
        with self.doing("watch") as lines:
            for line in lines:
                if "Complete" in line or "Failed" in line:
                    return line
        raise AssertionError("kubectl stopped watching")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    yield from new_namespace(deny=False)


@pytest.fixture
def reader(namespace, image, tmp_path) -> Reader:
    """Return a reader who has run the blocks at the start of all walk-throughs."""
    (tmp_path / "charts").symlink_to(CHART.parent)
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--flatten", "--minify"))
    config["contexts"][0]["context"]["namespace"] = namespace.name
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(config))
    repository, tag = image.rsplit(":", 1)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = clean | {
        "KUBECONFIG": str(kubeconfig),
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "IMAGE": repository,
        "TAG": tag,
    }
    if "E2E_HELM_IMAGE" in os.environ:
        environment["HELM_IMAGE"] = os.environ["E2E_HELM_IMAGE"]
    new = Reader(tmp_path, environment)
    new.does("variables", "laptop values")
    return new


@pytest.fixture
def mnist_job(release, namespace):
    """Return the release that all walk-throughs create."""
    return release("mnist-job", namespace)


@pytest.mark.full
def test_a_first_run(reader, mnist_job, namespace):
    before = namespace.resources()
    reader.does("install")
    assert "SUCCEEDED" in reader.watches()
    result = mnist_job.result()
    assert float(result["accuracy"]) > 0.7
    printed = reader.does("result")
    assert printed.startswith(result["accuracy"])
    assert f"model: {result['model']}\n" in printed

    assert {"model.keras", "report.html"} <= set(reader.does("files").split())
    model, report = (reader.folder / "results" / name for name in ("model.keras", "report.html"))
    assert hashlib.sha256(model.read_bytes()).hexdigest() == result["model-sha256"]
    reader.does("reader")
    assert (reader.folder / "runs" / result["rayjob"] / "mnist-job/report.html").read_bytes() == report.read_bytes()

    reader.does("uninstall")
    mnist_job.gone(but=before)


@pytest.mark.full
def test_a_standing_ray_cluster(reader, namespace):
    reader.does("cluster install")
    with reader.doing("cluster forward") as lines:
        assert "8265" in next(lines)
        printed = reader.does("cluster submit")
    assert "test accuracy 0." in printed
    assert "results in /storage/runs/mnist-job/seed-1" in printed
    reader.does("cluster uninstall")
    assert namespace.list("rayclusters.ray.io") == []


@pytest.mark.full
def test_a_gpu_pool_whose_gpus_tensorflow_does_not_see(reader, mnist_job, pretended_gpus, gpu_image):
    tag = gpu_image["tag"].removesuffix("-gpu")
    reader = replace(reader, environment=reader.environment | {"IMAGE": gpu_image["repository"], "TAG": tag})
    reader.does("laptop values", "gpu values")
    nodes = [line.split() for line in reader.does("gpu nodes").splitlines()]
    assert "2" in [gpus for _, gpus in nodes[nodes.index(["NODE", "GPUS"]) + 1 :]]
    reader.does("gpu install")
    assert "FAILED" in reader.watches()
    code, _, reason = reader.does("gpu result").partition(" ")
    assert code == "4"
    assert "TensorFlow sees no GPU" in reason
    assert reader.does("gpu seen").strip() == "[]"
    (worker,) = mnist_job.pods("worker")
    assert worker["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    reader.does("gpu uninstall")


@pytest.fixture
def queues(kueue) -> Iterator[None]:
    """Check that nobody else uses the document's names, which are cluster-wide, and delete these objects at the end."""
    names = ("clusterqueue/training", "resourceflavor/training")
    assert run("kubectl", "get", *names, check=False).stdout == "", "a queue of somebody else"
    yield
    kubectl("delete", *names, "--ignore-not-found", "--wait=false")


@pytest.mark.full
def test_a_kueue_queue(reader, mnist_job, namespace, queues):
    reader.does("kueue queue")
    told = ("Suspended", "rayjob-mnist-job-", "insufficient quota for cpu in flavor training")
    wait_until(lambda: all(text in reader.does("kueue look") for text in told), "Kueue to say why")
    assert mnist_job.pods() == []
    (row,) = [line for line in reader.does("kueue admit").splitlines() if line.startswith("rayjob-mnist-job-")]
    assert row.split()[1:4] == ["training", "training", "True"]
    mnist_job.runs()
    reader.does("kueue end")
    assert namespace.list("rayjobs.ray.io") == []


@pytest.mark.full
def test_every_night_with_an_alert(reader, mnist_job, namespace):
    reader.does("nightly values")
    adapt(reader.folder / "nightly.yaml")
    reader.does("nightly configmap", "nightly account", "nightly cronjob")
    assert "helm test" in reader.does("first night")
    assert "SUCCEEDED" in reader.watches()
    first = mnist_job.rayjob()["metadata"]["name"]
    (reader.folder / "prometheus").mkdir()
    with scraping(namespace, reader.folder / "prometheus") as prometheus:
        # from the head and from the Pushgateway; if a recorded series exists, the rules were evaluated
        assert prometheus.value("count(mnist_job_test_accuracy_ratio > 0.7) == 2")
        assert prometheus.value("namespace_job:mnist_job_last_success_timestamp_seconds:max14d") > 0
        assert prometheus.query(DROPPED) == []

        reader.does("poor night", "nightly configmap", "second night")
        runs = "rayjobs.ray.io"
        wait_until(lambda: first not in [one["metadata"]["name"] for one in namespace.list(runs)], "the first to go")
        assert mnist_job.finished()["status"]["jobStatus"] == "SUCCEEDED"
        assert float(mnist_job.result()["accuracy"]) < 0.6
        assert prometheus.value(block("alert query", DOCUMENT)) == 1
        ((labels, _),) = prometheus.query(DROPPED)
    wanted = {"namespace": namespace.name, "job": "mnist-job", "dataset": "digits", "alertstate": "firing"}
    assert wanted.items() <= labels.items()
    reader.does("nightly end")
    assert namespace.list("rayjobs.ray.io") == []


def adapt(values: Path) -> None:
    """Scrape more often, and use a Pushgateway image that this cluster can pull."""
    changes: dict = {"metrics": {"podMonitor": {"interval": "5s"}}}
    if "E2E_PUSHGATEWAY_IMAGE" in os.environ:
        repository, tag = os.environ["E2E_PUSHGATEWAY_IMAGE"].rsplit(":", 1)
        changes["metrics"]["pushgateway"] = {"deploy": {"image": {"repository": repository, "tag": tag}}}
    values.write_text(yaml.safe_dump(merge(yaml.safe_load(values.read_text()), changes)))
