"""Start a local Ray faster, find and join an existing one, and ask for the state of the connected one."""

import importlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from mnist_job.system.processes import RAYLET

Replacement = tuple[Any, str, Any]


def _part(module: str, name: str = "") -> Any:
    """Return a module of Ray, or its attribute `name`. Return None if this Ray does not have it."""
    try:
        found = importlib.import_module(f"ray._private.{module}")
    except ImportError:
        return None
    return getattr(found, name, None) if name else found


services, utils = _part("services"), _part("utils")
Node, GlobalState = _part("node", "Node"), _part("state", "GlobalState")

TOKEN = secrets.token_hex(32)
"""The token of a local Ray. It is the same as long as this process lives, because Ray reads it only once."""


@contextmanager
def replaced(replacements: list[Replacement]) -> Iterator[None]:
    """Replace attributes in this context. Skip those that do not exist."""
    present = [(owner, name, new) for owner, name, new in replacements if hasattr(owner, name)]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in present]
    for owner, name, new in present:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def unseen(folder: Path) -> list[Replacement]:
    """Hide a local Ray from `address="auto"`, which looks for processes with `raylet` in the names of their programs.

    The raylet is started through a link with another name in `folder`. If no link can be made, the Ray is not hidden,
    but without its token nobody can use it.
    """
    link = folder / RAYLET
    with suppress(OSError, AttributeError):
        if not link.is_symlink():  # it exists if this process has started a Ray before
            link.symlink_to(services.RAYLET_EXECUTABLE)
        return [(services, "RAYLET_EXECUTABLE", str(link))]
    return []


def signals_kept() -> list[Replacement]:
    """Keep this program's handler of SIGTERM, which counts the signals: Ray would replace it with its own."""
    return [(utils, "set_sigterm_handler", lambda _handler: None)]


def lean() -> list[Replacement]:
    """Start a local Ray without the processes that a job does not use. This saves 2 s, at its start and at its end.

    They are the dashboard's server (which starts even if the dashboard is off), the autoscaler and the log monitor.
    Two more steps of the driver are skipped, which saves 0.4 s: it does not import the dashboard's packages to check
    that they are installed (this package requires them), and it does not sleep for a whole second while it waits for
    its node.
    """

    def nothing(*_: Any, **__: Any) -> None:
        pass

    waits = hasattr(GlobalState, "_initialize_global_state") and hasattr(services, "_get_gcs_client_options")
    return [
        (Node, "start_api_server", nothing),
        (Node, "start_monitor", nothing),
        (Node, "start_log_monitor", nothing),
        (utils, "get_dashboard_dependency_error", nothing),
        *([(services, "get_node", _get_node)] if waits else []),
    ]


def _get_node(gcs_address: str, node_id: str) -> Any:
    """Do what Ray's `get_node` does, but look for the node every 10 ms. Ray sleeps for 1 s after the first look."""
    state: Any = GlobalState()
    state._initialize_global_state(services._get_gcs_client_options(gcs_address))
    for _ in range(100):
        if any(node["NodeID"] == node_id for node in state.node_table()):
            break
        time.sleep(0.01)
    return state.get_node(node_id)


def found() -> str:
    """Return the HOST:PORT that `auto` means on this machine. Raises ConnectionError if no cluster is found.

    Use the user's token if there is one. Ray does so itself for `auto`, but not for a HOST:PORT.
    """
    with suppress(ImportError):
        from ray._private.authentication import authentication_token_setup

        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    find: Callable[[str], str | None] | None = getattr(services, "canonicalize_bootstrap_address", None)
    return find("auto") or "auto" if find is not None else "auto"


def check_head(address: str) -> None:
    """Connect to the head at HOST:PORT once, without the retries of `ray.init`.

    `ray.init` retries for 20 s if the head refuses, and for 15 minutes if something that is not a head answers.
    Raises ray.exceptions.AuthenticationError or, after 40 s, RpcError.
    """
    client: Any = getattr(getattr(ray, "_raylet", None), "GcsClient", None)
    if client is not None:
        with _quiet_library():
            client(address=address)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Discard standard error in this context: Ray's C++ code writes to it, and its log level is fixed at the import."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nothing, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)


def has_autoscaler() -> bool | None:
    """Return whether the connected cluster has an autoscaler, or None if nothing has reported yet.

    On a head without an autoscaler a monitor reports instead. Its node types have the form `node_<id>`.
    """
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status
        from ray.experimental.internal_kv import _internal_kv_get

        report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report")
        if report is not None:
            types = set(report["active_nodes"]) | set(report["pending_launches"])
        else:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            if status.stats.autoscaler_version in (None, "", "0"):
                return None
            types = {node.ray_node_type_name for node in status.active_nodes + status.idle_nodes}
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, ray.exceptions.RayError):
        return False
    return any(not name.startswith("node_") for name in types)
