"""Find and delete all objects of a job in its namespace, by the labels that the chart gives to each object.

Helm removes only the objects of its last revision. Others may be left by a failed upgrade, and all of them are left if
somebody has deleted Helm's Secrets.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mnist_job.errors import JobError
from mnist_job.kubernetes.api import Api

# Kinds that create others come first. The volume comes last: it is removed when no pod uses it any more.
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
    """The deleted objects, as `Kind name`, and an error for each kind that the user may not list (`unknown`)."""

    things: list[str]
    unknown: list[str]


def delete(api: Api, name: str) -> Deleted:
    """Delete all objects with the labels of this job, except those that Helm must keep. Raises JobError."""
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
    """Yield the metadata of the objects of a kind that have the labels."""
    labels = {"name": "mnist-job", "instance": name, "managed-by": "Helm"}
    selector = ",".join(f"app.kubernetes.io/{label}={value}" for label, value in labels.items())
    for thing in api.objects(version, resource, f"{kind}s", selector):
        metadata = thing["metadata"]
        if (metadata.get("annotations") or {}).get("helm.sh/resource-policy") != "keep":
            yield metadata
