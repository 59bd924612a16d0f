"""The result where a Kubernetes user looks: in a ConfigMap, and as an Event on the RayJob."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from job import ray_cluster, storage
from job.checkpoint import MODEL
from job.config import Settings
from job.errors import NAMES, ClusterError, DeliveryError, JobError, UsageError, last_line
from job.outcome import Outcome
from job.policy import patiently

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LONGEST_MESSAGE = 1024  # characters of an Event's message; the API server refuses more


def check(config: Settings) -> None:
    """Ask for the ConfigMap and the RayJob of the two functions below. Raises UsageError if there is no answer."""
    if config.kubernetes_result is not None:
        _Api(UsageError, config.delivery_timeout).configmap(config.kubernetes_result)
    if config.kubernetes_rayjob is not None:
        _Api(UsageError, config.delivery_timeout).rayjob(config.kubernetes_rayjob)


def write_result(outcome: Outcome, name: str, timeout: float) -> None:
    """Write the outcome into the ConfigMap; a failure leaves `last-success` alone. Raises DeliveryError."""
    api = _Api(DeliveryError, timeout)
    facts = result(outcome)
    data: dict[str, str | None] = facts | {"last-success": _json(facts)} if outcome.succeeded else facts
    api.patch_configmap(name, data)


def record_event(outcome: Outcome, rayjob: str, timeout: float) -> None:
    """Record the outcome as an Event on the RayJob, with which it goes. Raises DeliveryError."""
    api = _Api(DeliveryError, timeout)
    uid = api.rayjob(rayjob)["metadata"]["uid"]
    reason = "Succeeded" if outcome.succeeded else NAMES[outcome.exit_code]
    api.create_event(rayjob, uid, "Normal" if outcome.succeeded else "Warning", reason, _sentence(outcome))


def killed_for_memory(config: Settings, timeout: float) -> list[str]:
    """The Ray pods of this job that exceeded their memory limit.

    The kubelet knows of containers that were killed; where the kernel killed a process and its container lives on, the
    container does. None where this is no pod of a Ray cluster that reports to a RayJob. Raises ClusterError.
    """
    cluster = os.environ.get("RAY_CLUSTER_NAME")
    if config.kubernetes_rayjob is None or cluster is None:
        return []
    pods = _Api(ClusterError, timeout).pods(f"ray.io/cluster={cluster}")
    killed = [pod.metadata.name for pod in pods if any(map(_was_oom_killed, pod.status.container_statuses or []))]
    try:
        return killed or ray_cluster.short_of_memory()
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the cluster's nodes cannot be asked: {last_line(error)}") from error


def _was_oom_killed(container: Any) -> bool:
    endings = (container.state.terminated, container.last_state.terminated)
    return any(ending is not None and ending.reason == "OOMKilled" for ending in endings)


def result(outcome: Outcome) -> dict[str, str | None]:
    """An outcome as a ConfigMap's data. None removes what an earlier run has left there."""
    identity, evaluation = outcome.identity, outcome.evaluation
    return {
        "name": identity.name,
        "run": identity.run,
        "rayjob": identity.config["kubernetes_rayjob"],
        "version": identity.version,
        "config-hash": identity.config_hash,
        "dataset": identity.dataset,
        "finished": datetime.fromtimestamp(outcome.finished, UTC).isoformat(timespec="seconds"),
        "succeeded": "true" if outcome.succeeded else "false",
        "exit-code": str(outcome.exit_code),
        "reason": outcome.reason,
        "accuracy": repr(evaluation.accuracy) if evaluation else None,
        "loss": repr(evaluation.loss) if evaluation else None,
        "samples": str(evaluation.samples) if evaluation else None,
        "model": _model(outcome) if evaluation else None,
        "model-sha256": outcome.model_sha256,
    }


def _json(facts: dict[str, str | None]) -> str:
    return json.dumps({name: value for name, value in facts.items() if value is not None})


def _model(outcome: Outcome) -> str:
    config = outcome.identity.config
    return config.get("model") or storage.below(config["output"], f"{outcome.identity.name}/{MODEL}")


def _sentence(outcome: Outcome) -> str:
    text = f"run {outcome.identity.run}: "
    if outcome.evaluation is not None:
        text += f"test accuracy {outcome.evaluation.accuracy:.4f}, test loss {outcome.evaluation.loss:.4f}"
    if not outcome.succeeded:
        text += f"{'; ' if outcome.evaluation else ''}exit code {outcome.exit_code}: {outcome.reason}"
    return text[:LONGEST_MESSAGE]


class _Api:
    """The Kubernetes API as this job uses it: each request is retried for `timeout` seconds, and fails as `error`."""

    def __init__(self, error: type[JobError], timeout: float) -> None:
        from kubernetes import client, config  # half a second that only a pod's job pays

        self._error, self._timeout = error, timeout
        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
                self.namespace = NAMESPACE.read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                _, context = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
                self.namespace = context["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as missing:
            raise error(f"--kubernetes-result, --kubernetes-rayjob: this is no pod, and {missing}") from missing
        settings.retries = False  # `patiently` knows better how long
        self._client = client.ApiClient(settings)
        self._core = client.CoreV1Api(self._client)

    def configmap(self, name: str) -> Any:
        return self._ask(
            f"ConfigMap {name}",
            lambda left: self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=left),
        )

    def patch_configmap(self, name: str, data: dict[str, str | None]) -> None:
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

    def rayjob(self, name: str) -> Any:
        from kubernetes import client

        custom = client.CustomObjectsApi(self._client)
        return self._ask(
            f"RayJob {name}",
            lambda left: custom.get_namespaced_custom_object(
                "ray.io", "v1", self.namespace, "rayjobs", name, _request_timeout=left
            ),
        )

    def pods(self, selector: str) -> Any:
        return self._ask(
            f"the pods {selector}",
            lambda left: (
                self._core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=left).items
            ),
        )

    def create_event(self, rayjob: str, uid: str, kind: str, reason: str, message: str) -> None:
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

    def _ask(self, what: str, request: Callable[[float], Any]) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        def may_pass(error: BaseException) -> bool:
            return not (isinstance(error, ApiException) and 400 <= (error.status or 0) < 500 and error.status != 429)

        try:
            return patiently(request, self._timeout, (ApiException, HTTPError), may_pass)
        except (ApiException, HTTPError) as failure:
            told = f"{failure.status} {failure.reason}" if isinstance(failure, ApiException) else str(failure)
            if isinstance(failure, ApiException) and failure.status == 403:
                told += ": the pod's ServiceAccount lacks the right"
            raise self._error(f"{what} in namespace {self.namespace}: {told}") from failure
