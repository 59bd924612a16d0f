"""Run a function on all workers by Ray Train: by its public interface, or faster if the installed Ray allows it."""

import threading
from collections.abc import Callable
from typing import Any

from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import RunConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from mnist_job.distributed.failures import refused

OnLoss = Callable[[dict[int, Exception], bool], None]
"""Is called when workers are lost: with their failures by rank, and with whether all workers will restart."""


def fit(worker: Callable[..., None], on_loss: OnLoss, run_config: RunConfig, **arguments: Any) -> None:
    """Run `worker` on all workers, as Ray Train's DataParallelTrainer does with these arguments. Raises what that does.

    `on_loss` may be called in another process. (It is not called for a node that Ray calls preempted.)
    """
    arguments["run_config"] = run_config
    if (quick := quick_trainer()) is not None:
        quick(worker, on_loss, **arguments).fit()
    else:
        assert run_config.failure_config is not None
        run_config.callbacks = [_Watch(on_loss, run_config.failure_config.max_failures)]
        _in_a_thread(DataParallelTrainer(worker, **arguments).fit)


def quick_trainer() -> Callable[..., DataParallelTrainer] | None:
    """Return a trainer that starts fewer processes, or None if the installed Ray has other internals."""
    try:
        from mnist_job.distributed.shortcuts import controller
    except (ImportError, AttributeError):
        return None
    return controller.Trainer if controller.fits() else None


class _Watch(UserCallback):
    """Ray Train calls this in its controller. It also retries a refusal, which does not help and is not reported."""

    def __init__(self, on_loss: OnLoss, max_failures: int) -> None:
        self._on_loss, self._left = on_loss, max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Report lost workers to `on_loss`."""
        self._left -= 1
        if refused(worker_exceptions) is None:
            self._on_loss(worker_exceptions, self._left >= 0)


def _in_a_thread(fit: Callable[[], Any]) -> None:
    """Call it in a thread: in the main thread, Ray Train would handle SIGINT instead of this program."""
    raised: list[BaseException] = []

    def called() -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 the caller gets it
            raised.append(error)

    thread = threading.Thread(target=called, name="fit", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
