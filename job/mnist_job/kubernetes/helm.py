"""Run Helm's engine in a separate process with the name `helm`.

Server-side apply stores who has set a field, and refuses changes by others. Helm uses the name of its process for this:
in `submit` that would be `python` or `python3.11`. With the name `helm`, the `helm` command and `submit` can change
each other's releases.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

REVISIONS_TO_KEEP = 10  # the default of `helm upgrade`
_MAKER = "mnist-job-submit"  # a label of the release: the process that has made it


class Answer(NamedTuple):
    """The answer to a request. If it succeeded, no field is set."""

    error: str | None = None  # Helm's error
    clearing: str | None = None  # Helm's error in the clean-up after the first error, if that failed too
    foreign: str | None = None  # the release belongs to this other chart: nothing was done
    absent: bool = False  # there is no such release: nothing was done


def install(name: str, namespace: str, context: str | None, chart: Path, values: dict[str, Any]) -> Answer:
    """Do what `helm upgrade --install` does. After a failure, remove what was created."""
    return _ask("install", namespace, context, [name, str(chart), values, os.urandom(8).hex()])


def uninstall(name: str, namespace: str, context: str | None, chart: Path) -> Answer:
    """Do what `helm uninstall` does, if the release belongs to this chart."""
    return _ask("uninstall", namespace, context, [name, str(chart)])


def _ask(action: str, namespace: str, context: str | None, arguments: list[Any]) -> Answer:
    config = {"kube_context": context, "namespace": namespace}
    request = {"path": sys.path, "config": config, "action": action, "arguments": arguments}
    # Python searches for its library next to this name. `-I` ignores the current folder and the PYTHON* variables.
    command = [str(Path(os.path.realpath(sys.executable)).with_name("helm")), "-I", __file__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, executable=sys.executable, **pipes) as process:  # noqa: S603 this interpreter, this file
        answer, _ = process.communicate(json.dumps(request))
    try:
        return Answer(**json.loads(answer.rpartition("\n")[2]))
    except ValueError:
        return Answer(error=f"Helm's engine ended with exit code {process.returncode}")


def _install(helm: Any, cluster: Any, name: str, chart: str, values: dict[str, Any], token: str) -> Answer:
    try:
        found = cluster.status(name)
    except helm.HelmNotFoundError:
        return _install_first(helm, cluster, name, chart, values, token)
    if foreign := _foreign(helm, found, chart):
        return Answer(foreign=foreign)
    cluster.upgrade(chart, name, values, max_history=REVISIONS_TO_KEEP, reset_values=True, cleanup_on_fail=True)
    return Answer()


def _install_first(helm: Any, cluster: Any, name: str, chart: str, values: dict[str, Any], token: str) -> Answer:
    try:
        cluster.install(chart, name, values, labels={_MAKER: token})
        return Answer()
    except helm.HelmError as error:
        failure = error
    try:
        if cluster.status(name).get("labels", {}).get(_MAKER) == token:  # not the release of another process
            cluster.uninstall(name)
    except helm.HelmNotFoundError:
        pass
    except helm.HelmError as error:
        return Answer(error=str(failure), clearing=str(error))
    return Answer(error=str(failure))


def _uninstall(helm: Any, cluster: Any, name: str, chart: str) -> Answer:
    try:
        found = cluster.status(name)
    except helm.HelmNotFoundError:
        return Answer(absent=True)
    if foreign := _foreign(helm, found, chart):
        return Answer(foreign=foreign)
    cluster.uninstall(name)
    return Answer()


def _foreign(helm: Any, release: dict[str, Any], chart: str) -> str | None:
    with helm.Chart.load(chart) as loaded:
        own = loaded.name
    found: str = release["chart_name"]
    return None if found == own else found


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches both processes, but this one must finish its work
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    import helm_python

    actions: dict[str, Callable[..., Answer]] = {"install": _install, "uninstall": _uninstall}
    try:
        with helm_python.Config(**request["config"]) as cluster:
            answer = actions[request["action"]](helm_python, cluster, *request["arguments"])
    except helm_python.HelmError as error:
        answer = Answer(error=str(error))
    with contextlib.suppress(BrokenPipeError):  # the parent process was interrupted
        print("\n" + json.dumps(answer._asdict()), end="", flush=True)


if __name__ == "__main__":
    _serve()
