"""Test a cluster without room, with Ray's own autoscaler. Its nodes are processes on this machine."""

import json

import pytest

from tests.conftest import PAIR, TINY, TOKEN, WAIT_SECONDS, free_port, job, ray_head

HEAD_NODE = "f" * 51 + "00000"  # Ray's provider of such nodes expects this id


def autoscaling(port: int) -> dict[str, object]:
    """Return the configuration of a cluster with zero to two nodes of one CPU each."""
    files = ("cluster_synced_files", "rsync_exclude", "rsync_filter")
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        **{key: {} for key in ("docker", "auth", "file_mounts")},
        **{key: [] for key in (*files, *(f"{name}_commands" for name in commands))},
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 60,
        "file_mounts_sync_continuously": False,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": HEAD_NODE,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
        },
    }


@pytest.mark.full  # tests/e2e/test_autoscaling.py shows it with the autoscaler that users have
def test_a_cluster_that_scales_from_zero_is_asked_for_room_and_waited_for(tmp_path):
    port = free_port()
    (tmp_path / "autoscaling.json").write_text(json.dumps(autoscaling(port)))
    flags = ("--num-cpus=0", f"--autoscaling-config={tmp_path / 'autoscaling.json'}")
    growing = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
        "RAY_raylet_start_wait_time_s": str(WAIT_SECONDS),
    }
    with ray_head(tmp_path, *flags, port=port, **growing) as head:
        place = ("--address", head.address, "--start-timeout")
        result = job("run", *TINY, *PAIR, *place, str(WAIT_SECONDS), cwd=tmp_path, **TOKEN)
        assert (result.returncode, result.stderr) == (0, "")
        assert (
            "the workers need 2 x 1 CPU; the cluster's 1 nodes have 0 CPUs and 0 GPUs, which holds 0 of 2; "
            f"waiting up to {WAIT_SECONDS} s for its autoscaler to add nodes"
        ) in result.stdout
        result = job("run", *TINY, "--name", "more", "--workers", "3", *place, "10", cwd=tmp_path, **TOKEN)
        assert (result.returncode, len(result.stderr.splitlines())) == (4, 1), result.stderr
        assert "its autoscaler has not made that room within 10 s. Ask for less" in result.stderr
