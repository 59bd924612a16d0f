"""The user's Keras callbacks, called by the loop as `fit` calls them: on every worker, with the same logs.

Hooks within an epoch are not called, because an epoch is one compiled function. A callback that needs them is refused.
The first worker decides what could differ: whether a callback has stopped training, and the learning rate.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import keras

from mnist_job.errors import TrainingError, UsageError
from mnist_job.training import callback_state
from mnist_job.training.compiled import Compiled
from mnist_job.training.progress import Epoch
from mnist_job.usercode.files import told
from mnist_job.usercode.function import Function

Agree = Callable[[Any], Any]
"""Returns the first worker's value on every worker. All workers call it together."""

INSTEAD = {
    "EarlyStopping": "use --patience, and --keep best for the model of the best epoch",
    "ModelCheckpoint": "the job saves a checkpoint after each epoch, and --keep best keeps the best one",
    "BackupAndRestore": "the job saves a checkpoint after each epoch, and the same command resumes",
    "TensorBoard": "the job writes TensorBoard's files into the run's folder",
    "CSVLogger": "the job writes history.csv into the run's folder",
    "RemoteMonitor": "use --pushgateway-url, or Ray's metrics while it trains",
}
"""What the job does instead of those callbacks of Keras that save, report, or end training."""

_WITHIN = [f"on_{part}batch_{when}" for part in ("", "train_", "test_", "predict_") for when in ("begin", "end")]
NOT_CALLED = (*_WITHIN, *(f"on_{part}_{when}" for part in ("test", "predict") for when in ("begin", "end")))
_SET_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


