"""Test how the cluster's autoscaler is recognized. tests/ray/test_autoscaler.py has a real one."""

import json
from types import SimpleNamespace

import pytest
import ray

from mnist_job.config.settings import JobConfig
from mnist_job.distributed import capacity
from mnist_job.distributed.shortcuts import local_ray
from mnist_job.errors import ClusterError


def reports(monkeypatch, *, v1: dict | None = None, v2: tuple[str, list[str]] = ("0", ["node_ab"])) -> None:
    """Make the GCS return the report of autoscaler v1, or the version and the nodes of autoscaler v2."""
    report = b"" if v1 is None else json.dumps({"time": 1.0} | v1).encode()
    nodes = [SimpleNamespace(ray_node_type_name=name) for name in v2[1]]
    status = SimpleNamespace(stats=SimpleNamespace(autoscaler_version=v2[0]), active_nodes=nodes, idle_nodes=[])
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda _: report)
    monkeypatch.setattr("ray.autoscaler.v2.sdk.get_cluster_status", lambda _: status)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"v1": {"load_metrics_report": {}}}, None),
        ({"v1": {"autoscaler_report": {"active_nodes": {"node_ab": 1}, "pending_launches": {}}}}, False),
        ({"v1": {"autoscaler_report": {"active_nodes": {"headgroup": 1}, "pending_launches": {}}}}, True),
        ({"v1": {"autoscaler_report": {"active_nodes": {}, "pending_launches": {"small": 2}}}}, True),
        ({"v1": {"autoscaler_report": {"of a later Ray": {}}}}, False),
        ({"v2": ("3", ["node_ab", "node_cd"])}, False),
        ({"v2": ("3", ["headgroup"])}, True),
    ],
)
def test_an_autoscaler_is_known_by_its_types_of_nodes(monkeypatch, told, expected):
    reports(monkeypatch, **told)
    assert local_ray.has_autoscaler() is expected


def test_a_ray_without_these_interfaces_has_no_autoscaler(monkeypatch):
    monkeypatch.delattr("ray.experimental.internal_kv._internal_kv_get")
    assert local_ray.has_autoscaler() is False


@pytest.fixture
def empty_cluster(monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"memory": 1.0}}])


@pytest.mark.parametrize(
    ("config", "autoscaler"),
    [(JobConfig(address="head:6379"), False), (JobConfig(address="local"), True)],
    ids=["none", "a local Ray"],
)
def test_without_an_autoscaler_it_is_refused_at_once(monkeypatch, empty_cluster, config, autoscaler):
    monkeypatch.setattr(local_ray, "has_autoscaler", lambda: autoscaler)
    told: list[str] = []
    with pytest.raises(ClusterError, match=r"the workers need 2 x 1 CPU; the cluster's 1 nodes have 0 CPUs"):
        capacity.check(config, told.append)
    assert told == []


@pytest.mark.parametrize("workers", ["2", "2:8"])
def test_an_autoscaler_is_asked_for_the_fewest_workers(monkeypatch, empty_cluster, workers):
    """The program asks for CPUs with a placement group, and removes it at every end."""
    asked, removed, told = [], [], []
    group = SimpleNamespace(wait=lambda _: False)
    monkeypatch.setattr(local_ray, "has_autoscaler", lambda: True)
    monkeypatch.setattr(capacity, "placement_group", lambda bundles: asked.append(bundles) or group)
    monkeypatch.setattr(capacity, "remove_placement_group", removed.append)
    config = JobConfig(address="head:6379", workers=workers, cpus_per_worker=3, use_gpu=True, start_timeout=0.1)
    with pytest.raises(ClusterError, match=r"its autoscaler has not made that room within 0\.1 s\. Ask for less"):
        capacity.check(config, told.append)
    assert asked == [[{"CPU": 3.0, "GPU": 1}] * 2]
    assert removed == [group]
    (sentence,) = told
    assert sentence.endswith("waiting up to 0.1 s for its autoscaler to add nodes")
