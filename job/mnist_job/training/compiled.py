"""A compiled Keras model as the loop needs it: built, with its optimizer, loss and metrics, the same on all workers.

The loop does what `fit` does, by the same public methods of Keras: `compute_loss` with the compiled loss and everything
in `losses`, `compute_metrics`, and the compiled optimizer. A model whose class replaces one of these is refused.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_job.data.arrays import Split
from mnist_job.errors import UsageError, one_line
from mnist_job.models import saved_model
from mnist_job.training import private
from mnist_job.training.batches import Tensor

# Losses of Keras that compare a probability for each class with one-hot labels. All others get labels as they are.
ONE_HOT = frozenset(
    {
        *("categorical_crossentropy", "categorical_focal_crossentropy", "categorical_hinge", "kl_divergence"),
        "cosine_similarity",
    }
)
REPLACED = ("train_step", "test_step", "compute_loss", "compute_metrics")
MEANS = ("sum_over_batch_size", "mean")
Rate = Any  # a number, or a schedule of Keras, which has no types


class Compiled:
    """A model with all that `compile` and `build` give it.

    A model that was not compiled has no metric of Keras: the loop counts its hits, in fewer operations.

    Attributes:
        network: the model.
        was_compiled: whether its author compiled it.
        class_names: the names of the classes, which are saved with the model, or None if they are numbers.
        seeds: the states of its random layers.

    """

    def __init__(
        self,
        network: keras.Model,
        rate: Rate,
        examples: Split,
        *,
        synchronized: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Compile the model, if its author did not, with Adam at `rate` and cross-entropy. Build all its parts.

        `examples` are a few samples of the data. If `synchronized`, BatchNormalization uses the statistics of the
        global batch. (With one worker it does so anyway, in arithmetic that rounds differently.)

        Raises UsageError if the loop cannot do what `fit` would do.
        """
        _check(network)
        self.network = network
        self.class_names = class_names
        self.was_compiled = bool(network.compiled)
        if not (self.was_compiled or examples.has_classes):
            raise UsageError("it is not compiled, and the targets of the data are no class numbers; give it a loss")
        if not self.was_compiled:
            network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        given = network(examples.inputs, training=False)
        answers = only(given)
        self._check_outputs(answers)
        self._one_hot = self._width(examples, answers)
        targets = self.targets(examples.targets)
        if network.loss is not None:
            _check_loss(network.loss, targets, answers)
        network.compute_loss(examples.inputs, targets, given, examples.weights)
        network.compute_metrics(examples.inputs, targets, given, examples.weights)
        network.reset_metrics()
        self.seeds = [variable for variable in network.variables if variable.name == "seed_generator_state"]
        self._norms = [
            (layer, layer.synchronized)
            for layer in private.layers(network)
            if synchronized and isinstance(layer, keras.layers.BatchNormalization)
        ]
        for layer in self.synchronized:
            layer.synchronized = True

    def _check_outputs(self, answers: Tensor) -> None:
        sums = np.sum(np.asarray(answers, np.float32), axis=-1)
        if not self.was_compiled and not np.allclose(sums, 1, atol=saved_model.tolerance(answers.dtype.size)):
            raise UsageError(
                "it is not compiled, and its outputs are no probabilities: end it with a softmax, or compile it with "
                "SparseCategoricalCrossentropy(from_logits=True)"
            )

    def _width(self, examples: Split, answers: Tensor) -> int | None:
        """Return the length of one-hot rows, if the loss gets such rows instead of class numbers."""
        loss = saved_model.loss_name(self.network.loss)
        if loss in ONE_HOT and examples.has_classes:
            return int(answers.shape[-1])
        return examples.one_hot if examples.one_hot and "sparse" not in loss else None

    @property
    def optimizer(self) -> keras.Optimizer:
        """The compiled optimizer."""
        return self.network.optimizer

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that the optimizer updates."""
        return list(self.network.trainable_variables)

    @property
    def measured(self) -> list[str]:
        """The names of what the loop measures in each epoch: the loss, the accuracy, and other metrics."""
        names = dict.fromkeys(("loss", *self.network.get_metrics_result()))
        return [*names] if self.was_compiled else [*names, "accuracy"]

    @property
    def synchronized(self) -> list[keras.Layer]:
        """The layers that this class lets use the statistics of the global batch."""
        return [layer for layer, _ in self._norms]

    def targets(self, labels: Tensor) -> Tensor:
        """Return targets as the loss takes them: as they are or, if they are class numbers, perhaps one-hot."""
        return labels if self._one_hot is None else tf.one_hot(labels, self._one_hot)

    def reseed(self, *numbers: int) -> None:
        """Set the state of all random layers. It depends only on these numbers and the place of the layer in the model.

        A layer's noise then is a function of the seed, the epoch and the worker. So a resumed run has the same noise,
        and the workers have different noise.
        """
        for index, variable in enumerate(self.seeds):
            (state,) = np.random.SeedSequence((*numbers, index)).generate_state(1)
            variable.assign(np.array([state >> 1, 0]))

    @contextmanager
    def as_given(self) -> Iterator[keras.Model]:
        """Yield the model as its author made it, to save or to load it: without what this class has added."""
        compiled, optimizer = self.network.compiled, self.network.optimizer
        for layer, synchronized in self._norms:
            layer.synchronized = synchronized
        if not self.was_compiled:
            self.network.compiled, self.network.optimizer = False, None
        try:
            yield self.network
        finally:
            self.network.compiled, self.network.optimizer = compiled, optimizer
            for layer in self.synchronized:
                layer.synchronized = True


def only(answers: Any) -> Tensor:
    """Return the only output of a model. Raises UsageError if there are several, or if it has a name."""
    if isinstance(answers, dict):
        raise UsageError(f"it returns a dict of outputs ({_named(answers)}); return one tensor")
    outputs = keras.tree.flatten(answers)
    if len(outputs) != 1:
        raise UsageError(f"it has {len(outputs)} outputs; a model that is trained here has one")
    return outputs[0]


def _named(names: Iterable[object]) -> str:
    return one_line(", ".join(map(str, names)), 80)


def _check(network: keras.Model) -> None:
    for name in REPLACED:
        if getattr(type(network), name) is not getattr(keras.Model, name):
            raise UsageError(
                f"{type(network).__name__} has its own {name}(), which only `fit` calls; use add_loss(), or give loss "
                "and metrics to compile()"
            )
    # A subclass has no inputs here, and no names of outputs.
    inputs = [tensor.name for tensor in getattr(network, "inputs", None) or ()]
    for kind, names in (("inputs", inputs), ("outputs", getattr(network, "output_names", None) or ())):
        if len(names) > 1:
            raise UsageError(f"it has {len(names)} {kind} ({_named(names)}); a model that is trained here has one")
    if network.compiled and isinstance(network.loss, dict | list | tuple):
        kind = "dict" if isinstance(network.loss, dict) else "list"
        raise UsageError(f"its loss is a {kind}; a model that is trained here has one output, and compile() one loss")
    if network.compiled and saved_model.loss_name(network.loss) == "circle":
        raise UsageError("the loss compares the samples of a batch: it would depend on the number of workers")
    reduction = getattr(network.loss, "reduction", MEANS[0]) if network.compiled else MEANS[0]
    if reduction not in MEANS:
        raise UsageError(
            f"the loss has reduction={reduction!r}: it would depend on the number of workers; leave it out"
        )


def _check_loss(loss: Any, targets: Tensor, answers: Tensor) -> None:
    """Check that the loss has a value for each sample, when it is called as Keras calls it."""
    found = keras.losses.get(loss)
    targets, answers = (tf.cast(values, keras.config.floatx()) for values in (targets, answers))
    if not isinstance(found, keras.Loss) and answers.shape[-1] == 1 and targets.shape.rank < answers.shape.rank:
        targets = tf.expand_dims(targets, -1)
    values = found.call(targets, answers) if isinstance(found, keras.Loss) else found(targets, answers)
    if values.shape.rank == 0:
        raise UsageError(
            f"the loss {saved_model.loss_name(loss)} is one number for all samples of a batch, so it would depend on "
            "the number of workers; let it return a number for each sample, without a mean over the batch"
        )


def added_up(strategy: tf.distribute.Strategy, values: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of each value over all workers, by one message. Call it in a compiled function."""
    flat = tf.concat([tf.reshape(tf.cast(value, tf.float64), [-1]) for value in values], axis=0)

    def everywhere(mine: Tensor) -> Tensor:
        here = tf.identity(mine)  # gives it a device, which all_reduce needs
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

    sums = tf.split(strategy.run(everywhere, args=(flat,)), [value.shape.num_elements() for value in values])
    return [tf.cast(tf.reshape(one, value.shape), value.dtype) for one, value in zip(sums, values, strict=True)]
