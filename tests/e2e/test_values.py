"""Helm refuses values that cannot work, each with a sentence, and creates nothing. tests/chart tests all rules."""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.e2e.kube import CHART, run, serving

TWO_KINDS = {"gpus": 1, "replicas": 1, "resources": {}}
BAD = {
    "no such value": ({"settings": {"epoch": 3}}, "additional properties 'epoch' not allowed"),
    "out of bounds": ({"settings": {"epochs": 0}}, "'/settings/epochs': minimum"),
    "GPUs without a GPU image": (
        {"workerGroups": {"default": {"gpus": 1}}},
        "names an image without CUDA; set image.tag",
    ),
    "CPU and GPU workers": ({"workerGroups": {"more": TWO_KINDS}}, "have GPUs (more), others have none (default)"),
    "no shared storage": (
        {"storage": {"persistentVolumeClaim": {"create": False}}},
        "head and workers share no place for checkpoints and results; set",
    ),
    "gone before it is scraped": (
        {"metrics": {"podMonitor": {"enabled": True, "interval": "6m"}}},
        "600 s is less than the time of two scrapes",
    ),
    "more workers than images": (
        {"settings": {"batch_size": 1}},
        "settings.batch_size: 1 is less than one image for each",
    ),
    "no queue": ({"scheduling": {"provider": "yunikorn"}}, "scheduling.queue: yunikorn needs the name of a queue"),
}


@pytest.fixture(scope="module")
def before(open_namespace) -> set[str]:
    return open_namespace.resources()


@pytest.mark.parametrize(("values", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_values_create_nothing(release, open_namespace, before, values, sentence):
    done = release("mnist-job", open_namespace).helm("install", values=values)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert open_namespace.resources() == before


class WithoutKubeRay(BaseHTTPRequestHandler):
    """A proxy of the API server. It removes ray.io from the list of API groups."""

    api: str

    def do_GET(self) -> None:
        # Does not pass on the header that asks for all groups in one document, so Kubernetes lists them one by one.
        request = urllib.request.Request(f"http://{self.api}{self.path}", headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                status, body = refusal.code, refusal.read()
        if self.path.split("?")[0] == "/apis":
            groups = json.loads(body)
            groups["groups"] = [group for group in groups["groups"] if group["name"] != "ray.io"]
            body = json.dumps(groups).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def without_kuberay(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield environment variables with which Helm sees this cluster as if KubeRay were not installed."""
    with serving("proxy", "--port=0") as api:
        handler = type("Handler", (WithoutKubeRay,), {"api": api})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            clusters = [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}]
            contexts = [{"name": "it", "context": {"cluster": "it"}}]
            config = {"apiVersion": "v1", "kind": "Config", "clusters": clusters, "contexts": contexts}
            (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config | {"current-context": "it"}))
            yield {"KUBECONFIG": str(tmp_path / "kubeconfig")}
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def test_without_kuberay_it_says_how_to_install_it(open_namespace, without_kuberay):
    install = ("install", "mnist-job", CHART, f"--namespace={open_namespace.name}")
    done = run("helm", *install, check=False, environment=os.environ | without_kuberay)
    assert done.returncode != 0
    assert "helm install kuberay-operator" in done.stderr
