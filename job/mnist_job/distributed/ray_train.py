"""What this job does otherwise than Ray Train: how TensorFlow learns of the other workers, and what is started.

The driver does not import TensorFlow, whose import is a worker's longest wait: Ray's own TensorflowTrainer would make
it pay for that before the workers may begin. The controller, which Ray Train starts as a process of its own, runs in
the driver's: the workers begin 1.4 s earlier, and what becomes of a failure is decided here. And of the processes that
Ray Train starts beside the workers, each of which imports it (1.5 s of CPU), four are left out: they serve Ray Data, an
autoscaler that sees the workers' placement group anyway, controllers that a job outlives, and the warning of a
preemption. (ray 2.60, two cores.)
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from mnist_job.errors import JobError

# Read by Ray Train's controller.
SWITCHES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the end of a run waits for its next poll
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that warns of what a checkpoint an epoch survives anyway
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # all paths are absolute
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # which would be this process's
}


OnLoss = Callable[[WorkerGroupError, bool], None]


class Trainer(DataParallelTrainer):
    """Runs Ray Train's controller in this process.

    `on_loss` is told of workers that were lost, and whether all will start again; `fit` raises a JobError that it
    raises. A JobError of a worker ends the run at once, whatever `failure_config` allows: `fit` raises it among the
    workers' failures, where `refusal` finds it.
    """

    def __init__(self, worker: Callable[..., None], on_loss: OnLoss, **arguments: Any):
        super().__init__(worker, **arguments)
        self._on_loss = on_loss

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if isinstance(policy := arguments["scaling_policy"], FixedScalingPolicy):
            arguments["scaling_policy"] = _Fixed(policy.scaling_config)
        arguments["failure_policy"] = _FailurePolicy(self.run_config.failure_config, self._on_loss)
        controller = _Controller(**arguments)
        try:
            asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        except _Ended as ended:
            raise ended.error from ended
        return controller.get_result()


class _WorkerGroup(WorkerGroup):
    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        """As Ray Train's own, but for the controller's handle: here that is no actor, and nothing asks it."""
        contexts = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[rank] for name, values in train_context_args.items()},
            )
            for rank, worker in enumerate(workers)
        ]
        ray.get(contexts)


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


class _FailurePolicy(DefaultFailurePolicy):
    def __init__(self, failure_config: Any, on_loss: OnLoss) -> None:
        super().__init__(failure_config)
        self._on_loss = on_loss

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Ray Train's hook."""
        if refusal(training_failed_error) is not None:
            return FailureDecision.RAISE
        decision = super().make_decision(training_failed_error)
        if isinstance(training_failed_error, WorkerGroupError):
            try:
                self._on_loss(training_failed_error, decision is FailureDecision.RETRY)
            except JobError as error:
                raise _Ended(error) from training_failed_error
        return decision


class _Ended(BaseException):
    """Passes by Ray Train, which would shut the workers down first: that takes a head that answers."""

    def __init__(self, error: JobError) -> None:
        super().__init__()
        self.error = error


def refusal(failure: Exception) -> JobError | None:
    """What a worker raised that no retry can mend."""
    errors = failure.worker_failures.values() if isinstance(failure, WorkerGroupError) else ()
    return next((error for error in errors if isinstance(error, JobError)), None)


class _Fixed(FixedScalingPolicy):
    """Asks for its workers' room by their placement group alone; Ray's own asks a process for it as well."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ray Train's hook."""

    def _maybe_send_resource_request(self) -> None:
        pass


class TensorFlowBackendConfig(BackendConfig):
    """Tells each worker of the others through TF_CONFIG; what ray.train.tensorflow does, without its import.

    `nodes` is the name of each worker's node, by rank, of those that started last.
    """

    def __init__(self) -> None:
        self.nodes: list[str] = []

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray Train asks a configuration for its backend."""
        return _TensorFlowBackend


class _TensorFlowBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Ray Train's hook between the start of the workers and that of their loops."""
        # A free port may be taken before TensorFlow binds it (ray issue 34271): a failure that is retried.
        places = worker_group.execute(_place)
        addresses = [address for address, _ in places]
        assert isinstance(backend_config, TensorFlowBackendConfig)
        backend_config.nodes = [node for _, node in places]
        ray.get(
            [worker_group.execute_single_async(rank, _set_tf_config, addresses, rank) for rank in range(len(addresses))]
        )


def _place() -> tuple[str, str]:
    """An address that TensorFlow can listen at, and the name of this node."""
    host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", socket.gethostname()


def _set_tf_config(addresses: list[str], rank: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
