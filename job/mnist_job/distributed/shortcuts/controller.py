"""Ray Train's controller in the driver's process, and fewer helper processes.

Ray Train starts its controller in a process of its own. Here it runs in the driver's process: the workers start 1.4 s
earlier, and the driver decides what to do about a failure, at once.

Three helper processes are not started; each would import Ray Train (1.5 s of CPU). They serve Ray Data, request nodes
from an autoscaler (which sees the workers' placement group without that), and clean up after a controller that dies
before its job. A fourth, which warns of preemptions, is started on a joined cluster only (`trainer.py`).
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import ray
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from mnist_job.distributed import cluster
from mnist_job.distributed.failures import lost, refusal
from mnist_job.distributed.fitting import OnLoss
from mnist_job.errors import JobError

_SIGNATURES: dict[Callable[..., Any], list[str]] = {
    DataParallelTrainer._create_default_callbacks: ["self"],
    DataParallelTrainer._initialize_and_run_controller: ["self", "controller_init_kwargs"],
    WorkerGroup._init_train_context_on_workers: ["self", "workers", "sync_actor", "train_context_args"],
    DefaultFailurePolicy.make_decision: ["self", "training_failed_error"],
    FixedScalingPolicy.after_controller_start: ["self", "train_run_context"],
    FixedScalingPolicy._maybe_send_resource_request: ["self"],
}
"""The functions that are replaced below, with their parameters."""
_CALLS: dict[Callable[..., Any], set[str]] = {
    TrainController.__init__: {"scaling_policy", "failure_policy"},
    TrainController.run: set(),
    TrainController.get_result: set(),
    DefaultFailurePolicy.__init__: {"failure_config"},
    FixedScalingPolicy.__init__: {"scaling_config"},
    RayTrainWorker.init_train_context: {
        *("train_run_context", "distributed_context", "synchronization_actor", "storage_context"),
        *("worker_callbacks", "controller_actor"),
    },
}
"""The functions that are called below, with parameters that they must have."""


def fits() -> bool:
    """Return whether the installed Ray has the functions that are replaced and called here, with these parameters."""
    return (
        hasattr(TrainController, "worker_group_cls")
        and all(list(inspect.signature(one).parameters) == names for one, names in _SIGNATURES.items())
        and all(names <= inspect.signature(one).parameters.keys() for one, names in _CALLS.items())
    )


class Trainer(DataParallelTrainer):
    """A trainer that runs Ray Train's controller in this process.

    `fit` raises ClusterError if workers are lost because the head is. A JobError of a worker ends the run without a
    retry, even if `failure_config` allows one: `fit` raises a failure in which `refusal` finds it.
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
        if failures := lost(training_failed_error):
            try:
                cluster.check_head_answers()
            except JobError as error:
                raise _Ended(error) from training_failed_error
            self._on_loss(failures, decision is FailureDecision.RETRY)
        return decision


class _Ended(BaseException):
    """Carries a JobError through Ray Train, which must not catch it: it would shut the workers down, through a head
    that may not answer.
    """

    def __init__(self, error: JobError) -> None:
        super().__init__()
        self.error = error


class _Fixed(FixedScalingPolicy):
    """A scaling policy that requests nodes only by the workers' placement group, without Ray Train's process for it."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Do nothing; Ray Train would start the process here."""

    def _maybe_send_resource_request(self) -> None:
        pass
