"""What a run uses of Ray beyond its public interface. What a later Ray does not have is done without."""

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
from ray._private import services, utils
from ray._private.node import Node
from ray._private.state import GlobalState

from mnist_job.system.processes import RAYLET

Replacement = tuple[Any, str, Any]

TOKEN = secrets.token_hex(32)
"""A local Ray's, one for the life of this process: Ray reads it once."""


@contextmanager
def replaced(replacements: list[Replacement]) -> Iterator[None]:
    """While this is open, the attributes are replaced that exist."""
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements if hasattr(owner, name)]
    for owner, name, replacement in replacements:
        if hasattr(owner, name):
            setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def unseen(folder: Path) -> list[Replacement]:
    """A local Ray that `address="auto"` does not find: it looks for processes with `raylet` in their programs' names.

    `folder` takes a link of another name. Where that is not possible, its token keeps others out.
    """
    link = folder / RAYLET
    with suppress(OSError, AttributeError):
        if not link.is_symlink():  # of a Ray that this process had before
            link.symlink_to(services.RAYLET_EXECUTABLE)
        return [(services, "RAYLET_EXECUTABLE", str(link))]
    return []


def signals_kept() -> list[Replacement]:
    """Ray's answer to SIGTERM does not take the place of this program's, which counts how often it came."""
    return [(utils, "set_sigterm_handler", lambda _handler: None)]


def lean() -> list[Replacement]:
    """A local Ray begins without the processes that a job does not use: 2 s less, of both its start and its end.

    They are the dashboard's server (which starts without a dashboard as well), the autoscaler and the reader of logs.
    And the driver neither imports the dashboard's packages to see that they are there, which this package's
    dependencies say, nor sleeps for a second where its node is not known a tenth after its start: 0.4 s less.
    """

    def nothing(*_: Any, **__: Any) -> None:
        pass

    return [
        (Node, "start_api_server", nothing),
        (Node, "start_monitor", nothing),
        (Node, "start_log_monitor", nothing),
        (utils, "get_dashboard_dependency_error", nothing),
        (services, "get_node", _get_node),
    ]


def _get_node(gcs_address: str, node_id: str) -> Any:
    """As Ray's own, which sleeps for a second if the node is not known yet; it becomes known within one."""
    state: Any = GlobalState()  # type: ignore[no-untyped-call]
    state._initialize_global_state(services._get_gcs_client_options(gcs_address))  # type: ignore[no-untyped-call]
    for _ in range(100):
        if any(node["NodeID"] == node_id for node in state.node_table()):
            break
        time.sleep(0.01)
    return state.get_node(node_id)


def found() -> str:
    """The HOST:PORT that `auto` means on this machine. Raises ConnectionError where there is none.

    As Ray does for `auto`, and not for an address: its token is used where the user has one.
    """
    with suppress(ImportError):
        from ray._private.authentication import authentication_token_setup

        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    find: Callable[[str], str | None] | None = getattr(services, "canonicalize_bootstrap_address", None)
    return find("auto") or "auto" if find is not None else "auto"


def check_head(address: str) -> None:
    """Ask the head at HOST:PORT once; `ray.init` asks for 20 s one that refuses, and for a quarter of an hour another.

    Raises ray.exceptions.AuthenticationError or RpcError, the latter after 40 s.
    """
    client: Any = getattr(ray._raylet, "GcsClient", None)
    if client is not None:
        with _quiet_library():
            client(address=address)


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Ray's C++ writes to standard error itself, at a level that is set before its import."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nothing, os.fdopen(os.dup(2), "w") as stderr:
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)


def has_autoscaler() -> bool | None:
    """Whether the connected cluster can grow; None as long as neither Ray's autoscaler nor its stand-in has reported.

    On every head without an autoscaler a monitor reports, too: its type of a node is `node_` and the node's id.
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
