"""Tell each worker of the others through TF_CONFIG, as ray.train.tensorflow does, without importing TensorFlow.

The driver does not import TensorFlow, which is the slowest step of a worker's start. Ray's own TensorflowTrainer would
import it in the driver, too, before the workers may start.
"""

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


class TensorFlowBackendConfig(BackendConfig):
    """The configuration of a backend that gives each worker the addresses of all workers in TF_CONFIG.

    It does the same as ray.train.tensorflow, but does not import TensorFlow. `nodes` has the name of each worker's
    node, by rank, from the last start of the workers.
    """

    def __init__(self) -> None:
        self.nodes: list[str] = []

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train makes for this configuration."""
        return _TensorFlowBackend


class _TensorFlowBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set TF_CONFIG on all workers; Ray Train calls this after they start and before their loops do."""
        # Another process may take a free port before TensorFlow binds it (ray issue 34271). Then the run is retried.
        places = worker_group.execute(_place)
        addresses = [address for address, _ in places]
        assert isinstance(backend_config, TensorFlowBackendConfig)
        backend_config.nodes = [node for _, node in places]
        ray.get(
            [worker_group.execute_single_async(rank, _set_tf_config, addresses, rank) for rank in range(len(addresses))]
        )


def _place() -> tuple[str, str]:
    """Return an address that TensorFlow can listen at, and the name of this node."""
    host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", socket.gethostname()


def _set_tf_config(addresses: list[str], rank: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