class Callbacks:
    """The callbacks that the user's function returns, with the model that they may change."""

    def __init__(self, function: Function | None, model: Compiled, agree: Agree, *, epochs: int, steps: int) -> None:
        """Call the function and give its callbacks the model, whose optimizer is built. An epoch has `steps` batches.

        Without a function, there are no callbacks.

        Raises UsageError, in one line, if the function fails or returns a callback that cannot work here.
        """
        returned = function.call(UsageError, {}) if function is not None else []
        if function is not None and not isinstance(returned, list | tuple):
            raise UsageError(f"{function}: {function.name}() returned {type(returned).__name__}, no list of callbacks")
        self._function, self._model, self._agree, self._steps = function, model, agree, steps
        self._callbacks: list[keras.callbacks.Callback] = list(returned)
        self._stopped_by: str | None = None
        self._optimizer, self._variables = model.optimizer, len(model.optimizer.variables)
        self._has_schedule = _has_schedule(model.optimizer)
        for callback in self._callbacks:
            if (reason := self._refusal(callback)) is not None:
                raise UsageError(f"{function}: {type(callback).__name__}: {reason}")
            callback.set_model(model.network)
            callback.set_params({"epochs": epochs, "steps": steps, "verbose": 0})
        model.network.stop_training = False

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._callbacks)

    def state(self) -> bytes:
        """Return the state of all callbacks. Raises TrainingError, in one line, if one cannot be saved."""
        try:
            return callback_state.saved(self._callbacks, self._model, self._stopped_by)
        except callback_state.Unsaved as error:
            raise TrainingError(f"{self._function}: {error}") from error

    def restore(self, state: bytes) -> None:
        """Give the callbacks the state that they had when it was saved. Raises TrainingError if one cannot get it."""
        try:
            self._stopped_by = callback_state.restore(state, self._callbacks, self._model)
        except callback_state.Unsaved as error:
            raise TrainingError(f"{self._function}: {error}") from error
        self._model.network.stop_training = self._stopped_by is not None

    def train_begin(self) -> None:
        """Call `on_train_begin`, as after each start of the workers. Restore a checkpoint after it, not before.

        Raises TrainingError, also if the callbacks have a state then that cannot be saved.
        """
        for callback in self._callbacks:
            self._call(callback, "on_train_begin", {})
        self.state()

    def epoch_begin(self, epoch: int) -> None:
        """Call `on_epoch_begin` with the number of the epoch, from 0. Raises TrainingError."""
        for callback in self._callbacks:
            self._call(callback, "on_epoch_begin", epoch, {})
        if self._callbacks:
            self._agree_on_the_rate()

    def epoch_end(self, row: Epoch) -> Epoch:
        """Call `on_epoch_end` with the logs of an epoch. Return its row, with the callback that stopped training.

        Raises TrainingError.
        """
        logs = self._logs(row)
        for callback in self._callbacks:
            if isinstance(callback, keras.callbacks.TerminateOnNaN):  # the mean of the losses shows it, too
                self._call(callback, "on_batch_end", self._steps - 1, logs)
            self._call(callback, "on_epoch_end", row.epoch - 1, logs)
        if not self._callbacks:
            return row
        self._agree_on_the_rate()
        return replace(row, stopped_by=self._agree(self._stopped_by))

    def train_end(self, row: Epoch) -> None:
        """Call `on_train_end` with the logs of the last epoch. Raises TrainingError."""
        logs = self._logs(row)
        for callback in self._callbacks:
            self._call(callback, "on_train_end", logs)

    def _call(self, callback: keras.callbacks.Callback, hook: str, *arguments: Any) -> None:
        try:
            getattr(callback, hook)(*arguments)
        except (Exception, SystemExit) as error:
            hint = f"; {self._schedule()}" if self._has_schedule and isinstance(error, TypeError) else ""
            raise TrainingError(f"{self._function}: {type(callback).__name__}: {told(error)}{hint}") from error
        if self._model.network.stop_training and self._stopped_by is None:
            self._stopped_by = type(callback).__name__

    def _logs(self, row: Epoch) -> dict[str, float]:
        validated = {f"val_{name}": value for name, value in _as_fit_has_them(row, "validation").items()}
        return _as_fit_has_them(row, "train") | validated | {"learning_rate": self._rate()}

    def _rate(self) -> float:
        return float(self._model.optimizer.learning_rate.numpy())

    def _agree_on_the_rate(self) -> None:
        optimizer = self._model.optimizer
        if optimizer is not self._optimizer or len(optimizer.variables) != self._variables:
            raise TrainingError(
                f"{self._function}: a callback has replaced the optimizer, or its learning rate by a schedule, but the "
                "training is compiled with the former one; set model.optimizer.learning_rate to a number"
            )
        if not self._has_schedule:
            optimizer.learning_rate = self._agree(self._rate())

    def _refusal(self, callback: object) -> str | None:
        """Return why a callback cannot work here, or None."""
        if not isinstance(callback, keras.callbacks.Callback):
            return "is no keras.callbacks.Callback"
        for name, instead in INSTEAD.items():
            if isinstance(callback, getattr(keras.callbacks, name)):
                return f"leave it out: {instead}"
        if isinstance(callback, keras.callbacks.TerminateOnNaN):
            return None
        for hook in NOT_CALLED:
            replaced = getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)
            if replaced or hook in vars(callback):
                return f"has its own {hook}(), but an epoch is one compiled function; use on_epoch_end()"
        if isinstance(callback, _SET_THE_RATE) and self._has_schedule:
            return f"sets the learning rate, but {self._schedule()}"
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau):
            measured = [f"{part}{name}" for part in ("", "val_") for name in self._model.measured]
            if callback.monitor not in measured:
                return f"the model does not measure {callback.monitor}; it measures {', '.join(measured)}"
        return None

    def _schedule(self) -> str:
        how = "compile it with a number" if self._model.was_compiled else "give --learning-rate-schedule constant"
        return f"the optimizer has a schedule for it; {how}"


def _as_fit_has_them(row: Epoch, part: Literal["train", "validation"]) -> dict[str, float]:
    """Return what was measured, with NaN for what is not finite."""
    names = ["loss", *(row.train_metrics if part == "train" else row.validation_metrics)]
    return dict.fromkeys(names, math.nan) | row.measured(part)


def _has_schedule(optimizer: keras.Optimizer) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a loss scaling
    return not isinstance(inner.get_config().get("learning_rate"), float)
