"""The pods of a job, and the reasons why some of them do not run yet."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mnist_job.errors import JobError
from mnist_job.kubernetes.api import Api

_INSUFFICIENT = re.compile(r"Insufficient ([\w./-]+\w)")
_PREEMPTION = re.compile(r" (no new claims to deallocate, )?preemption: .*", re.DOTALL)
_UNITS = {"cpu": ("CPUs", 1), "memory": ("GiB of memory", 2**30)}
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Pod:
    """A pod. `component` is head, worker or submitter. `waits` says why the pod does not run, or is None if it does."""

    name: str
    component: str
    phase: str
    ready: bool
    waits: str | None


def pods_of(api: Api, rayjob: dict[str, Any]) -> list[Pod]:
    """Return the pods of the RayJob's current attempt: submitter, head, workers. Raises JobError."""
    return [_pod(api, pod) for pod in found(api, rayjob)]


def found(api: Api, rayjob: dict[str, Any]) -> list[Any]:
    """Return the same pods as objects of the Kubernetes client."""
    order = ["submitter", "head", "worker"]
    instance = rayjob["metadata"]["labels"]["app.kubernetes.io/instance"]
    cluster = rayjob.get("status", {}).get("rayClusterName")
    pods = [
        pod
        for pod in api.pods(f"app.kubernetes.io/instance={instance},app.kubernetes.io/component in ({','.join(order)})")
        if pod.metadata.labels.get("ray.io/cluster") == cluster
        or pod.metadata.labels.get("job-name") == rayjob["metadata"]["name"]
    ]
    return sorted(pods, key=lambda pod: (order.index(_component(pod)), pod.metadata.name))


def warning_about(api: Api, *names: str) -> str | None:
    """Return the last warning that Kubernetes has recorded for one of these objects.

    Return None if there is none, or if the user may not read Events.
    """
    try:
        told = [event for event in api.warnings() if event.involved_object.name in names]
    except JobError:
        return None
    told.sort(key=lambda event: event.metadata.resource_version and int(event.metadata.resource_version))
    return f"{told[-1].reason}: {' '.join((told[-1].message or '').split())}" if told else None


def _component(pod: Any) -> str:
    return str(pod.metadata.labels["app.kubernetes.io/component"])


def _pod(api: Api, pod: Any) -> Pod:
    statuses = pod.status.container_statuses or []
    return Pod(
        name=pod.metadata.name,
        component=_component(pod),
        phase="Terminating" if pod.metadata.deletion_timestamp else pod.status.phase,
        ready=bool(statuses) and all(status.ready for status in statuses),
        waits=_waits(api, pod),
    )


def _waits(api: Api, pod: Any) -> str | None:
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            told = _PREEMPTION.sub("", condition.message or "")
            return f"{condition.reason}: {told}{_room(api, pod, told)}"
    for status in (pod.status.init_container_statuses or []) + (pod.status.container_statuses or []):
        if status.state.running and status in (pod.status.init_container_statuses or []):
            return f"init container {status.name} has not ended yet"
        if waiting := status.state.waiting:
            told = f"{waiting.reason}{f': {waiting.message}' if waiting.message else ''}"
            if waiting.reason in _NO_IMAGE:
                return (
                    f"image {status.image} cannot be pulled ({told}); check --image, and image.pullSecrets in --values"
                )
            if waiting.reason in ("ContainerCreating", "PodInitializing"):
                return warning_about(api, pod.metadata.name) or told
            return told
        ended = status.state.terminated
        if ended and ended.exit_code:
            return f"container {status.name} ended with {ended.exit_code} ({ended.reason})"
    return None


def _amount(quantities: dict[str, str], resource: str) -> Decimal:
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(quantities.get(resource, 0)))  # type: ignore[no-untyped-call]


def _room(api: Api, pod: Any, message: str) -> str:
    """Return a text that compares the requests of a pod that fits on no node with the resources of the nodes.

    It is empty if the user may not list the nodes.
    """
    lacking = list(dict.fromkeys(_INSUFFICIENT.findall(message)))
    if not lacking:
        return ""
    try:
        nodes = api.nodes()
        taken = list(api.running_pods_everywhere())
    except JobError:  # users of one namespace often may not list nodes; the scheduler's message is shown without this
        return ""

    def requests(one: Any, resource: str) -> Decimal:
        given = (container.resources.requests or {} for container in one.spec.containers)
        return Decimal(sum(_amount(request, resource) for request in given))

    def sentences() -> Iterator[str]:
        for resource in lacking:
            have = {node.metadata.name: _amount(node.status.allocatable, resource) for node in nodes}
            free = dict(have)
            for one in taken:
                if one.spec.node_name in free:
                    free[one.spec.node_name] -= requests(one, resource)
            unit, size = _UNITS.get(resource, (resource, 1))
            asked, there, most = (
                f"{float(round(amount / size, 2)):g}"
                for amount in (requests(pod, resource), sum(have.values()), max(free.values(), default=Decimal()))
            )
            yield f"{unit}: {asked} requested, {there} on all nodes, at most {most} free on one"

    return f" ({'; '.join(sentences())}); request less in --values (workerGroups, head), or add nodes"
