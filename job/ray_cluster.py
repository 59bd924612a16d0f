"""The Ray cluster a job runs on: a local one of its own, or one that exists."""

import contextlib
import io
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import services, utils
from ray._private.node import Node
from ray._private.state import GlobalState
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from job import temporary
from job.config import JobConfig, Settings
from job.errors import ClusterError
from job.fork import tell
from job.policy import CONNECT_SECONDS, LOOK_SECONDS

LOCAL_RAY = {"prestart_worker_first_driver": False}  # no Python process before one is asked for


@contextlib.contextmanager
def connected(config: Settings) -> Iterator[None]:
    """Connected to Ray, and disconnected at the end, whatever the end. A local Ray is stopped with all its processes.

    Within itself it changes nothing. Raises ClusterError if the address gives no answer.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(config)
    _check_answers(address)
    # Short, for the sockets' names; the supervising parent has made one already.
    with temporary.private(["/tmp"]) as folder, _initialized(config, address, f"{folder}/ray"):  # noqa: S108
        yield


@contextlib.contextmanager
def _initialized(config: Settings, address: str, folder: str) -> Iterator[None]:
    quiet = not config.verbose
    if quiet:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    local: dict[str, Any] = {}
    if address == "local":
        local = {"_temp_dir": folder, "include_dashboard": False, "_system_config": LOCAL_RAY}
    tell(ray=address)
    try:
        with (
            _signals_kept(),
            contextlib.nullcontext() if local else temporary.as_before(),
            _lean_start() if local and quiet else contextlib.nullcontext(),
        ):
            ray.init(
                address=address,
                log_to_driver=not quiet,
                logging_level=logging.CRITICAL if quiet else logging.INFO,
                namespace="mnist-job",
                **local,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        tell(ray=None)
        raise ClusterError(f"--address {address}: no Ray cluster can be reached: {_first_line(error)}") from error
    except (KeyboardInterrupt, SystemExit) as stop:  # the latter is how Ray answers SIGTERM while it starts
        tell(ray=None)
        ray.shutdown()
        raise KeyboardInterrupt from stop
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray has put its own in their place
    if not local:
        tell(ray=str(ray.get_runtime_context().gcs_address))
    try:
        # Ray prints what befell its processes to sys.stdout and has no switch for it; the display holds the real one.
        with contextlib.nullcontext() if config.verbose else contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tell(ray=None)
        ray.shutdown()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """While Ray starts, its answer to SIGTERM is not in the place of this program's, which counts how often it came."""
    original = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = original


@contextlib.contextmanager
def _lean_start() -> Iterator[None]:
    """A local Ray begins without the processes that a job does not use: 2 s less, of both its start and its end.

    They are the dashboard's server (which starts without a dashboard as well), the autoscaler and the reader of logs.
    And the driver neither imports the dashboard's packages to see that they are there, which this package's
    dependencies say, nor sleeps for a second where its node is not known a tenth after its start: 0.4 s less.
    """
    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (Node, "start_api_server", lambda _self, **_: None),
        (Node, "start_monitor", lambda _self, **_: None),
        (Node, "start_log_monitor", lambda _self, **_: None),
        (utils, "get_dashboard_dependency_error", lambda: None),
        (services, "get_node", _get_node),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, replacement in replaced:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _get_node(gcs_address: str, node_id: str) -> Any:
    """As Ray's own, which sleeps for a second if the node is not known yet; it becomes known within one."""
    state: Any = GlobalState()  # type: ignore[no-untyped-call]
    state._initialize_global_state(services._get_gcs_client_options(gcs_address))  # type: ignore[no-untyped-call]
    for _ in range(100):
        if any(node["NodeID"] == node_id for node in state.node_table()):
            break
        time.sleep(0.01)
    return state.get_node(node_id)


def doing(config: Settings) -> str:
    """What `connected` does, for people."""
    return "starting a local Ray" if is_local(config) else f"connecting to Ray at {_address(config)}"


def is_local(config: Settings) -> bool:
    """Whether the job has a Ray of its own, which ends with it."""
    return _address(config) == "local"


def this_node() -> str:
    """Ray's id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def check_capacity(config: Settings) -> None:
    """Raises ClusterError unless the cluster's nodes can hold all workers at once, and the evaluation after them."""
    if isinstance(config, JobConfig):
        _check_fits(config.least_workers, config.cpus_per_worker, int(config.use_gpu), "the workers")
    _check_fits(1, 1, int(config.evaluate_on_gpu), "the evaluation")


def check_head_answers() -> None:
    """Raises ClusterError if the head of the connected cluster is gone."""
    _connect(str(ray.get_runtime_context().gcs_address), "the Ray head is gone: {}")


def short_of_memory() -> list[str]:
    """The hosts of the connected cluster whose control group had a process killed for its memory.

    The kernel counts since the host began, which for a pod is its container's start. Raises ray.exceptions.RayError.
    """
    count: Any = ray.remote(num_cpus=0, max_retries=0)(kills_for_memory)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[count.options(scheduling_strategy=there).remote()] = node["NodeManagerHostname"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
    return [asked[answer] for answer in answered if ray.get(answer) > 0]


def kills_for_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The processes of this control group (its version 2 or 1) that the kernel killed for their memory."""
    for file in (cgroup / "memory.events", cgroup / "memory/memory.oom_control"):
        if file.exists():
            return int(dict(line.split() for line in file.read_text().splitlines()).get("oom_kill", 0))
    return 0


def _address(config: Settings) -> str:
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def _check_fits(count: int, cpus: float, gpus: int, what: str) -> None:
    fits = 0
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for resources in nodes:
        by_cpu = int(resources.get("CPU", 0) / cpus + 1e-9)
        fits += min(by_cpu, int(resources.get("GPU", 0))) if gpus else by_cpu
    if fits >= count:
        return
    there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    asked = f"{count} x {cpus:g} CPU" + (" and 1 GPU" if gpus else "")
    raise ClusterError(
        f"{what} need {asked}; the cluster's {len(nodes)} nodes have {there}, which holds {fits} of {count}. "
        "Ask for less (--workers, --cpus-per-worker), or give the cluster more"
    )


def _check_answers(address: str) -> None:
    if address not in ("local", "auto") and address.rpartition(":")[2].isdigit():
        _connect(address, f"--address {address}: no Ray cluster can be reached: {{}}")


def _connect(address: str, sentence: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(sentence.format(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
