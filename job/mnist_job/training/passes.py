"""A pass over the training images or the validation images, by compiled functions that take many steps at a call.

Keras 3's `fit` does not work under MultiWorkerMirroredStrategy, and the one of Keras 2 exchanges messages for each
metric at each step. Here, the workers exchange the gradients once a step, and the sums of all metrics once a pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from mnist_job.training import optimizer, states
from mnist_job.training.batches import Batches, Plan, Tensor
from mnist_job.training.compiled import Compiled, added_up, only
from mnist_job.training.optimizer import Update

Metrics = dict[str, Tensor]
Function = Any  # TensorFlow ships no types
Values = npt.NDArray[Any]


Combine = Callable[[Any, Values, Values], Values]
"""A function of a variable, its values (workers x ...) and the images that each worker has trained on since all had the
same states. It returns a value for the variable.
"""


class Pass:
    """A pass in progress: `begin`, then `advance` over all steps, then `end`.

    Attributes:
        sums: a variable with three sums over the images of this worker: the loss, the images and, for a model that was
            not compiled, the hits. Another thread can read it in the middle of a call.
        functions: the compiled functions: that of some steps, and that of the end.
        finite: a variable with the number of steps (float64) before the first whose loss is not finite.

    """

    def __init__(self, strategy: tf.distribute.Strategy, model: Compiled, batches: Batches) -> None:
        """Compile the functions of the pass."""
        self._strategy, self._model, self._batches = strategy, model, batches
        self._share = batches.share
        self.sums = tf.Variable(tf.zeros(3, tf.float64))
        self.finite = tf.Variable(tf.zeros((), tf.float64))
        number = tf.TensorSpec((), tf.int32)
        signature = [batches.plan_signature, number, number]
        self.functions: tuple[Function, Function] = (tf.function(self._steps, signature), tf.function(self._total, []))
        for function in self.functions:
            function.get_concrete_function()  # traced here, once

    def begin(self) -> None:
        """Forget what was measured."""
        self._model.network.reset_metrics()
        self.sums.assign(tf.zeros(3, tf.float64))
        self.finite.assign(0.0)

    def advance(self, plan: Plan, first: int, last: int) -> None:
        """Take the steps from `first` up to, and without, `last` of a plan."""
        self.functions[0](plan, tf.constant(first), tf.constant(last))

    def whole(self, epoch: int) -> tuple[dict[str, float], int]:
        """Take all steps of an epoch, from `begin` to `end`."""
        self.begin()
        for piece in self._batches.pieces(epoch):
            self.advance(piece.plan, 0, piece.last - piece.first)
        return self.end()

    def end(self) -> tuple[dict[str, float], int]:
        """Return the metrics over all workers. `loss` is the mean over all images.

        Return also the number of steps before the first whose loss is not finite on any worker. A pass runs to its end
        even so: a worker that left it would leave the others waiting.
        """
        metrics, finite = self.functions[1]()
        return {name: float(value) for name, value in metrics.items()}, int(finite)

    def _steps(self, plan: Plan, first: Tensor, last: Tensor) -> None:
        sums, finite = self.sums.read_value(), self.finite.read_value()
        for i in tf.range(first, last):
            sums += self._step(plan, i)
            finite += tf.cast(tf.math.is_finite(sums[0]), tf.float64)
            self.sums.assign(sums)
        self.finite.assign(finite)

    def _step(self, plan: Plan, i: Tensor) -> Tensor:
        raise NotImplementedError

    def _total(self) -> tuple[Metrics, Tensor]:
        """Add up what the workers have measured. The variables of a Keras metric are sums over the images."""
        network, variables = self._model.network, self._model.network.metrics_variables
        mine = [self.sums, self._row(self.finite), *(variable.value for variable in variables)]
        sums, finite, *totals = added_up(self._strategy, mine)
        for variable, total in zip(variables, totals, strict=True):
            variable.assign(total)
        loss, images, hits = tf.unstack(sums)
        found: Metrics = network.get_metrics_result() | {"loss": loss / images}
        if not self._model.was_compiled:
            found |= {"accuracy": hits / images}
        return found, tf.reduce_min(finite)

    def _row(self, values: Tensor) -> Tensor:
        """Return workers x ... zeros with these values in the row of this worker. The sum over all workers has all."""
        rows = [values if rank == self._share.rank else tf.zeros_like(values) for rank in range(self._share.workers)]
        return tf.stack(rows)

    def _totals(self, loss: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
        """Return the sums over these images."""
        number = tf.cast(tf.shape(labels)[0], tf.float64)
        hits = tf.constant(0.0, tf.float64)
        if not self._model.was_compiled:
            hits = tf.cast(tf.math.count_nonzero(tf.equal(tf.argmax(only(answers), 1, tf.int32), labels)), tf.float64)
        # The mean loss of no images is not a number.
        return tf.stack([tf.where(number > 0, tf.cast(loss, tf.float64) * number, 0.0), number, hits])


class Training(Pass):
    """An epoch of training. It measures each batch before its update, as `fit` does."""

    def __init__(self, strategy: tf.distribute.Strategy, model: Compiled, update: Update, batches: Batches) -> None:
        """Compile the functions of the epoch."""
        self._update, self._workers = update, strategy.num_replicas_in_sync
        self._of_part = states.of_the_part(model.network, model.synchronized) if batches.has_empty_parts else []
        self._states = states.of(model.network)
        self._agreed = tf.Variable(tf.zeros((), tf.float64))  # of the images in `sums`: those before all had the same
        super().__init__(strategy, model, batches)
        self._gather: Function = tf.function(self._of_all_workers, [])

    def begin(self) -> None:
        """Forget what was measured."""
        super().begin()
        self._agreed.assign(0.0)

    def values(self) -> list[Values]:
        """Return what differs between the workers within an epoch, each as workers x ...: all workers must call it.

        These are the sums, how many of their images came before the last time that all workers had the same states, the
        variables of metrics, the number of finite steps, the states of layers, and how often random layers were used.
        """
        return [one.numpy().astype(np.float64) for one in self._gather()]

    def restore(self, values: Sequence[Values]) -> None:
        """Continue an epoch with the `values` of its workers. Call `begin` and `Compiled.reseed` before.

        If there are as many workers now, each one takes its own values. If not, the first one takes the sums, which are
        added up at the end of the epoch, and all take the mean of the states. Then random layers have other noise.
        """
        sums, agreed = values[:2]
        same = len(sums) == self._share.workers
        for (variable, combined), rows in zip(self._own, values, strict=True):
            value = rows[self._share.rank] if same else combined(variable, rows, sums[:, 1] - agreed)
            variable.assign(value.astype(np.asarray(variable).dtype))
        if not same:
            self._agreed.assign(self.sums[1])

    @property
    def _own(self) -> list[tuple[Any, Combine]]:
        """What differs between the workers, each with what combines it for another number of workers."""
        added = [self.sums, self._agreed, *self._model.network.metrics_variables]
        return [
            *((one, self._on_the_first) for one in added),
            (self.finite, lambda _, rows, __: rows.min(axis=0)),
            *((one, _mean) for one in self._states),
            # The seed of a random layer depends on the worker, and how often it was used does not.
            *((one, lambda seed, rows, _: np.array([np.asarray(seed)[0], rows[0][1]])) for one in self._model.seeds),
        ]

    def _on_the_first(self, _: Any, rows: Values, __: Values) -> Values:
        return rows.sum(axis=0) if self._share.rank == 0 else np.zeros_like(rows[0])

    def _of_all_workers(self) -> list[Tensor]:
        return added_up(self._strategy, [self._row(tf.convert_to_tensor(one)) for one, _ in self._own])

    def _step(self, plan: Plan, i: Tensor) -> Tensor:
        # The update is outside `strategy.run`, where Keras sums nothing over the workers: the gradients are sums.
        gradients, found = self._strategy.run(self._gradients, args=self._batches.batch(plan, i))
        self._update(gradients)
        return found

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _gradients(
        self, inputs: Tensor, labels: Tensor, weights: Tensor | None, share: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        model, network = self._model, self._model.network
        targets = model.targets(labels)
        before = [tf.identity(state.value) for state in self._of_part]
        with tf.GradientTape() as tape:
            answers = network(inputs, training=True)
            loss = mine = network.compute_loss(inputs, targets, answers, weights)
            if self._workers > 1:
                loss *= self._workers  # Keras divides it by them, as if all parts of a batch had the same size
                mine = loss * tf.cast(share, loss.dtype)  # summed over the workers: the mean over the global batch
            scaled = model.optimizer.scale_loss(mine)
        gradients = tape.gradient(scaled, [variable.value for variable in model.variables])
        network.compute_metrics(inputs, targets, answers, weights)
        if self._batches.has_empty_parts:
            states.undo(self._of_part, before, share)
            gradients = states.gradients(gradients, share)
        return optimizer.summed(gradients, model.variables), self._totals(loss, labels, answers)

    def _total(self) -> tuple[Metrics, Tensor]:
        if self._workers > 1:
            states.agree(self._strategy, self._states, images=self.sums[1] - self._agreed)
        return super()._total()


class Validation(Pass):
    """A pass over the validation images."""

    def _step(self, plan: Plan, i: Tensor) -> Tensor:
        inputs, labels, weights, _ = self._batches.batch(plan, i)
        return self._measured(inputs, labels, weights)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _measured(self, inputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        network, targets = self._model.network, self._model.targets(labels)
        answers = network(inputs, training=False)
        network.compute_metrics(inputs, targets, answers, weights)
        loss = network.compute_loss(inputs, targets, answers, weights, training=False)
        return self._totals(loss, labels, answers)


def _mean(state: Any, rows: Values, images: Values) -> Values:
    """Return the mean over the workers by their images or, for what has none, like a counter, the first worker's."""
    if not keras.backend.is_float_dtype(state.dtype):
        first: Values = rows[0]
        return first
    return np.average(rows, axis=0, weights=images if images.any() else None)
