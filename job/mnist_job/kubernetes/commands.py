"""The commands `mnist-job submit`, `status`, `logs`, `cancel` and `list`. Each raises JobError."""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import yaml

from mnist_job.config.settings import JobConfig
from mnist_job.errors import ClusterError, Interrupted
from mnist_job.kubernetes import belongings, logs, rayjob, submit
from mnist_job.kubernetes.api import Api
from mnist_job.log import Log, write

ASK_SECONDS = 5.0  # timeout of a request to the API server
PATIENT_SECONDS = 120.0  # the same, for commands that watch a job for hours
_Call = Callable[[argparse.Namespace, Any, Log], None]


def _leaves_the_job_alone(call: _Call) -> _Call:
    """Wrap a command, so that a Ctrl-C prints that the job itself continues."""

    @wraps(call)
    def said(parsed: argparse.Namespace, config: JobConfig | None, log: Log) -> None:
        try:
            call(parsed, config, log)
        except KeyboardInterrupt:
            name = config.name if config else getattr(parsed, "name", None)
            look = f"status {name}" if name else "list"
            raise Interrupted(
                f"interrupted; the job on Kubernetes continues: mnist-job {look}{_place(parsed)}"
            ) from None

    return said


@_leaves_the_job_alone
def submit_job(parsed: argparse.Namespace, config: JobConfig, log: Log) -> None:
    """Start or resume the job. With `--wait`, also raises the error that the job itself has ended with."""
    values = submit.values(config, submit.Request(parsed.image, parsed.gpus, parsed.values, parsed.force))
    if parsed.dry_run:
        manifests = submit.render(config.name, parsed.namespace or "default", values)
        if parsed.format == "json":
            content = {"apiVersion": "v1", "kind": "List", "items": list(yaml.safe_load_all(manifests))}
            manifests = json.dumps(content, indent=2) + "\n"
        write(manifests)
        return
    with log.document(parsed.format):
        api = _api(parsed)
        name = _start(api, config.name, values, parsed.context, log)
        if parsed.wait:
            _wait(api, name, log)
        else:
            log.info(f"to follow it: mnist-job status {config.name} --watch{_place(parsed)}")


@_leaves_the_job_alone
def show_status(parsed: argparse.Namespace, _: None, log: Log) -> None:
    """Show the state of the job and, with `--watch`, each change."""
    api = _api(parsed)
    found = rayjob.find(api, parsed.name)
    pause = logs.Reader(log.console.file).wait
    states = _follow(api, found["metadata"]["name"], pause) if parsed.watch else [rayjob.look(api, found)]
    before = None
    for state in states:
        if parsed.format == "json":
            write(json.dumps(state.to_dict(), indent=None if parsed.watch else 2) + "\n")
        elif before is None:
            _show(state, log)
        else:
            _show_changes(before, state, log)
        before = state


@_leaves_the_job_alone
def show_logs(parsed: argparse.Namespace, _: None, log: Log) -> None:
    """Show the logs of the job's pods."""
    api = _api(parsed)
    logs.show(api, rayjob.find(api, parsed.name), parsed.follow, log.console)


@_leaves_the_job_alone
def cancel_job(parsed: argparse.Namespace, _: None, log: Log) -> None:
    """Stop the job or, with `--delete`, delete it."""
    with log.document(parsed.format):
        api = _api(parsed)
        if parsed.delete:
            _delete(api, parsed.name, parsed.context, log)
            action = told = "deleted"
        else:
            action, told = _stop(api, parsed.name)
        facts = {"name": parsed.name, "namespace": api.namespace, "action": action}
        log.result(f"{parsed.name} in namespace {api.namespace}: {told}", **facts)


@_leaves_the_job_alone
def list_jobs(parsed: argparse.Namespace, _: None, log: Log) -> None:
    """Show all jobs."""
    states = rayjob.every(_api(parsed), parsed.all_namespaces)
    if parsed.format == "json":
        write(json.dumps([state.to_dict() for state in states], indent=2) + "\n")
        return
    if not states:
        log.info("no jobs")
        return
    rows = [("namespace", "name", "phase", "started", "ended", "accuracy", "exit code", "RayJob")]
    for state in states:
        result = state.result or {}
        accuracy = f"{float(result['accuracy']):.4f}" if "accuracy" in result else ""
        ending = (state.started or "", state.ended or "", accuracy, result.get("exit-code", ""))
        rows.append((state.namespace, state.name, state.phase, *ending, state.rayjob))
    _show_table(rows, log)


