"""Write the result to Kubernetes: into a ConfigMap, and as an Event on the RayJob."""

import json
import os
from datetime import UTC, datetime
from typing import Any

from mnist_job.config.parts import DeliverySettings
from mnist_job.distributed import cluster
from mnist_job.errors import NAMES, ClusterError, DeliveryError, JobError, TrainingError, UsageError
from mnist_job.kubernetes.api import Api
from mnist_job.results.outcome import Outcome
from mnist_job.storage import files
from mnist_job.training.checkpoint import MODEL

LONGEST_MESSAGE = 1024  # characters; the API server refuses an Event with a longer message


def check(config: DeliverySettings) -> None:
    """Check that the ConfigMap and the RayJob of the settings exist. Raises UsageError if not."""
    if config.kubernetes_result is None and config.kubernetes_rayjob is None:
        return
    api = _api(UsageError, config.delivery_timeout)
    if config.kubernetes_result is not None:
        api.configmap(config.kubernetes_result)
    if config.kubernetes_rayjob is not None:
        api.rayjob(config.kubernetes_rayjob)


def write_result(outcome: Outcome, name: str, timeout: float) -> None:
    """Write the outcome into the ConfigMap. A failure does not change `last-success`. Raises DeliveryError."""
    api = _api(DeliveryError, timeout)
    facts = result(outcome)
    data: dict[str, str | None] = facts | {"last-success": _json(facts)} if outcome.succeeded else facts
    api.patch_configmap(name, data)


def record_event(outcome: Outcome, rayjob: str, timeout: float) -> None:
    """Record the outcome as an Event on the RayJob. Raises DeliveryError."""
    api = _api(DeliveryError, timeout)
    uid = api.rayjob(rayjob)["metadata"]["uid"]
    reason = "Succeeded" if outcome.succeeded else NAMES[outcome.exit_code]
    api.create_event(rayjob, uid, "Normal" if outcome.succeeded else "Warning", reason, _sentence(outcome))


def explained(error: TrainingError, rayjob: str | None, timeout: float) -> TrainingError:
    """Return the failure with the names of the pods that ran out of memory, if there are any.

    `rayjob` is the RayJob that the run reports to, if it does.
    """
    try:
        killed = killed_for_memory(rayjob, timeout)
    except ClusterError as unknown:
        error.add_note(f"cannot check whether pods ran out of memory: {unknown}")
        return error
    if not killed:
        return error
    return TrainingError(
        f"{error}; OOMKilled (exit code 137): {', '.join(killed)}; give the pods a higher memory limit"
    )


def killed_for_memory(rayjob: str | None, timeout: float) -> list[str]:
    """Return the Ray pods of this job that exceeded their memory limit.

    The kubelet reports containers that were killed. If the kernel killed only a process in a container, the nodes
    themselves are asked. Outside a pod of a Ray cluster that reports to a RayJob, the list is empty.

    Raises ClusterError.
    """
    raycluster = os.environ.get("RAY_CLUSTER_NAME")
    if rayjob is None or raycluster is None:
        return []
    pods = Api(ClusterError, timeout).pods(f"ray.io/cluster={raycluster}")
    killed = [pod.metadata.name for pod in pods if any(map(_was_oom_killed, pod.status.container_statuses or []))]
    return killed or cluster.short_of_memory()


def _api(error: type[JobError], timeout: float) -> Api:
    """Return the API. If there is none, the error names the two settings that need it."""
    try:
        return Api(error, timeout)
    except error as missing:
        raise error(f"--kubernetes-result, --kubernetes-rayjob: {missing}") from missing


def _was_oom_killed(container: Any) -> bool:
    endings = (container.state.terminated, container.last_state.terminated)
    return any(ending is not None and ending.reason == "OOMKilled" for ending in endings)


def result(outcome: Outcome) -> dict[str, str | None]:
    """Return an outcome as the data of a ConfigMap. A value of None removes the key that an earlier run has written."""
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
        "accuracy": repr(evaluation.accuracy) if evaluation and evaluation.accuracy is not None else None,
        "loss": repr(evaluation.loss) if evaluation else None,
        "samples": str(evaluation.samples) if evaluation else None,
        "model": _model(outcome) if evaluation else None,
        "model-sha256": outcome.model_sha256,
    }


def _json(facts: dict[str, str | None]) -> str:
    return json.dumps({name: value for name, value in facts.items() if value is not None})


def _model(outcome: Outcome) -> str:
    config = outcome.identity.config
    if outcome.training is None:  # the model that was evaluated, not the function that a run's network comes from
        return str(config["model"])
    return files.below(config["output"], f"{outcome.identity.name}/{MODEL}")


def _sentence(outcome: Outcome) -> str:
    text = f"run {outcome.identity.run}: "
    if outcome.evaluation is not None:
        if outcome.evaluation.accuracy is not None:
            text += f"test accuracy {outcome.evaluation.accuracy:.4f}, "
        text += f"test loss {outcome.evaluation.loss:.4f}"
    if not outcome.succeeded:
        text += f"{'; ' if outcome.evaluation else ''}exit code {outcome.exit_code}: {outcome.reason}"
    return text[:LONGEST_MESSAGE]
