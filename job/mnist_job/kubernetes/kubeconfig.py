"""Find the cluster, from the kubeconfig or from this pod, and explain errors in the kubeconfig."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_job.errors import JobError, UsageError

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def load(settings: Any, context: str | None, error: type[JobError]) -> str:
    """Fill the client's settings. Return the namespace of the pod or the context. Raises `error` and UsageError."""
    from kubernetes import config  # imported here because it takes half a second

    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        try:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
            return NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError) as missing:
            raise error(f"this pod has no service account: {line(missing)}") from missing
    files = str(config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    if not any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file):
        raise error(
            f"this is not a pod, and there is no kubeconfig {files}; set KUBECONFIG to the kubeconfig of a cluster"
        )
    try:
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        chosen = next((one for one in contexts if one["name"] == context), None) if context else current
        own = chosen and chosen["context"].get("namespace")
    except Exception as broken:  # a broken file can cause any exception in the client
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
        # The client would continue without credentials, and the cluster would refuse the user `system:anonymous`.
        raise error(f"the kubeconfig {files} cannot log in: {told[0]}; install what it names, or log in again")
    return str(own or "default")


def line(error: BaseException | str) -> str:
    """Return an error's text as one line."""
    return " ".join(str(error).split())


def _unusable(files: str, broken: Exception) -> str:
    return (
        f"the kubeconfig {files} cannot be used: {line(broken) or type(broken).__name__}; check it with: kubectl "
        "config view, or set KUBECONFIG to another file"
    )


@contextmanager
def _what_is_logged() -> Iterator[list[str]]:
    """Collect the errors that the client only logs. It does so if the kubeconfig's login program fails."""
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
