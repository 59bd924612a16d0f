"""The Kubernetes API as this job uses it: from its own pods, and from its users' machines."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from job.errors import JobError
from job.policy import patiently

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SILENCE_SECONDS = 86_400.0  # of a log that is followed
NO_KUBERAY = (
    "the cluster has no KubeRay, which runs RayJobs; install it first: helm install kuberay-operator "
    "kuberay-operator --repo https://ray-project.github.io/kuberay-helm --namespace kuberay-system --create-namespace"
)
_MAY_NOT = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)


class Api:
    """The API of the cluster that this process is a pod of, or that the kubeconfig names.

    Each request is retried for `timeout` seconds, and fails as `error`, in a sentence that says what to do.
    """

    def __init__(
        self, error: type[JobError], timeout: float, *, context: str | None = None, namespace: str | None = None
    ) -> None:
        from kubernetes import client, config  # half a second that only those pay who ask

        self._error, self.timeout = error, timeout
        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
                own = NAMESPACE.read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(context=context, client_configuration=settings)  # type: ignore[no-untyped-call]
                contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
                chosen = next((one for one in contexts if one["name"] == context), current)
                own = chosen["context"].get("namespace") or "default"
        except (config.ConfigException, OSError) as missing:
            raise error(f"this is no pod, and {_line(missing)}; KUBECONFIG names the file of a cluster") from missing
        self.namespace = namespace or own
        self.server = settings.host
        settings.retries = False  # `patiently` knows better how long
        self._client = client.ApiClient(settings)
        self._core = client.CoreV1Api(self._client)
        self._custom = client.CustomObjectsApi(self._client)

    def configmap(self, name: str) -> Any:
        """One ConfigMap."""
        return self._ask(
            f"ConfigMap {name}",
            lambda left: self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=left),
        )

    def patch_configmap(self, name: str, data: Mapping[str, str | None]) -> None:
        """Set these keys of a ConfigMap; None removes one."""
        self._ask(
            f"ConfigMap {name}",
            lambda left: self._core.patch_namespaced_config_map(
                name,
                self.namespace,
                {"data": data},
                _content_type="application/merge-patch+json",
                _request_timeout=left,
            ),
        )

    def configmaps(self, selector: str, everywhere: bool) -> Any:
        """ConfigMaps of the namespace, or of all."""
        every, own = self._core.list_config_map_for_all_namespaces, self._core.list_namespaced_config_map
        return self._list("ConfigMaps", every if everywhere else own, everywhere, label_selector=selector)

    def rayjob(self, name: str) -> Any:
        """One RayJob, as JSON."""
        return self._ask(
            f"RayJob {name}",
            lambda left: self._custom.get_namespaced_custom_object(
                "ray.io", "v1", self.namespace, "rayjobs", name, _request_timeout=left
            ),
        )

    def rayjobs(self, selector: str, everywhere: bool = False) -> list[dict[str, Any]]:
        """RayJobs, the oldest first. Where there is no such kind, the error says how to install it."""

        def ask(left: float) -> Any:
            options: dict[str, Any] = {"label_selector": selector, "_request_timeout": left}
            if everywhere:
                return self._custom.list_cluster_custom_object("ray.io", "v1", "rayjobs", **options)
            return self._custom.list_namespaced_custom_object("ray.io", "v1", self.namespace, "rayjobs", **options)

        found = self._ask("RayJobs", ask, everywhere=everywhere, absent=NO_KUBERAY)["items"]
        return sorted(found, key=lambda rayjob: str(rayjob["metadata"]["creationTimestamp"]))

    def suspend(self, name: str, suspended: bool) -> None:
        """Have KubeRay stop a RayJob and delete its pods, or start it again."""
        self._ask(
            f"RayJob {name}",
            lambda left: self._custom.patch_namespaced_custom_object(
                "ray.io",
                "v1",
                self.namespace,
                "rayjobs",
                name,
                {"spec": {"suspend": suspended}},
                _content_type="application/merge-patch+json",
                _request_timeout=left,
            ),
        )

    def pods(self, selector: str) -> Any:
        """Pods of the namespace."""
        return self._list(f"the pods {selector}", self._core.list_namespaced_pod, label_selector=selector)

    def running_pods_everywhere(self) -> Any:
        """Every pod that holds resources of a node."""
        living = "status.phase!=Succeeded,status.phase!=Failed"
        return self._list("Pods", self._core.list_pod_for_all_namespaces, everywhere=True, field_selector=living)

    def nodes(self) -> Any:
        """All nodes."""
        return self._list("Nodes", self._core.list_node, everywhere=True)

    def warnings(self) -> Any:
        """The namespace's Events of this type."""
        return self._list("Events", self._core.list_namespaced_event, field_selector="type=Warning")

    def log(self, pod: str, lines: int) -> str:
        """The end of a pod's log."""
        text: str = self._ask(
            f"the log of pod {pod}",
            lambda left: self._core.read_namespaced_pod_log(
                pod, self.namespace, tail_lines=lines, _request_timeout=left
            ),
        )
        return text

    def follow_log(self, pod: str, container: str, follow: bool) -> Iterator[str]:
        """The lines of a container's log; with `follow` as they are written, until it ends."""
        response = self._ask(
            f"the log of pod {pod}",
            lambda left: self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                _preload_content=False,
                _request_timeout=(left, SILENCE_SECONDS if follow else left),
            ),
        )
        rest = b""
        for chunk in response.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    def create_event(self, rayjob: str, uid: str, kind: str, reason: str, message: str) -> None:
        """Record an Event on a RayJob."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        event: Any = {  # the client takes JSON for its models
            "metadata": {"generateName": f"{rayjob}."},
            "involvedObject": {
                "apiVersion": "ray.io/v1",
                "kind": "RayJob",
                "name": rayjob,
                "namespace": self.namespace,
                "uid": uid,
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "mnist-job"},
        }
        self._ask(
            f"an Event on RayJob {rayjob}",
            lambda left: self._core.create_namespaced_event(self.namespace, event, _request_timeout=left),
        )

    def _list(self, what: str, method: Callable[..., Any], everywhere: bool = False, **options: str) -> Any:
        place = () if everywhere else (self.namespace,)
        return self._ask(
            what, lambda left: method(*place, **options, _request_timeout=left).items, everywhere=everywhere
        )

    def _ask(
        self, what: str, request: Callable[[float], Any], *, everywhere: bool = False, absent: str | None = None
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        def may_pass(error: BaseException) -> bool:
            return not (isinstance(error, ApiException) and 400 <= (error.status or 0) < 500 and error.status != 429)

        try:
            return patiently(request, self.timeout, (ApiException, HTTPError), may_pass)
        except HTTPError as failure:
            raise self._error(f"{what}: the cluster's API {self.server} does not answer: {_line(failure)}") from failure
        except ApiException as failure:
            if failure.status == 404 and absent:
                raise self._error(absent) from failure
            place = "all namespaces" if everywhere else f"namespace {self.namespace}"
            raise self._error(f"{what} in {place}: {_refusal(failure)}") from failure


def missing_right(text: str) -> str | None:
    """Which right the API server says is missing, and whom it has told so; None where it says something else."""
    if refused := _MAY_NOT.search(text):
        resource = ".".join(filter(None, (refused["resource"], refused["group"])))
        kind = "Role" if refused["namespace"] else "ClusterRole"
        place = f" in namespace {refused['namespace']}" if refused["namespace"] else ""
        return (
            f"{refused['user']} may not {refused['verb']} {resource}{place}; "
            f"ask for a {kind} that has this verb for this resource"
        )
    if "attempting to grant RBAC permissions not currently held" in text:
        rights = " ".join(re.findall(r"\{APIGroups.*?\}", text))
        return f"nobody can give the job's pods rights that they lack themselves; ask for these: {rights}"
    return None


def _refusal(failure: Any) -> str:
    try:
        message = str(json.loads(failure.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = ""
    told = missing_right(message) or f"{failure.status} {failure.reason}{message and f': {message}'}"
    return f"{told}; log in to the cluster again" if failure.status == 401 else told


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
