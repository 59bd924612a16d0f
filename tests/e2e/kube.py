"""Run kubectl and helm for the tests: JSON in and out. Wait for conditions, never for a fixed time."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

CHART = Path(__file__).parents[2] / "charts/mnist-job"
PATIENCE = 420  # the longest wait for a condition, in seconds: a run takes 100 s on two idle cores
T = TypeVar("T")


def run(
    *command: object,
    stdin: str | bytes | None = None,
    check: bool = True,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. If it fails, the error contains what it printed."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    words = [str(word) for word in command]
    done = subprocess.run(words, input=data, capture_output=True, timeout=PATIENCE, env=environment, cwd=folder)
    result = subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert not check or result.returncode == 0, f"{' '.join(words)}: {result.stdout}{result.stderr}"
    return result


def kubectl(*arguments: object, stdin: str | bytes | None = None) -> str:
    return run("kubectl", *arguments, stdin=stdin).stdout


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Wait until the condition returns a true value, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(1)
    return value


@contextmanager
def serving(*arguments: object) -> Iterator[str]:
    """Run `kubectl proxy` or `kubectl port-forward`, and yield the HOST:PORT of this machine that it prints."""
    with subprocess.Popen(["kubectl", *map(str, arguments)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = (
                process.stdout.readline().split()
            )  # "Starting to serve on HOST:PORT", "Forwarding from HOST:PORT -> ..."
            yield next(word for word in words if word.startswith("127.0.0.1:"))
        finally:
            process.terminate()


@dataclass(frozen=True)
class Namespace:
    name: str

    def kubectl(self, *arguments: object, stdin: str | bytes | None = None) -> str:
        return kubectl("--namespace", self.name, *arguments, stdin=stdin)

    def get(self, kind: str, name: str) -> dict:
        return json.loads(self.kubectl("get", kind, name, "--output=json"))

    def list(self, kind: str, selector: str = "") -> list[dict]:
        return json.loads(self.kubectl("get", kind, f"--selector={selector}", "--output=json"))["items"]

    def apply(self, *manifests: dict) -> None:
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def exec(self, pod: str, *command: str, stdin: str | bytes | None = None) -> str:
        return self.kubectl("exec", pod, *(["--stdin"] if stdin is not None else []), "--", *command, stdin=stdin)

    def raw(self, path: str) -> str:
        """Return the answer of a pod or a Service, through the API server: `services/NAME:PORT/proxy/metrics`."""
        return kubectl("get", "--raw", f"/api/v1/namespaces/{self.name}/{path}")

    def wait(self, condition: str, *what: str) -> None:
        self.kubectl("wait", f"--for={condition}", *what, f"--timeout={PATIENCE - 10}s")

    def resources(self) -> set[str]:
        """Return everything in the namespace except events, as KIND/NAME."""
        kinds = kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
        found = self.kubectl("get", ",".join(kinds), "--output=name").split()
        return {name for name in found if not name.startswith(("event/", "event.events.k8s.io/"))}

    def start(
        self, name: str, image: str, labels: dict[str, str] | None = None, claim: str = "", *, idle: bool = True
    ) -> str:
        """Start a pod that does nothing, to run commands in it, or else the image's own command.

        If a claim is given, it is mounted at /volume.
        """
        locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container: dict = {"name": "main", "image": image, "securityContext": locked}
        if idle:
            container["command"] = ["sleep", "infinity"]
        spec: dict = {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
            | {"seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        if claim:
            container["volumeMounts"] = [{"name": "volume", "mountPath": "/volume"}]
            spec["volumes"] = [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}]
        metadata = {"name": name, "labels": labels or {}}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.wait("condition=Ready", f"pod/{name}")
        return name


@dataclass(frozen=True)
class Release:
    """A Helm release of the chart. The objects of the release have its name."""

    name: str
    namespace: Namespace
    base: dict

    def helm(self, verb: str, *arguments: str, values: dict | None = None) -> subprocess.CompletedProcess[str]:
        options = [f"--namespace={self.namespace.name}", *arguments]
        if values is None:
            return run("helm", verb, self.name, *options, check=False)
        merged = yaml.safe_dump(merge(self.base, values))
        return run("helm", verb, self.name, CHART, *options, "--values=-", stdin=merged, check=False)

    def install(self, values: dict) -> str:
        """Install or upgrade the release, and return its notes."""
        done = self.helm("upgrade", "--install", values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def uninstall(self) -> None:
        done = self.helm("uninstall")
        assert done.returncode == 0, done.stderr

    def gone(self, but: set[str]) -> None:
        """Check that nothing is left of the release, after Kubernetes had time to delete what belonged to it."""
        with suppress(TimeoutError):
            wait_until(lambda: self.namespace.resources() == but, "what is left to go", 120)
        assert self.namespace.resources() == but

    def rayjob(self) -> dict:
        """Return the RayJob of the release. The one before it may still be there, marked for deletion."""
        there = self.namespace.list("rayjobs.ray.io", f"app.kubernetes.io/instance={self.name}")
        (found,) = (one for one in there if "deletionTimestamp" not in one["metadata"])
        return found

    def runs(self) -> None:
        """Wait until the driver runs."""
        wait_until(lambda: self.rayjob().get("status", {}).get("jobStatus") == "RUNNING", f"{self.name} to run")

    def finished(self) -> dict:
        """Wait until the RayJob has ended, and return it."""

        def ended() -> dict | None:
            rayjob = self.rayjob()
            state = rayjob.get("status", {}).get("jobDeploymentStatus")
            assert state != "ValidationFailed", rayjob["status"]
            return rayjob if state in ("Complete", "Failed") else None

        return wait_until(ended, f"the end of the RayJob of {self.name}")

    def result(self) -> dict[str, str]:
        return self.namespace.get("configmap", f"{self.name}-result").get("data", {})

    def events(self, rayjob: str) -> list[dict]:
        """Return the Events that the job itself has recorded on a RayJob, and not on former ones with its name."""
        uid = self.namespace.get("rayjobs.ray.io", rayjob)["metadata"]["uid"]
        of_rayjob = f"involvedObject.kind=RayJob,involvedObject.uid={uid}"
        found = json.loads(self.namespace.kubectl("get", "events", f"--field-selector={of_rayjob}", "--output=json"))
        return [
            event
            for event in found["items"]
            if "mnist-job" in (event["reportingComponent"], event["source"].get("component"))
        ]

    def pods(self, node_type: str = "") -> list[dict]:
        """Return the pods of its Ray cluster; `node_type` is head or worker."""
        ray = f"ray.io/node-type={node_type}" if node_type else "ray.io/node-type"
        return self.namespace.list("pods", f"app.kubernetes.io/instance={self.name},{ray}")

    def delete(self, pod: str) -> None:
        """Delete a pod at once, because its normal end could come after the end of the run."""
        self.namespace.kubectl("delete", "--wait=false", "--grace-period=1", "pod", pod)

    def head(self) -> str:
        (pod,) = self.pods("head")
        return pod["metadata"]["name"]


def merge(base: dict, changes: dict) -> dict:
    """Merge values into others, as Helm does."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
