"""The state of a job on Kubernetes: its phase, its pods and its result."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mnist_job.errors import ClusterError, JobError
from mnist_job.kubernetes.api import Api
from mnist_job.kubernetes.pods import Pod, pods_of, warning_about

CHART = "app.kubernetes.io/name=mnist-job"
INSTANCE = "app.kubernetes.io/instance"
QUEUE = "kueue.x-k8s.io/queue-name"
ENDED = ("Succeeded", "Stopped", "Failed", "ValidationFailed", "Cancelled")
LOOK_AGAIN_SECONDS = 2.0
_NAMES = {"": "New", "Complete": "Succeeded"}


@dataclass(frozen=True)
class State:
    """The state of a job at one moment.

    `phase` is that of KubeRay, except where KubeRay does not distinguish Succeeded from Stopped, and New, Cancelled and
    Queued from each other. `started` and `ended` are in the API server's format. `progress` is the last line of the
    driver of a running job. `result` is the data of the result's ConfigMap, if the job has ended.
    """

    name: str
    namespace: str
    rayjob: str
    phase: str
    reason: str | None
    message: str | None
    started: str | None
    ended: str | None
    pods: tuple[Pod, ...] = ()
    progress: str | None = None
    result: dict[str, str] | None = None

    @classmethod
    def of(cls, rayjob: dict[str, Any]) -> "State":
        """Return the state from the RayJob alone, without pods, progress and result."""
        metadata, status = rayjob["metadata"], rayjob.get("status", {})
        return cls(
            name=metadata["labels"][INSTANCE],
            namespace=metadata["namespace"],
            rayjob=metadata["name"],
            phase=_phase(rayjob),
            reason=status.get("reason") or None,
            message=_last_line(status.get("message")),
            started=status.get("startTime"),
            ended=status.get("endTime"),
        )

    @property
    def over(self) -> bool:
        """Whether the job has ended. Only another `submit` starts it again."""
        return self.phase in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return the state as values for JSON."""
        return asdict(self)

    def error(self) -> JobError | None:
        """Return the JobError that the finished job ended with, or None if it succeeded.

        The exit code of the driver decides which error it is. If no exit code is known, it is a ClusterError.
        """
        told, code = self.message or "", None
        if self.result is not None:
            told, code = self.result.get("reason", ""), int(self.result["exit-code"])
        elif self.phase == "Failed" and (known := re.search(r"exit code (\d+)", told)):
            code = int(known[1])
        if code == 0 or (code is None and self.phase == "Succeeded"):
            return None
        for kind in JobError.__subclasses__():
            if kind.exit_code == code:
                return kind(told)
        if self.phase == "Cancelled":
            told = "it was cancelled; the same `mnist-job submit` resumes from the last checkpoint"
        waiting = {pod.waits: pod.name for pod in reversed(self.pods) if pod.waits}  # name one pod for each reason
        waits = "".join(f"; pod {name} waits: {why}" for why, name in waiting.items())
        why = ": ".join(filter(None, (self.reason, told)))
        return ClusterError(f"RayJob {self.rayjob}: {self.phase}{why and f': {why}'}{waits}")


def find(api: Api, name: str) -> dict[str, Any]:
    """Return the newest RayJob of the job of this name. Raises JobError."""
    living = runs(api, name)
    if not living:
        raise ClusterError(
            f"there is no job {name} in namespace {api.namespace}; `mnist-job list --all-namespaces` shows all jobs"
        )
    return living[-1]


def runs(api: Api, name: str) -> list[dict[str, Any]]:
    """Return the RayJobs of this name that are not being deleted, the oldest first. Raises JobError."""
    found = ((rayjob["metadata"], rayjob) for rayjob in api.rayjobs(CHART))
    return [rayjob for at, rayjob in found if at["labels"].get(INSTANCE) == name and "deletionTimestamp" not in at]


def every(api: Api, everywhere: bool) -> list[State]:
    """Return all jobs of the namespace or, if `everywhere`, of all namespaces: the oldest first, without their pods."""
    states = [State.of(rayjob) for rayjob in api.rayjobs(CHART, everywhere)]
    results = {
        (one.metadata.namespace, (one.data or {}).get("rayjob")): one.data for one in api.configmaps(CHART, everywhere)
    }
    return [
        State(**vars(state) | {"result": results.get((state.namespace, state.rayjob)) if state.over else None})
        for state in states
    ]


def look(api: Api, rayjob: dict[str, Any]) -> State:
    """Return the full state of the job, with its pods, progress and result. Raises JobError."""
    state = State.of(rayjob)
    pods = pods_of(api, rayjob)
    changes: dict[str, Any] = {"pods": tuple(pods)}
    if state.over:
        # The chart names the ConfigMap like the RayJob, but without the hash of the run.
        data = api.configmap(f"{state.rayjob.rpartition('-')[0]}-result").data or {}
        changes["result"] = data if data.get("rayjob") == state.rayjob else None
    elif not pods and state.phase not in ("Queued", "Suspending"):
        owners = (state.rayjob, rayjob.get("status", {}).get("rayClusterName"))
        changes["message"] = warning_about(api, *filter(None, owners)) or state.message
    elif submitter := next((pod for pod in pods if pod.component == "submitter" and pod.ready), None):
        with suppress(JobError):  # the user may be allowed to list pods but not to read their logs
            changes["progress"] = _sentence(_last_line(api.log(submitter.name, 5)))
    return State(**vars(state) | changes)


def follow(api: Api, rayjob: str, pause: Callable[[float], object] = time.sleep) -> Iterator[State]:
    """Yield the state of the job at each change, until it has ended or `pause` returns True. Raises JobError."""
    before = None
    while before is None or not before.over:
        if before is not None and pause(LOOK_AGAIN_SECONDS):
            return
        state = look(api, api.rayjob(rayjob))
        if state != before:
            yield state
        before = state


def changes(before: State | None, state: State) -> Iterator[str]:
    """Yield a line for each thing that has changed."""
    if before is None or (before.phase, before.message) != (state.phase, state.message):
        told = f": {state.message}" if state.message and not state.over else ""
        yield f"{state.name}: {state.phase}{told}"
    known = {pod.name: pod.waits for pod in before.pods} if before else {}
    for pod in state.pods:
        if pod.waits and pod.waits != known.get(pod.name):
            yield f"pod {pod.name} waits: {pod.waits}"
    if state.progress and state.progress != (before and before.progress):
        yield state.progress
    found = state.result or {}  # a model that is no classifier has no accuracy
    if measured := [f"test {name} {float(found[name]):.4f}" for name in ("accuracy", "loss") if name in found]:
        yield ", ".join(measured)


def _last_line(text: str | None) -> str | None:
    return (text or "").rstrip().rpartition("\n")[2].strip() or None


def _sentence(line: str | None) -> str | None:
    """Return the message of a log line, which is a JSON object with `--log-format json`."""
    try:
        return str(json.loads(line or "")["message"])
    except (ValueError, TypeError, KeyError):
        return line


def _phase(rayjob: dict[str, Any]) -> str:
    status = rayjob.get("status", {})
    phase: str = status.get("jobDeploymentStatus", "")
    if phase == "Suspended":
        return "Queued" if QUEUE in rayjob["metadata"]["labels"] else "Cancelled" if is_suspended(rayjob) else "New"
    if phase == "Complete" and status.get("jobStatus") == "STOPPED":
        return "Stopped"
    return _NAMES.get(phase, phase)


def is_suspended(rayjob: dict[str, Any]) -> bool:
    """Return whether the RayJob is suspended, so that KubeRay does not run it."""
    return rayjob["spec"].get("suspend") is True
