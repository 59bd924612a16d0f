"""Which cluster the kubeconfig names, or this pod is of; and in a sentence what is wrong with a kubeconfig."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_job.errors import JobError, UsageError

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def load(settings: Any, context: str | None, error: type[JobError]) -> str:
    """Fill the client's settings. Gives the namespace of the pod or the context. Raises `error` and UsageError."""
    from kubernetes import config  # half a second that only those pay who ask

    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        try:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
            return NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError) as missing:
            raise error(f"this pod has no account of the cluster: {line(missing)}") from missing
    files = str(config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    if not any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file):
        raise error(f"this is no pod, and there is no kubeconfig {files}; KUBECONFIG names the file of a cluster")
    try:
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        chosen = next((one for one in contexts if one["name"] == context), None) if context else current
        own = chosen and chosen["context"].get("namespace")
    except Exception as broken:  # whatever is in the file, the client stumbles over it somewhere
        raise error(_unusable(files, broken)) from broken
    if chosen is None:
        known = ", ".join(sorted(one["name"] for one in contexts))
        raise UsageError(f"--context {context}: the kubeconfig {files} has only these: {known}")
    with _what_is_logged() as told:
        try:
            config.load_kube_config(context=context, client_configuration=settings)  # type: ignore[no-untyped-call]
        except Exception as broken:
            raise error(_unusable(files, broken)) from broken
    if told:
        # The client would go on without credentials, and the cluster refuse `system:anonymous` for its missing rights.
        raise error(f"the kubeconfig {files} cannot log in: {told[0]}; install what it names, or log in again")
    return str(own or "default")


def line(error: BaseException | str) -> str:
    """An error's text as one line."""
    return " ".join(str(error).split())


def _unusable(files: str, broken: Exception) -> str:
    return (
        f"the kubeconfig {files} cannot be used: {line(broken) or type(broken).__name__}; look at it by: kubectl "
        "config view, or name another by KUBECONFIG"
    )


@contextmanager
def _what_is_logged() -> Iterator[list[str]]:
    """The errors that the client logs where it does not raise them: those of a program that is to log in."""
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(line(record.getMessage()))

    handler = Handler(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger().removeHandler(handler)
