"""Measure the time from `helm install` to the result, by phase, on the cluster that KUBECONFIG names.

    .venv/bin/python -m ops.benchmark.kubernetes REPOSITORY:TAG [REPETITIONS]

Installs the chart with two worker pods on scikit-learn's digits, in its own namespace, which it deletes at the end.
Prints for each event how many seconds after the call of `helm install` it happened. Kubernetes rounds times to seconds.
"""

import statistics
import sys
import time
from datetime import datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mnist_job.phases import PHASES
from tests.e2e.kube import Namespace, Release, kubectl

NAMESPACE = "mnist-job-benchmark"
SMALL = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


def main(image: str, repetitions: str = "3") -> None:
    kubectl("create", "namespace", NAMESPACE)
    try:
        runs = [timeline(image, f"run{number}") for number in range(int(repetitions))]
    finally:
        kubectl("delete", "namespace", NAMESPACE)
    print("| reached | seconds after `helm install` |\n| --- | --- |")
    for what in runs[0]:
        at = [run[what] for run in runs]
        print(f"| {what} | {statistics.median(at):.0f} ({min(at):.0f}..{max(at):.0f}) |")


def timeline(image: str, name: str) -> dict[str, float]:
    """Install, wait for the result, uninstall. Return the seconds until each event."""
    repository, tag = image.rsplit(":", 1)
    values = {
        "image": {"repository": repository, "tag": tag},
        "settings": {"data": "digits"},
        "head": {"resources": SMALL},
        "workerGroups": {"default": {"replicas": 2, "resources": SMALL}},
    }
    release = Release(name, Namespace(NAMESPACE), values)
    began = time.time()
    release.install({})
    rayjob = release.finished()
    complete = time.time()
    pods = release.pods()
    exported = release.namespace.raw(f"pods/{release.head()}:8000/proxy/metrics")
    release.uninstall()
    if rayjob["status"]["jobStatus"] != "SUCCEEDED":
        raise SystemExit(f"the run failed: {rayjob['status']}")
    samples = [s for family in text_string_to_metric_families(exported) for s in family.samples]
    phases = {s.labels["phase"]: s.value for s in samples if s.name == "mnist_job_phase_duration_seconds"}
    started = next(s.value for s in samples if s.name == "mnist_job_last_completion_timestamp_seconds") - next(
        s.value for s in samples if s.name == "mnist_job_duration_seconds"
    )
    reached = {
        "all pods scheduled": max(_when(pod, "PodScheduled") for pod in pods),
        "head ready": max(_when(pod, "Ready") for pod in pods if "head" in pod["metadata"]["name"]),
        "workers ready": max(_when(pod, "Ready") for pod in pods),
        "the job submitted": _seconds(rayjob["status"]["rayJobInfo"]["startTime"]),
        "the program started": started,
    }
    at = started
    for phase in PHASES:
        if phase in phases:
            at += phases[phase]
            reached[f"{phase} ended"] = at
    reached["the program ended"] = _seconds(rayjob["status"]["rayJobInfo"]["endTime"])
    reached["the RayJob Complete"] = complete
    return {what: when - began for what, when in reached.items()}


def _when(pod: dict[str, Any], condition: str) -> float:
    (found,) = (one for one in pod["status"]["conditions"] if one["type"] == condition)
    return _seconds(found["lastTransitionTime"])


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


if __name__ == "__main__":
    main(*sys.argv[1:])
