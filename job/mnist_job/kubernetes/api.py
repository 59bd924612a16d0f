"""The requests to the Kubernetes API, from the job's pods and from its users' machines."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mnist_job.bounds import patiently
from mnist_job.errors import JobError
from mnist_job.kubernetes import kubeconfig, refusals

SILENCE_SECONDS = 86_400.0  # timeout between two lines of a log that is followed
NO_KUBERAY = (
    "the cluster has no KubeRay, which runs RayJobs; install it first: helm install kuberay-operator "
    "kuberay-operator --repo https://ray-project.github.io/kuberay-helm --namespace kuberay-system --create-namespace"
)


class Api:
    """The API of a cluster: in a pod, of the pod's cluster; elsewhere, of the one in the kubeconfig.

    Each request is retried for `timeout` seconds. If it fails, it raises `error` with a sentence that says what to do.
    """

    def __init__(
        self, error: type[JobError], timeout: float, *, context: str | None = None, namespace: str | None = None
    ) -> None:
        from kubernetes import client  # imported here because it takes half a second

        self._error, self.timeout = error, timeout
        settings = client.Configuration()
        own = kubeconfig.load(settings, context, error)
        self.namespace = namespace or own
        self.server = settings.host
        settings.retries = False  # `patiently` does the retries
        self._client = client.ApiClient(settings)
        self._core = client.CoreV1Api(self._client)
        self._custom = client.CustomObjectsApi(self._client)

    def configmap(self, name: str) -> Any:
        """Return a ConfigMap."""
        return self._ask(
            f"ConfigMap {name}",
            lambda left: self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=left),
        )

    def patch_configmap(self, name: str, data: Mapping[str, str | None]) -> None:
        """Set these keys of a ConfigMap. A value of None removes its key."""
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
        """Return the ConfigMaps of the namespace or, if `everywhere`, of all namespaces."""
        every, own = self._core.list_config_map_for_all_namespaces, self._core.list_namespaced_config_map
        return self._list("ConfigMaps", every if everywhere else own, everywhere, label_selector=selector)

    def rayjob(self, name: str) -> Any:
        """Return a RayJob, as JSON."""
        return self._ask(
            f"RayJob {name}",
            lambda left: self._custom.get_namespaced_custom_object(
                "ray.io", "v1", self.namespace, "rayjobs", name, _request_timeout=left
            ),
        )

    def rayjobs(self, selector: str, everywhere: bool = False) -> list[dict[str, Any]]:
        """Return the RayJobs, the oldest first. If the cluster has no KubeRay, the error says how to install it."""

        def ask(left: float) -> Any:
            options: dict[str, Any] = {"label_selector": selector, "_request_timeout": left}
            if everywhere:
                return self._custom.list_cluster_custom_object("ray.io", "v1", "rayjobs", **options)
            return self._custom.list_namespaced_custom_object("ray.io", "v1", self.namespace, "rayjobs", **options)

        found = self._ask("RayJobs", ask, everywhere=everywhere, absent=NO_KUBERAY)["items"]
        return sorted(found, key=lambda rayjob: str(rayjob["metadata"]["creationTimestamp"]))

    def objects(self, version: str, resource: str, what: str, selector: str) -> list[dict[str, Any]]:
        """Return the namespace's objects of a kind, as JSON. If the cluster does not know the kind, return none.

        `resource` is the plural in the kind's path or, for version `v1`, the name in the client's methods.
        """
        from kubernetes.client import ApiException

        def ask(left: float) -> Any:
            options: dict[str, Any] = {"label_selector": selector, "_request_timeout": left}
            try:
                if version == "v1":
                    found = getattr(self._core, f"list_namespaced_{resource}")(self.namespace, **options)
                    return self._client.sanitize_for_serialization(found)  # type: ignore[no-untyped-call]
                group, _, of_group = version.partition("/")
                return self._custom.list_namespaced_custom_object(group, of_group, self.namespace, resource, **options)
            except ApiException as failure:
                if failure.status != 404:
                    raise
                return {"items": []}

        found: list[dict[str, Any]] = self._ask(what, ask)["items"]
        return found

    def delete(self, version: str, resource: str, kind: str, name: str, uid: str) -> None:
        """Delete the object with this `uid`, of any kind, and what it owns. Do nothing if it is already gone."""
        from kubernetes.client import ApiException

        body: Any = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}

        def ask(left: float) -> None:
            options: dict[str, Any] = {"body": body, "_request_timeout": left}
            try:
                if version == "v1":
                    getattr(self._core, f"delete_namespaced_{resource}")(name, self.namespace, **options)
                else:
                    group, _, rest = version.partition("/")
                    self._custom.delete_namespaced_custom_object(group, rest, self.namespace, resource, name, **options)
            except ApiException as failure:
                if failure.status not in (404, 409):  # gone, or another one of the same name
                    raise

        self._ask(f"{kind} {name}", ask)

    def suspend(self, name: str, suspended: bool) -> None:
        """Tell KubeRay to stop a RayJob and delete its pods or, if not `suspended`, to start it again."""
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
        """Return the pods of the namespace that the selector chooses."""
        return self._list(f"the pods {selector}", self._core.list_namespaced_pod, label_selector=selector)

    def running_pods_everywhere(self) -> Any:
        """Return all pods that use resources of a node."""
        living = "status.phase!=Succeeded,status.phase!=Failed"
        return self._list("Pods", self._core.list_pod_for_all_namespaces, everywhere=True, field_selector=living)

    def nodes(self) -> Any:
        """Return all nodes."""
        return self._list("Nodes", self._core.list_node, everywhere=True)

    def warnings(self) -> Any:
        """Return the namespace's Events of the type Warning."""
        return self._list("Events", self._core.list_namespaced_event, field_selector="type=Warning")

    def log(self, pod: str, lines: int) -> str:
        """Return the last lines of a pod's log."""
        text: str = self._ask(
            f"the log of pod {pod}",
            lambda left: self._core.read_namespaced_pod_log(
                pod, self.namespace, tail_lines=lines, _request_timeout=left
            ),
        )
        return text

    def follow_log(self, pod: str, container: str, follow: bool) -> Iterator[str]:
        """Yield the lines of a container's log; with `follow`, also new lines until the container ends."""
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
            if refusals.certificate(error):
                return False
            return not (isinstance(error, ApiException) and 400 <= (error.status or 0) < 500 and error.status != 429)

        try:
            return patiently(request, self.timeout, (ApiException, HTTPError, ssl.SSLError), may_pass)
        except HTTPError as failure:
            raise self._error(
                f"{what}: the cluster's API {self.server} does not answer: {kubeconfig.line(failure)}"
            ) from failure
        except (ApiException, ssl.SSLError) as failure:
            if untrusted := refusals.certificate(failure):
                raise self._error(f"{what}: the cluster's API {self.server}: {untrusted}") from failure
            assert isinstance(failure, ApiException)
            if failure.status == 404 and absent:
                raise self._error(absent) from failure
            place = "all namespaces" if everywhere else f"namespace {self.namespace}"
            raise self._error(f"{what} in {place}: {refusals.refusal(failure)}") from failure
