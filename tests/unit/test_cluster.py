"""Test the requests to the Kubernetes API, and how refusals are reported. tests/e2e uses a real API server."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from mnist_job.config.settings import JobConfig
from mnist_job.distributed import cluster
from mnist_job.errors import DeliveryError, UsageError
from mnist_job.evaluation.measures import Evaluation
from mnist_job.kubernetes import result
from mnist_job.results.outcome import Identity
from tests.unit.test_metrics import failed, outcome

CONFIG = JobConfig(
    data="digits",
    name="nightly",
    output="s3://bucket/runs?region=here",
    delivery_timeout=5,
    kubernetes_result="nightly-result",
    kubernetes_rayjob="nightly-1",
)


class Server(ThreadingHTTPServer):
    """Records each request, and answers with `codes`, one after the other, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, dict]] = []
        self.codes: list[int] = []
        self.message = ""
        self.items: list[dict] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        self.server.requests.append((self.command, self.path.rpartition("/namespaces/")[2], body))
        code = self.server.codes.pop(0) if self.server.codes else 200
        answer = json.dumps(
            (body if self.command == "POST" else {}) | {"metadata": {"name": "nightly-1", "uid": "1234"}}
        ).encode()
        if "/pods" in self.path:
            answer = json.dumps({"items": self.server.items}).encode()
        if code >= 400:
            answer = json.dumps({"kind": "Status", "message": self.server.message}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PATCH = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(tmp_path, monkeypatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        use(monkeypatch, tmp_path, server.server_address[1])
        yield server
        server.shutdown()
        thread.join()


def use(monkeypatch, tmp_path, port: int) -> None:
    """Return a kubeconfig for an API server at this port."""
    named = {"name": "here"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [named | {"user": {}}],
        "contexts": [named | {"context": {"cluster": "here", "user": "here", "namespace": "team"}}],
        "current-context": "here",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def identity() -> Identity:
    return Identity.of(CONFIG)


def test_a_success_fills_the_configmap(api):
    ended = outcome(identity=identity())
    result.write_result(ended, "nightly-result", 5)
    ((method, path, body),) = api.requests
    assert (method, path) == ("PATCH", "team/configmaps/nightly-result")
    last_success = json.loads(body["data"].pop("last-success"))
    assert last_success == {name: value for name, value in body["data"].items() if value is not None}
    assert body["data"] == {
        "name": "nightly",
        "run": ended.identity.run,
        "rayjob": "nightly-1",
        "version": ended.identity.version,
        "config-hash": ended.identity.config_hash,
        "dataset": "digits",
        "finished": body["data"]["finished"],
        "succeeded": "true",
        "exit-code": "0",
        "reason": None,
        "accuracy": "0.75",
        "loss": "0.25",
        "samples": "4",
        "model": "s3://bucket/runs/nightly/model.keras",
        "model-sha256": "ab",
    }


def test_the_model_is_the_saved_one_and_not_the_users_function(api):
    own = Identity.of(CONFIG.model_copy(update={"model": "notebook.py:model"}))
    result.write_result(outcome(identity=own), "nightly-result", 5)
    assert api.requests[0][2]["data"]["model"] == "s3://bucket/runs/nightly/model.keras"


def test_a_failure_removes_the_values_of_the_run_before_and_keeps_the_last_success(api):
    result.write_result(failed(), "nightly-result", 5)
    data = api.requests[0][2]["data"]
    assert "last-success" not in data
    assert (data["succeeded"], data["exit-code"], data["reason"]) == ("false", "5", "broken")
    assert all(data[name] is None for name in ("accuracy", "loss", "samples", "model", "model-sha256"))


def test_a_model_that_is_too_poor_is_reported_with_its_accuracy(api):
    result.write_result(outcome(exit_code=7, reason="too poor"), "nightly-result", 5)
    data = api.requests[0][2]["data"]
    assert (data["exit-code"], data["accuracy"]) == ("7", "0.75")
    assert "last-success" not in data


@pytest.mark.parametrize(
    ("ended", "kind", "reason", "message"),
    [
        (outcome(), "Normal", "Succeeded", "test accuracy 0.7500, test loss 0.2500"),
        (outcome(evaluation=Evaluation(4, 0.25)), "Normal", "Succeeded", ": test loss 0.2500"),
        (failed(5), "Warning", "TrainingError", "exit code 5: broken"),
        (outcome(exit_code=7, reason="low"), "Warning", "QualityError", "test loss 0.2500; exit code 7: low"),
        (outcome(exit_code=3, reason="long" * 999, evaluation=None), "Warning", "DataError", "longlong"),
    ],
)
def test_the_event(api, ended, kind, reason, message):
    result.record_event(ended, "nightly-1", 5)
    assert [request[:2] for request in api.requests] == [("GET", "team/rayjobs/nightly-1"), ("POST", "team/events")]
    event = api.requests[1][2]
    assert event["involvedObject"] == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "name": "nightly-1",
        "namespace": "team",
        "uid": "1234",
    }
    assert (event["type"], event["reason"]) == (kind, reason)
    assert message in event["message"]
    assert len(event["message"]) <= 1024


def test_pods_that_were_killed_for_memory_are_named(api, monkeypatch):
    monkeypatch.setattr(cluster, "short_of_memory", lambda: ["by-the-kernel"])
    monkeypatch.setenv("RAY_CLUSTER_NAME", "nightly-1-abc")
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    api.items = [
        pod("now", {"state": killed, "lastState": {}}),
        pod("before", {"state": {"running": {}}, "lastState": killed}),
        pod("well", {"state": {"running": {}}, "lastState": {"terminated": {"reason": "Error", "exitCode": 1}}}),
        {"metadata": {"name": "waiting"}, "status": {}},
    ]
    assert result.killed_for_memory(CONFIG.kubernetes_rayjob, 5) == ["now", "before"]
    assert api.requests[0][1] == "team/pods?labelSelector=ray.io/cluster%3Dnightly-1-abc"
    api.items = api.items[2:]
    assert result.killed_for_memory(CONFIG.kubernetes_rayjob, 5) == ["by-the-kernel"]
    assert result.killed_for_memory(None, 5) == []


@pytest.mark.parametrize(
    ("file", "content", "kills"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("memory/memory.usage_in_bytes", "5\n", 0),
    ],
    ids=["cgroup v2", "cgroup v1", "neither"],
)
def test_the_kernel_counts_what_it_killed_for_memory(tmp_path, file, content, kills):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert cluster.kills_for_memory(tmp_path) == kills


def pod(name: str, status: dict) -> dict:
    container = {"name": "ray", "image": "i", "imageID": "i", "ready": True, "restartCount": 0} | status
    return {"metadata": {"name": name}, "status": {"containerStatuses": [container]}}


def test_an_api_server_that_is_busy_is_asked_again(api):
    api.codes = [503, 429]
    result.check(CONFIG)
    assert [request[1] for request in api.requests] == 3 * ["team/configmaps/nightly-result"] + [
        "team/rayjobs/nightly-1"
    ]


FORBIDDEN = (
    'configmaps "nightly-result" is forbidden: User "system:serviceaccount:team:default" cannot get resource '
    '"configmaps" in API group "" in the namespace "team"'
)


@pytest.mark.parametrize(
    ("code", "message", "sentence"),
    [
        (403, FORBIDDEN, "system:serviceaccount:team:default may not get configmaps in namespace team; ask for a Role"),
        (403, "", "403 Forbidden"),
        (404, 'configmaps "nightly-result" not found', '404 Not Found: configmaps "nightly-result" not found'),
        (401, "Unauthorized", "401 Unauthorized: Unauthorized; log in to the cluster again"),
    ],
)
def test_a_refusal_is_told_at_once(api, code, message, sentence):
    api.codes, api.message = [code], message
    with pytest.raises(UsageError, match=rf"ConfigMap nightly-result in namespace team: .*{sentence}"):
        result.check(CONFIG)
    assert len(api.requests) == 1


def test_an_api_server_that_never_answers_is_given_up(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(monkeypatch, tmp_path, silent.getsockname()[1])
        with pytest.raises(DeliveryError, match="ConfigMap nightly-result"):
            result.write_result(outcome(), "nightly-result", 0.5)


def test_outside_of_kubernetes_it_is_refused_beforehand(monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, 1)
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(UsageError, match="--kubernetes-result, --kubernetes-rayjob: this is not a pod"):
        result.check(CONFIG)
    result.check(JobConfig())
