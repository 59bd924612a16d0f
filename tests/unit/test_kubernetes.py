"""Test what the Kubernetes commands print for a cluster's answers. tests/e2e has a real cluster."""

import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from mnist_job.cli.main import main
from mnist_job.kubernetes import logs
from tests.conftest import start, wait_for
from tests.unit.test_cluster import use

RAYJOBS = "/apis/ray.io/v1/namespaces/team/rayjobs"
PODS = "/api/v1/namespaces/team/pods"
NAME = "nightly-0123abcd"
LABELS = {"app.kubernetes.io/instance": "nightly", "app.kubernetes.io/name": "mnist-job"}


class Cluster(ThreadingHTTPServer):
    """Answers with the entry of `objects` for the path: JSON with code 200, (code, message), or the text of a log."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.patches: list[tuple[str, dict]] = []
        self.objects: dict[str, Any] = {
            PODS: {"items": []},
            "/api/v1/namespaces/team/events": {"items": []},
            "/api/v1/namespaces/team/configmaps": {"items": []},
            "/api/v1/namespaces/team/configmaps/nightly-result": {"metadata": {"name": "nightly-result"}},
        }

    def has(self, rayjob: dict) -> None:
        self.objects[RAYJOBS] = {"items": [rayjob]}
        self.objects[f"{RAYJOBS}/{NAME}"] = rayjob

    def result(self, **data: str) -> None:
        configmap = {"metadata": {"name": "nightly-result", "namespace": "team"}, "data": data}
        self.objects["/api/v1/namespaces/team/configmaps/nightly-result"] = configmap
        self.objects["/api/v1/namespaces/team/configmaps"] = {"items": [configmap]}


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        answer = self.server.objects.get(urlsplit(self.path).path, (404, "not found"))
        code = 200
        if isinstance(answer, tuple):
            code, message = answer
            answer = {"kind": "Status", "message": message}
        body = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.patches.append((urlsplit(self.path).path, body))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        use(monkeypatch, tmp_path, server.server_address[1])
        monkeypatch.delenv("KUBECONFIG", raising=False)
        yield server
        server.shutdown()
        thread.join()


def rayjob(phase: str = "Running", *, suspend: bool = False, labels: dict | None = None, **status: str) -> dict:
    return {
        "metadata": {
            "name": NAME,
            "namespace": "team",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": LABELS | (labels or {}),
        },
        "spec": {"suspend": suspend},
        "status": {"jobDeploymentStatus": phase, "rayClusterName": f"{NAME}-x", "startTime": "2026-01-01T00:00:01Z"}
        | status,
    }


def pod(
    component: str, container: dict, *, conditions: list[dict] | None = None, cpu: str = "1", **status: Any
) -> dict:
    labels = LABELS | {"app.kubernetes.io/component": component}
    owner = {"job-name": NAME} if component == "submitter" else {"ray.io/cluster": f"{NAME}-x"}
    one = {"name": "main", "image": "here/mnist-job:1", "imageID": "", "ready": False, "restartCount": 0} | container
    return {
        "metadata": {"name": f"{NAME}-x-{component}", "labels": labels | owner},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending", "conditions": conditions or [], "containerStatuses": [one] if container else []}
        | status,
    }


RUNS = {"ready": True, "state": {"running": {}}}


def told(capsys) -> tuple[str, list[str]]:
    printed = capsys.readouterr()
    return printed.out, printed.err.splitlines()


def state(capsys) -> dict:
    assert main(["status", "nightly", "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", [["status", "nightly"], ["logs", "nightly"], ["cancel", "nightly"], ["list"]])
def test_a_cluster_without_kuberay(cluster, capsys, command):
    assert main(command) == 4
    _, (line,) = told(capsys)
    assert line.startswith("mnist-job: the cluster has no KubeRay, which runs RayJobs; install it first: helm install")


def test_a_submit_asks_for_kuberay_first(cluster, capsys):
    assert main(["submit", "--name", "nightly"]) == 4
    assert "the cluster has no KubeRay" in told(capsys)[1][0]


@pytest.mark.parametrize(
    ("command", "right", "place"),
    [
        (["status", "nightly"], 'resource "rayjobs" in API group "ray.io" in the namespace "team"', "namespace team"),
        (["list", "-A"], 'resource "rayjobs" in API group "ray.io" at the cluster scope', "all namespaces"),
    ],
)
def test_a_right_that_is_missing_is_named(cluster, capsys, command, right, place):
    for path in (RAYJOBS, "/apis/ray.io/v1/rayjobs"):
        cluster.objects[path] = (403, f'rayjobs.ray.io is forbidden: User "ann" cannot list {right}')
    cluster.objects["/api/v1/configmaps"] = {"items": []}
    assert main(command) == 4
    _, (line,) = told(capsys)
    where = " in namespace team" if "team" in right else ""
    kind = "Role" if where else "ClusterRole"
    assert line == (
        f"mnist-job: RayJobs in {place}: ann may not list rayjobs.ray.io{where}; "
        f"ask for a {kind} that has this verb for this resource"
    )


def test_no_such_job(cluster, capsys):
    cluster.objects[RAYJOBS] = {"items": []}
    assert main(["status", "nightly"]) == 4
    assert told(capsys)[1] == [
        "mnist-job: there is no job nightly in namespace team; `mnist-job list --all-namespaces` shows all jobs"
    ]


def test_no_cluster(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mnist_job.kubernetes.commands.ASK_SECONDS", 0.1)
    use(monkeypatch, tmp_path, 1)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main(["status"]) == 4
    assert told(capsys)[1][0].startswith("mnist-job: RayJobs: the cluster's API http://127.0.0.1:1 does not answer: ")
    assert main(["status", "--context", "elsewhere"]) == 2
    assert told(capsys)[1] == [
        f"mnist-job: --context elsewhere: the kubeconfig {tmp_path}/kubeconfig has only these: here"
    ]
    (tmp_path / "kubeconfig").unlink()
    assert main(["status"]) == 4
    assert told(capsys)[1][0].endswith("set KUBECONFIG to the kubeconfig of a cluster")


USER = "{users: [{name: here, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: '%s'}}}]}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be used: "),
        (b"hello", "cannot be used: "),
        (b"[1, 2]", "cannot be used: "),
        (b"a: [", "cannot be used: while parsing"),
        (b"\xff\xfe\x00", "cannot be used: "),
        (b"{contexts: [], users: [], clusters: []}", "cannot be used: "),
        (None, "cannot be used: "),  # a folder in place of the file
        ((USER % "there-is-none").encode(), "cannot log in: [Errno 2] No such file or directory: 'there-is-none'"),
        ((USER % "false").encode(), "cannot log in: exec: process returned 1"),
    ],
)
def test_a_kubeconfig_that_is_none_or_cannot_log_in(tmp_path, monkeypatch, capsys, content, reason):
    use(monkeypatch, tmp_path, 1)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    file = tmp_path / "kubeconfig"
    if content is None:
        file.unlink()
        file.mkdir()
    elif content.startswith(b"{users"):
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | yaml.safe_load(content)))
    else:
        file.write_bytes(content)
    assert main(["list"]) == 4
    out, (line,) = told(capsys)
    assert out == ""
    assert line.startswith(f"mnist-job: the kubeconfig {file} {reason}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Write a key and a self-signed certificate."""
    folder = tmp_path_factory.mktemp("certificate")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1")
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "both", "-out", folder / "certificate")
    subprocess.run([*made, *names], check=True, capture_output=True)
    with (folder / "both").open("a") as file:
        file.write((folder / "certificate").read_text())
    return folder / "both"


