"""The Ray cluster a job runs on: a local one of its own, or one that exists."""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_job.bounds import LOOK_SECONDS
from mnist_job.config.settings import Settings
from mnist_job.distributed import addresses, ray_private
from mnist_job.distributed.addresses import Address
from mnist_job.errors import ClusterError, JobError, last_line
from mnist_job.system import temporary
from mnist_job.system.fork import tell

LOCAL_RAY = {"prestart_worker_first_driver": False}  # no Python process before one is asked for


@contextlib.contextmanager
def connected(config: Settings) -> Iterator[None]:
    """Connected to Ray, and disconnected at the end, whatever the end. A local Ray is stopped with all its processes.

    Within itself it changes nothing. Raises UsageError if the address is none, ClusterError if it gives no answer.
    """
    if ray.is_initialized():
        yield
        return
    address = addresses.of(config)
    addresses.check_form(address)
    # Short, for the sockets' names; the supervising parent has made one already.
    with temporary.private(["/tmp"]) as folder, _initialized(config, address, folder):  # noqa: S108
        yield


@contextlib.contextmanager
def _initialized(config: Settings, address: Address, folder: Path) -> Iterator[None]:
    quiet = not config.verbose
    if quiet:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    place = address.value
    local: dict[str, Any] = {}
    replacements = ray_private.signals_kept()
    if address.is_local:
        local = {"_temp_dir": f"{folder}/ray", "include_dashboard": False, "_system_config": LOCAL_RAY}
        replacements += ray_private.unseen(folder) + (ray_private.lean() if quiet else [])
        _give_token()
    tell(ray=place)
    try:
        with (
            contextlib.nullcontext() if local else temporary.as_before(),
            ray_private.replaced(replacements),
            contextlib.chdir(_empty(folder)),
        ):
            if not local:
                addresses.check_token(address)
                place = _answering(address)
                ray_private.check_head(place)
            ray.init(
                address=place,
                log_to_driver=not quiet,
                logging_level=logging.CRITICAL if quiet else logging.INFO,
                namespace="mnist-job",
                **local,
            )
    except (KeyboardInterrupt, SystemExit) as stop:  # the latter is how Ray answers SIGTERM while it starts
        tell(ray=None)
        ray.shutdown()
        raise KeyboardInterrupt from stop
    except JobError:
        tell(ray=None)
        raise
    except Exception as error:  # Ray raises the class itself where it is not ready in time
        tell(ray=None)
        ray.shutdown()
        raise addresses.refusal(address, error) from error
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


def _empty(folder: Path) -> Path:
    """Where the driver is when it starts Ray, which puts that folder on the path of the workers' imports."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    return empty


def _give_token() -> None:
    """A local Ray keeps others out, whatever the variables say, and needs no file below HOME for that."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):  # without a mode Ray switches its token on
        os.environ.pop(name, None)
    os.environ["RAY_AUTH_TOKEN"] = ray_private.TOKEN


def _answering(address: Address) -> str:
    """The HOST:PORT of a head that listens. Raises ClusterError."""
    if address.value != "auto":
        addresses.check_answers(address.value, f"{address}: no Ray cluster can be reached")
        return address.value
    start = "start one (`ray start --head`), give HOST:PORT, or leave it out for a Ray of the job's own"
    try:
        place = ray_private.found()
    except ConnectionError as error:
        raise ClusterError(f"{address}: no Ray cluster runs on this machine; {start}") from error
    if place != "auto":
        addresses.check_answers(place, f"{address}: the cluster at {place} was the last here, and is gone; {start}")
    return place


def doing(config: Settings) -> str:
    """What `connected` does, for people."""
    return "starting a local Ray" if is_local(config) else f"connecting to Ray at {addresses.of(config).value}"


def is_local(config: Settings) -> bool:
    """Whether the job has a Ray of its own, which ends with it."""
    return addresses.of(config).is_local


def this_node() -> str:
    """Ray's id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def check_head_answers() -> None:
    """Raises ClusterError if the head of the connected cluster is gone."""
    addresses.check_answers(str(ray.get_runtime_context().gcs_address), "the Ray head is gone")


def short_of_memory() -> list[str]:
    """The hosts of the connected cluster whose control group had a process killed for its memory.

    The kernel counts since the host began, which for a pod is its container's start. Raises ClusterError if they
    cannot be asked.
    """
    count: Any = ray.remote(num_cpus=0, max_retries=0)(kills_for_memory)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[count.options(scheduling_strategy=there).remote()] = node["NodeManagerHostname"]
    try:
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
        return [asked[answer] for answer in answered if ray.get(answer) > 0]
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the cluster's nodes cannot be asked: {last_line(error)}") from error


def kills_for_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The processes of this control group (its version 2 or 1) that the kernel killed for their memory."""
    for file in (cgroup / "memory.events", cgroup / "memory/memory.oom_control"):
        if file.exists():
            return int(dict(line.split() for line in file.read_text().splitlines()).get("oom_kill", 0))
    return 0
