"""Changes to Ray Train: a light driver, a controller in the driver's process, and fewer helper processes.

The driver does not import TensorFlow, which is the slowest step of a worker's start. Ray's own TensorflowTrainer would
import it in the driver, too, before the workers may start.

Ray Train starts its controller in a process of its own. Here it runs in the driver's process: the workers start 1.4 s
earlier, and this module can decide what to do about a failure.

Four helper processes are not started; each would import Ray Train (1.5 s of CPU). They serve Ray Data, request nodes
from an autoscaler (which sees the workers' placement group without that), clean up after a controller that dies before
its job, and warn of preemptions. (Measured with Ray 2.60 on two cores.)
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

# Environment variables that Ray Train's controller reads.
SWITCHES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the end of a run, Ray Train waits for its next poll
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # not needed: there is a checkpoint after each epoch
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # all paths are absolute
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # it would change the logging of this process
}


OnLoss = Callable[[WorkerGroupError, bool], None]


class Trainer(DataParallelTrainer):
    """A trainer that runs Ray Train's controller in this process.

    `on_loss` is called when workers are lost, with the failure and whether all workers will restart. If it raises a
    JobError, `fit` raises the same. A JobError of a worker ends the run without a retry, even if `failure_config`
    allows one: `fit` raises a failure in which `refusal` finds it.
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
        """Do what Ray Train does, but without a handle of the controller, which is not an actor here."""
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
        """Decide whether the run is retried; Ray Train calls this after a failure."""
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
    """Carries a JobError through Ray Train, which must not catch it: it would shut the workers down, through a head
    that may not answer.
    """

    def __init__(self, error: JobError) -> None:
        super().__init__()
        self.error = error


def refusal(failure: Exception) -> JobError | None:
    """Return the JobError that a worker has raised, or None. A retry does not help against it."""
    errors = failure.worker_failures.values() if isinstance(failure, WorkerGroupError) else ()
    return next((error for error in errors if isinstance(error, JobError)), None)


class _Fixed(FixedScalingPolicy):
    """A scaling policy that requests nodes only by the workers' placement group, without Ray Train's process for it."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Do nothing; Ray Train would start the process here."""

    def _maybe_send_resource_request(self) -> None:
        pass


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