def _start(api: Api, name: str, values: dict[str, Any], context: str | None, log: Log) -> str:
    """Install the release. Return the name of its RayJob."""
    submit.render(name, api.namespace, values)  # report errors in the values before asking a cluster
    before = {one["metadata"]["name"] for one in rayjob.runs(api, name)}
    submit.install(name, api.namespace, values, context)
    found = rayjob.find(api, name)
    started: str = found["metadata"]["name"]
    replaced = sorted(before - {started})
    if rayjob.is_suspended(found) and rayjob.QUEUE not in found["metadata"]["labels"]:
        api.suspend(started, False)
        action, told = "resumed", "resumes where it was cancelled"
    elif started in before:
        action, told = "unchanged", "these settings were submitted before; --force runs them again"
    else:
        action, told = "started", f"started{'; it replaces ' + ', '.join(replaced) if replaced else ''}"
    facts = {"name": name, "namespace": api.namespace, "rayjob": started, "action": action, "replaced": replaced}
    log.result(f"RayJob {started} in namespace {api.namespace}: {told}", **facts)
    return started


def _stop(api: Api, name: str) -> tuple[str, str]:
    """Stop the job. Return what was done, as a word and as a sentence."""
    found = rayjob.find(api, name)
    state = rayjob.State.of(found)
    if rayjob.QUEUE in found["metadata"]["labels"]:
        raise ClusterError(
            f"RayJob {state.rayjob}: Kueue decides when it runs; `mnist-job cancel {name} --delete` removes it from "
            "the queue"
        )
    if state.over:
        return "none", f"had already ended: {state.phase}"
    api.suspend(state.rayjob, True)
    return "cancelled", "cancelled; the same `submit` resumes from the last checkpoint"


def _delete(api: Api, name: str, context: str | None, log: Log) -> None:
    """Delete the release, and objects of the job that Helm does not know. Raises JobError, also if there is nothing."""
    was_released = submit.uninstall(name, api.namespace, context)
    deleted = belongings.delete(api, name)
    if not was_released and not deleted.things:
        raise ClusterError("\n".join([f"there is no job {name} in namespace {api.namespace}", *deleted.unknown]))
    for refusal in deleted.unknown:
        log.warning(f"cannot check whether more is left: {refusal}")


def _wait(api: Api, name: str, log: Log) -> None:
    """Show the job until its end. Raises the error that it has ended with."""
    before = None
    for state in _follow(api, name):
        _show_changes(before, state, log)
        before = state
    assert before is not None
    log.facts |= before.to_dict()
    if error := before.error():
        raise error


def _follow(api: Api, name: str, pause: Callable[[float], object] = time.sleep) -> Iterator[rayjob.State]:
    api.timeout = PATIENT_SECONDS
    return rayjob.follow(api, name, pause)


def _show(state: rayjob.State, log: Log) -> None:
    log.info(f"{state.name} in namespace {state.namespace}, RayJob {state.rayjob}")
    for name in ("phase", "reason", "message", "started", "ended", "progress"):
        if getattr(state, name):
            log.info(f"{name:<9} {getattr(state, name)}")
    for name, value in sorted((state.result or {}).items()):
        if name != "last-success":
            log.info(f"  {name:<15} {value}")
    if state.pods:
        pods = ((pod.name, pod.component, pod.phase, pod.waits or "") for pod in state.pods)
        _show_table([("pod", "", "phase", "waits for"), *pods], log)


def _show_changes(before: rayjob.State | None, state: rayjob.State, log: Log) -> None:
    for line in rayjob.changes(before, state):
        log.info(line)


def _show_table(rows: Sequence[Sequence[str]], log: Log) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        log.info("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _api(parsed: argparse.Namespace) -> Api:
    return Api(ClusterError, ASK_SECONDS, context=parsed.context, namespace=parsed.namespace)


def _place(parsed: argparse.Namespace) -> str:
    given = {"namespace": parsed.namespace, "context": parsed.context}
    return "".join(f" --{name} {value}" for name, value in given.items() if value)
