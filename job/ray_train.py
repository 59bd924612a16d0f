"""What this job does otherwise than Ray Train: how TensorFlow learns of the other workers, and what is started.

Neither the driver nor Ray Train's controller imports TensorFlow, whose import is a worker's longest wait: Ray's own
TensorflowTrainer would make both pay for it before the workers may begin. And of the processes that Ray Train starts
beside the workers, each of which imports it (1.5 s of CPU), four are left out: they serve Ray Data, an autoscaler that
sees the workers' placement group anyway, controllers that a job outlives, and the warning of a preemption. Without them
a run on two cores begins to train a third earlier, and does not wait 10 s at its end (ray 2.60).
"""

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# Read by Ray Train's controller.
SWITCHES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the end of a run waits for its next poll
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that warns of what a checkpoint an epoch survives anyway
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # all paths are absolute
}


class Trainer(DataParallelTrainer):
    """Leaves Ctrl-C to the program, and can be ended from another thread."""

    def abort(self) -> None:
        """End the run at once; `fit` raises RayActorError."""
        ray.kill(self._controller)

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if isinstance(policy := arguments["scaling_policy"], FixedScalingPolicy):
            arguments["scaling_policy"] = _Fixed(policy.scaling_config)
        return super()._initialize_and_run_controller(**arguments)


class _Fixed(FixedScalingPolicy):
    """Asks for its workers' room by their placement group alone; Ray's own asks a process for it as well."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ray Train's hook."""

    def _maybe_send_resource_request(self) -> None:
        pass


class TensorFlowBackendConfig(BackendConfig):
    """Tells each worker of the others through TF_CONFIG; what ray.train.tensorflow does, without its import."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray Train asks a configuration for its backend."""
        return _TensorFlowBackend


class _TensorFlowBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        """Ray Train's hook between the start of the workers and that of their loops."""
        # A free port may be taken before TensorFlow binds it (ray issue 34271): a failure that is retried.
        addresses = worker_group.execute(_free_address)
        ray.get(
            [worker_group.execute_single_async(rank, _set_tf_config, addresses, rank) for rank in range(len(addresses))]
        )


def _free_address() -> str:
    host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _set_tf_config(addresses: list[str], rank: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
