"""The Ray cluster that a job runs on: an existing one, or a local one that the job starts and stops."""

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
from mnist_job.config.parts import RaySettings
from mnist_job.distributed import addresses
from mnist_job.distributed.addresses import Address
from mnist_job.distributed.shortcuts import local_ray
from mnist_job.errors import ClusterError, JobError, last_line
from mnist_job.system import temporary
from mnist_job.system.fork import tell

LOCAL_RAY = {"prestart_worker_first_driver": False}  # start no Python process before one is needed


@contextlib.contextmanager
def connected(config: RaySettings) -> Iterator[None]:
    """Connect to Ray in this context, and always disconnect at its end. A local Ray is stopped with all its processes.

    If this process is connected already, do nothing. Raises UsageError if the address is not valid, ClusterError if the
    cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = addresses.of(config)
    addresses.check_form(address)
    # In /tmp, because the names of sockets must be short. The supervising parent has already made such a folder.
    with temporary.private(["/tmp"]) as folder, _initialized(config, address, folder):  # noqa: S108
        yield


@contextlib.contextmanager
def _initialized(config: RaySettings, address: Address, folder: Path) -> Iterator[None]:
    quiet = not config.verbose
    if quiet:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    place = address.value
    local: dict[str, Any] = {}
    replacements = local_ray.signals_kept()
    if address.is_local:
        local = {"_temp_dir": f"{folder}/ray", "include_dashboard": False, "_system_config": LOCAL_RAY}
        replacements += local_ray.unseen(folder) + (local_ray.lean() if quiet else [])
        _give_token()
    tell(ray=place)
    try:
        with (
            contextlib.nullcontext() if local else temporary.as_before(),
            local_ray.replaced(replacements),
            contextlib.chdir(_empty(folder)),
        ):
            if not local:
                addresses.check_token(address)
                place = _answering(address)
                local_ray.check_head(place)
            ray.init(
                address=place,
                log_to_driver=not quiet,
                logging_level=logging.CRITICAL if quiet else logging.INFO,
                namespace="mnist-job",
                **local,
            )
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray raises SystemExit for a SIGTERM while it starts
        tell(ray=None)
        ray.shutdown()
        raise KeyboardInterrupt from stop
    except JobError:
        tell(ray=None)
        raise
    except Exception as error:  # all of them: Ray raises a plain Exception if it is not ready in time
        tell(ray=None)
        ray.shutdown()
        raise addresses.refusal(address, error) from error
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray has replaced them
    if not local:
        tell(ray=str(ray.get_runtime_context().gcs_address))
    try:
        # Ray prints to sys.stdout when its processes die, and no option stops that. The display keeps the real stdout.
        with contextlib.nullcontext() if config.verbose else contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tell(ray=None)
        ray.shutdown()


def _empty(folder: Path) -> Path:
    """Return an empty folder to start Ray in: Ray adds the current folder to the workers' import path."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    return empty


def _give_token() -> None:
    """Set a token for the local Ray, so that no other user can connect to it. Ignore the user's variables and files."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):  # if the mode is unset, Ray turns authentication on
        os.environ.pop(name, None)
    os.environ["RAY_AUTH_TOKEN"] = local_ray.TOKEN


def _answering(address: Address) -> str:
    """Return the HOST:PORT of the head. Raises ClusterError if nothing listens there."""
    if address.value != "auto":
        addresses.check_answers(address.value, f"{address}: no Ray cluster can be reached")
        return address.value
    start = "start one (`ray start --head`), give HOST:PORT, or leave it out to start a local Ray for this job"
    try:
        place = local_ray.found()
    except ConnectionError as error:
        raise ClusterError(f"{address}: no Ray cluster runs on this machine; {start}") from error
    if place != "auto":
        addresses.check_answers(place, f"{address}: the last cluster of this machine, at {place}, is gone; {start}")
    return place


def doing(config: RaySettings) -> str:
    """Return a phrase for the display that says what `connected` does."""
    return "starting a local Ray" if is_local(config) else f"connecting to Ray at {addresses.of(config).value}"


def is_local(config: RaySettings) -> bool:
    """Return whether the job starts a local Ray, which ends with it."""
    return addresses.of(config).is_local


def this_node() -> str:
    """Return Ray's id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def check_head_answers() -> None:
    """Check that the head of the connected cluster still answers. Raises ClusterError if not."""
    addresses.check_answers(str(ray.get_runtime_context().gcs_address), "the Ray head is gone")


def short_of_memory() -> list[str]:
    """Return the hosts of the connected cluster on which the kernel has killed a process that ran out of memory.

    The kernel counts since the start of the host; in a pod, since the start of its container. Raises ClusterError if
    the nodes cannot be asked.
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
    """Return how many processes of this control group (v2 or v1) the kernel has killed because of their memory."""
    for file in (cgroup / "memory.events", cgroup / "memory/memory.oom_control"):
        if file.exists():
            return int(dict(line.split() for line in file.read_text().splitlines()).get("oom_kill", 0))
    return 0
