"""What is left of a job in its namespace, found by the labels that the chart gives to whatever it makes.

Helm removes what its last revision holds. What a failed upgrade has left of the revision before it, or what there is
when somebody has deleted Helm's own Secrets, is found by these labels alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mnist_job.errors import JobError
from mnist_job.kubernetes.api import Api

# What starts others comes first, the volume last: it goes when no pod uses it any more.
_KINDS = (
    ("ray.io/v1", "rayjobs", "RayJob"),
    ("ray.io/v1", "rayclusters", "RayCluster"),
    ("apps/v1", "deployments", "Deployment"),
    ("v1", "pod", "Pod"),
    ("v1", "service", "Service"),
    ("monitoring.coreos.com/v1", "podmonitors", "PodMonitor"),
    ("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "roles", "Role"),
    ("v1", "config_map", "ConfigMap"),
    ("v1", "service_account", "ServiceAccount"),
    ("v1", "persistent_volume_claim", "PersistentVolumeClaim"),
)


class Deleted(NamedTuple):
    """What was deleted, as `Kind name`, and why more may be left: a line for each kind that one may not look at."""

    things: list[str]
    unknown: list[str]


def delete(api: Api, name: str) -> Deleted:
    """Delete all that carries the labels of this job, unless it is to be kept. Raises JobError."""
    deleted = Deleted([], [])
    for version, resource, kind in _KINDS:
        try:
            things = list(_of(api, version, resource, kind, name))
        except JobError as refusal:
            if getattr(refusal.__cause__, "status", None) != 403:
                raise
            deleted.unknown.append(str(refusal))
            continue
        for metadata in things:
            api.delete(version, resource, kind, metadata["name"], metadata["uid"])
            deleted.things.append(f"{kind} {metadata['name']}")
    return deleted


def _of(api: Api, version: str, resource: str, kind: str, name: str) -> Iterator[dict[str, Any]]:
    """The metadata of what carries the labels."""
    labels = {"name": "mnist-job", "instance": name, "managed-by": "Helm"}
    selector = ",".join(f"app.kubernetes.io/{label}={value}" for label, value in labels.items())
    for thing in api.objects(version, resource, f"{kind}s", selector):
        metadata = thing["metadata"]
        if (metadata.get("annotations") or {}).get("helm.sh/resource-policy") != "keep":
            yield metadata
