"""Check that the connected Ray cluster has room for a run, or wait until its autoscaler has added the nodes."""

import time
from collections.abc import Callable
from typing import NamedTuple

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from mnist_job.bounds import LOOK_SECONDS, ROOM_SECONDS
from mnist_job.config.settings import JobConfig, Settings
from mnist_job.distributed import addresses
from mnist_job.distributed.shortcuts import local_ray
from mnist_job.errors import ClusterError

Resources = dict[str, float]


class Need(NamedTuple):
    """The room for `number` processes at the same time, each with the resources `each`.

    `what` names them in messages. `seconds` is how long to wait for the autoscaler.
    """

    what: str
    number: int
    each: Resources
    seconds: float


def check(config: Settings, tell: Callable[[str], None]) -> None:
    """Return when the cluster has room for the least number of workers, and for the evaluation after them.

    If the cluster has an autoscaler, ask it for the missing nodes and wait for them: for the workers `start_timeout`
    seconds, for the evaluation ROOM_SECONDS. `tell` gets a sentence before the wait. Raises ClusterError if there is no
    room and no autoscaler, or if the nodes did not come in time.
    """
    grows = _can_grow if not addresses.of(config).is_local else lambda: False
    if isinstance(config, JobConfig):
        worker = _resources(config.cpus_per_worker, gpu=config.use_gpu)
        _make_room(Need("the workers", config.least_workers, worker, config.start_timeout), grows, tell)
    evaluation = _resources(1, gpu=config.evaluate_on_gpu)
    _make_room(Need("the evaluation", 1, evaluation, ROOM_SECONDS), grows, tell)


def _resources(cpus: float, *, gpu: bool) -> Resources:
    return {"CPU": cpus} | ({"GPU": 1} if gpu else {})


def _make_room(need: Need, can_grow: Callable[[], bool], tell: Callable[[str], None]) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    fits = sum(_holds(node, need.each) for node in nodes)
    if fits >= need.number:
        return
    there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    asked = f"{need.number} x {need.each['CPU']:g} CPU" + (" and 1 GPU" if "GPU" in need.each else "")
    lacking = (
        f"{need.what} need {asked}; the cluster's {len(nodes)} nodes have {there}, which holds {fits} of {need.number}"
    )
    less = "Ask for less (--workers, --cpus-per-worker), or give the cluster more"
    if not can_grow():
        raise ClusterError(f"{lacking}. {less}")
    tell(f"{lacking}; waiting up to {need.seconds:g} s for its autoscaler to add nodes")
    if not _came(need):
        raise ClusterError(
            f"{lacking}, and its autoscaler has not made that room within {need.seconds:g} s. {less}: raise the limit "
            "of its nodes, or wait longer for them (--start-timeout)"
        )


def _holds(node: Resources, each: Resources) -> int:
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in each.items())


def _can_grow() -> bool:
    """Return whether there is an autoscaler. Wait for its first report: it may have just started."""
    deadline = time.monotonic() + LOOK_SECONDS
    while (known := local_ray.has_autoscaler()) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    return bool(known)


def _came(need: Need) -> bool:
    """Reserve the room, wait for it, and free it again for Ray Train. Return whether it was there in time."""
    group = placement_group([need.each] * need.number)  # the autoscaler adds nodes for it
    deadline = time.monotonic() + need.seconds
    try:
        while time.monotonic() < deadline:
            if group.wait(1):  # in short steps: a signal does not interrupt it
                return True
        return False
    finally:
        remove_placement_group(group)