def test_a_certificate_that_is_not_trusted_is_told_at_once(cluster, tmp_path, capsys, certificate):
    """The command prints no `0 SSLError` and does not retry, because the certificate will not become valid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    cluster.socket = context.wrap_socket(cluster.socket, server_side=True)
    file = tmp_path / "kubeconfig"
    content = file.read_text()
    file.write_text(content.replace("http://", "https://"))
    assert main(["list"]) == 4
    (line,) = told(capsys)[1]
    assert "its certificate is not trusted: self" in line  # OpenSSL: "self-signed" or "self signed"
    assert "certificate-authority have to be those of this cluster" in line
    file.write_text(
        content.replace("http://", "https://").replace("server:", f"certificate-authority: {file}\n    server:")
    )
    assert main(["list"]) == 4
    assert "RayJobs: the cluster's API https://127.0.0.1:" in told(capsys)[1][0]
    file.write_text(
        content.replace("http://", "https://").replace("server:", f"certificate-authority: {certificate}\n    server:")
    )
    cluster.objects[RAYJOBS] = {"items": []}
    assert main(["list"]) == 0


def test_missing_credentials_are_not_reported_as_missing_rights(cluster, capsys):
    refused = (
        'rayjobs.ray.io is forbidden: User "system:anonymous" cannot list resource "rayjobs" in API group "ray.io"'
    )
    cluster.objects[RAYJOBS] = (403, refused)
    assert main(["list"]) == 4
    assert "the kubeconfig's user has no credentials; log in to it again" in told(capsys)[1][0]


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}},
            "image here/mnist-job:1 cannot be pulled (ImagePullBackOff: Back-off pulling); check --image, and ",
        ),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, "ContainerCreating"),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}, "CrashLoopBackOff: back-off"),
        (
            {"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
            "container main ended with 137 (OOMKilled)",
        ),
    ],
)
def test_what_a_pod_waits_for(cluster, capsys, waiting, reason):
    cluster.has(rayjob("Initializing"))
    cluster.objects[PODS] = {"items": [pod("worker", waiting), pod("head", RUNS, phase="Running")]}
    head, worker = state(capsys)["pods"]
    assert (head["component"], head["ready"], head["waits"]) == ("head", True, None)
    assert (worker["name"], worker["ready"]) == (f"{NAME}-x-worker", False)
    assert worker["waits"].startswith(reason)


def test_a_pod_whose_volume_is_missing(cluster, capsys):
    cluster.has(rayjob("Initializing"))
    cluster.objects[PODS] = {"items": [pod("head", {"state": {"waiting": {"reason": "ContainerCreating"}}})]}
    about = {"involvedObject": {"name": f"{NAME}-x-head"}, "reason": "FailedMount", "message": 'no volume "a"'}
    event = {"metadata": {"name": "e", "namespace": "team", "resourceVersion": "7"}, **about}
    cluster.objects["/api/v1/namespaces/team/events"] = {"items": [event]}
    assert state(capsys)["pods"][0]["waits"] == 'FailedMount: no volume "a"'


def test_a_quota_that_lets_no_pod_in(cluster, capsys):
    cluster.has(rayjob("Initializing"))
    about = {"involvedObject": {"name": f"{NAME}-x"}, "reason": "FailedToCreateHeadPod", "message": "exceeded quota"}
    event = {"metadata": {"name": "e", "namespace": "team", "resourceVersion": "7"}, **about}
    cluster.objects["/api/v1/namespaces/team/events"] = {"items": [event]}
    assert state(capsys)["message"] == "FailedToCreateHeadPod: exceeded quota"


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are.",
}


def test_too_few_cpus_are_counted(cluster, capsys):
    cluster.has(rayjob("Initializing"))
    cluster.objects[PODS] = {"items": [pod("worker", {}, conditions=[UNSCHEDULABLE], cpu="1500m")]}
    nodes = [{"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2"}}} for name in ("a", "b")]
    taken = [
        {"spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": "700m"}}}]}}
        for node in ("a", "a", "b")
    ]
    cluster.objects |= {"/api/v1/nodes": {"items": nodes}, "/api/v1/pods": {"items": taken}}
    assert state(capsys)["pods"][0]["waits"] == (
        "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. (CPUs: 1.5 requested, 4 on all nodes, at most "
        "1.3 free on one); request less in --values (workerGroups, head), or add nodes"
    )
    cluster.objects["/api/v1/nodes"] = (403, "forbidden")
    assert state(capsys)["pods"][0]["waits"] == "Unschedulable: 0/2 nodes are available: 2 Insufficient cpu."


@pytest.mark.parametrize("line", ["epoch  3/10  loss 0.5", '{"level": "info", "message": "epoch  3/10  loss 0.5"}'])
def test_a_running_job_shows_its_progress(cluster, capsys, line):
    cluster.has(rayjob("Running", jobStatus="RUNNING"))
    cluster.objects[PODS] = {"items": [pod("submitter", RUNS, phase="Running")]}
    cluster.objects[f"{PODS}/{NAME}-x-submitter/log"] = f"training\n{line}\n"
    assert main(["status", "nightly"]) == 0
    out, _ = told(capsys)
    assert "phase     Running" in out
    assert "progress  epoch  3/10  loss 0.5" in out
    assert "\x1b" not in out


def test_watching_ends_when_nothing_more_comes_and_an_interruption_leaves_the_job_alone(cluster, capsys, tmp_path):
    cluster.has(rayjob("Running"))
    where = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    process = start("status", "nightly", "--watch", "--namespace", "team", cwd=tmp_path, **where)
    wait_for(process, "phase     Running")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == (
        "mnist-job: interrupted; the job on Kubernetes continues: mnist-job status nightly --namespace team\n"
    )
    assert process.returncode == 130
    cluster.has(rayjob("Complete", jobStatus="SUCCEEDED"))
    assert main(["status", "nightly", "--watch", "-o", "json"]) == 0
    (line,) = told(capsys)[0].splitlines()
    assert json.loads(line)["phase"] == "Succeeded"


def test_the_job_is_the_argument_or_the_environment_variable(cluster, capsys, monkeypatch):
    cluster.has(rayjob("Running"))
    assert main(["status"]) == 4
    assert "there is no job mnist-job in namespace team" in told(capsys)[1][0]
    monkeypatch.setenv("MNIST_JOB_NAME", "nightly")
    assert main(["status"]) == 0
    assert "nightly in namespace team" in told(capsys)[0]
    assert main(["status", "other"]) == 4


RESULT = {"rayjob": NAME, "exit-code": "0", "accuracy": "0.98", "loss": "0.06", "succeeded": "true"}


@pytest.mark.parametrize(
    ("phase", "status", "result", "code", "line"),
    [
        ("Complete", {"jobStatus": "SUCCEEDED"}, RESULT, 0, ""),
        (
            "Failed",
            {"jobStatus": "FAILED", "reason": "AppFailed", "message": "long\nlast"},
            RESULT | {"exit-code": "7", "reason": "too poor"},
            7,
            "mnist-job: too poor",
        ),
        ("Complete", {"jobStatus": "SUCCEEDED"}, {k: v for k, v in RESULT.items() if k != "accuracy"}, 0, ""),
        (
            "Failed",
            {"jobStatus": "FAILED"},
            RESULT | {"exit-code": "130", "reason": "stopped"},
            130,
            "mnist-job: stopped",
        ),
        (
            "Failed",
            {"reason": "PreRunningDeadlineExceeded", "message": "The RayJob has passed it."},
            RESULT | {"rayjob": "nightly-other"},
            4,
            f"mnist-job: RayJob {NAME}: Failed: PreRunningDeadlineExceeded: The RayJob has passed it.; "
            f"pod {NAME}-x-head waits: ErrImagePull",
        ),
        (
            "Failed",
            {"reason": "AppFailed", "message": "Job entrypoint command failed with exit code 8, last available logs"},
            {},
            8,
            "mnist-job: Job entrypoint command failed with exit code 8, last available logs",
        ),
    ],
)
def test_waiting_ends_with_the_job_s_own_exit_code(cluster, capsys, monkeypatch, phase, status, result, code, line):
    monkeypatch.setattr("mnist_job.kubernetes.submit.install", lambda *_: None)
    cluster.has(rayjob(phase, **status))
    cluster.result(**result)
    if code == 4:
        waits = {"state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}}
        cluster.objects[PODS] = {"items": [pod("head", waits | {"image": "a"})]}
        line = line.replace("ErrImagePull", "image a cannot be pulled (ErrImagePull: none); check --image, and ")
    assert main(["submit", "--name", "nightly", "--wait"]) == code
    out, err = told(capsys)
    assert "these settings were submitted before; --force runs them again" in out
    assert "\n".join(err).startswith(line)
    measured = "test accuracy 0.9800, test loss 0.0600" if "accuracy" in result else "test loss 0.0600"
    assert (f"{measured}\n" in out) == (code in (0, 7, 130))
    assert main(["submit", "--name", "nightly", "--wait", "-o", "json"]) == code
    document, lines = told(capsys)
    found = json.loads(document)
    assert (found["action"], found["rayjob"], found["exit_code"]) == ("unchanged", NAME, code)
    assert found["reason"] == ("\n".join(err).removeprefix("mnist-job: ") or None)
    assert lines == [*out.splitlines(), *err]


def test_a_script_that_asked_for_json_gets_it_for_a_failure(cluster, capsys):
    for command in (["status"], ["list"], ["cancel"], ["submit"]):
        assert main([*command, "-o", "json"]) == 4
        document, (line,) = told(capsys)
        assert json.loads(document) == {"exit_code": 4, "reason": line.removeprefix("mnist-job: ")}


def test_cancel_and_submit_again(cluster, capsys, monkeypatch):
    cluster.has(rayjob("Running"))
    assert main(["cancel", "nightly"]) == 0
    assert "cancelled; the same `submit` resumes from the last checkpoint" in told(capsys)[0]
    cluster.has(rayjob("Suspended", suspend=True))
    assert state(capsys)["phase"] == "Cancelled"
    monkeypatch.setattr("mnist_job.kubernetes.submit.install", lambda *_: None)
    assert main(["submit", "--name", "nightly", "-o", "json"]) == 0
    assert json.loads(told(capsys)[0])["action"] == "resumed"
    path = f"{RAYJOBS}/{NAME}"
    assert cluster.patches == [(path, {"spec": {"suspend": True}}), (path, {"spec": {"suspend": False}})]


def test_a_finished_job_is_not_cancelled(cluster, capsys):
    cluster.has(rayjob("Complete", jobStatus="SUCCEEDED"))
    assert main(["cancel", "nightly", "-o", "json"]) == 0
    assert json.loads(told(capsys)[0])["action"] == "none"
    assert cluster.patches == []


def test_a_queued_job_is_taken_out_of_the_queue_by_deleting_it(cluster, capsys):
    cluster.has(rayjob("Suspended", suspend=True, labels={"kueue.x-k8s.io/queue-name": "q"}))
    assert state(capsys)["phase"] == "Queued"
    assert main(["cancel", "nightly"]) == 4
    assert "`mnist-job cancel nightly --delete`" in told(capsys)[1][0]
    assert cluster.patches == []


def test_the_list(cluster, capsys):
    cluster.objects[RAYJOBS] = {"items": []}
    assert main(["list"]) == 0
    assert told(capsys)[0] == "no jobs\n"
    cluster.has(rayjob("Complete", jobStatus="SUCCEEDED", endTime="2026-01-01T00:01:00Z"))
    cluster.result(**RESULT)
    assert main(["list"]) == 0
    assert told(capsys)[0].splitlines()[1].split() == [
        *("team", "nightly", "Succeeded", "2026-01-01T00:00:01Z", "2026-01-01T00:01:00Z", "0.9800", "0", NAME)
    ]
    assert main(["list", "-o", "json"]) == 0
    assert json.loads(told(capsys)[0])[0]["result"] == RESULT


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_logs_of_all_pods(cluster, capsys, follow):
    cluster.has(rayjob("Complete", jobStatus="SUCCEEDED"))
    names = {component: f"{NAME}-x-{component}" for component in ("submitter", "head", "worker")}
    cluster.objects[PODS] = {"items": [pod(component, RUNS) for component in names]}
    for component, name in names.items():
        cluster.objects[f"{PODS}/{name}/log"] = f"{component} [red]1[/]\n{component} 2"
    assert main(["logs", "nightly", *follow]) == 0
    assert told(capsys)[0].splitlines() == [
        f"{name} {component} {rest}" for component, name in names.items() for rest in ("[red]1[/]", "2")
    ]


ANSI = "\x1b[36m(RayTrainWorker pid=7)\x1b[0m \x1b[1;32mdone\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07"


def test_ray_s_colours_are_for_terminals(cluster, capsys, monkeypatch):
    cluster.has(rayjob("Complete", jobStatus="SUCCEEDED"))
    cluster.objects[PODS] = {"items": [pod("head", RUNS)]}
    cluster.objects[f"{PODS}/{NAME}-x-head/log"] = ANSI
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert main(["logs", "nightly"]) == 0
    assert told(capsys)[0] == f"{NAME}-x-head (RayTrainWorker pid=7) done link\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["logs", "nightly"]) == 0
    assert "\x1b[36m(RayTrainWorker pid=7)" in told(capsys)[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["logs", "nightly"]) == 0
    assert "\x1b[36m" not in told(capsys)[0]


@pytest.mark.parametrize("command", [("logs", "nightly", "--follow"), ("status", "nightly", "--watch")])
def test_a_reader_that_goes_ends_the_command_and_not_the_job(cluster, tmp_path, command):
    """With `| head -1`, the command ends at once, although neither the job nor its log has ended."""
    cluster.has(rayjob("Running"))
    cluster.objects[PODS] = {"items": [pod("head", RUNS)]}
    cluster.objects[f"{PODS}/{NAME}-x-head/log"] = "first\nsecond\n"
    with start(*command, cwd=tmp_path, KUBECONFIG=str(tmp_path / "kubeconfig")) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert cluster.patches == []


def test_logs_of_nothing(cluster, capsys):
    cluster.has(rayjob("Initializing"))
    assert main(["logs", "nightly"]) == 4
    assert "no pod has written anything yet; `mnist-job status nightly` says why" in told(capsys)[1][0]


def test_colours_tell_pods_apart(cluster, capsys, monkeypatch):
    cluster.has(rayjob("Complete"))
    cluster.objects[PODS] = {"items": [pod(component, RUNS) for component in ("head", "worker")]}
    for component in ("head", "worker"):
        cluster.objects[f"{PODS}/{NAME}-x-{component}/log"] = "line\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["logs", "nightly"]) == 0
    head, worker = told(capsys)[0].splitlines()
    assert head.split(NAME)[0] != worker.split(NAME)[0]
    assert len(set(logs.COLOURS)) == len(logs.COLOURS) >= 8
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["logs", "nightly"]) == 0
    assert "\x1b[3" not in told(capsys)[0]
