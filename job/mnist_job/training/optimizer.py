"""The update of the model by any Keras optimizer. It is most of a small model's step: see ops/benchmark.

The workers first sum their gradients. Then each of them applies the optimizer to the sums, as in a training without
other workers. So clipping, weight decay, moving averages and loss scaling see the gradient of the global batch.
"""

import itertools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from mnist_job.training import private
from mnist_job.training.batches import Tensor

Update = Callable[[Sequence[Tensor]], None]
"""A function that updates the variables by their gradients."""

FEW_BYTES = 1 << 19  # up to this size, gradients are sent in one message: on loopback faster up to about 0.7 MB
# Larger than the keys of MultiWorkerMirroredStrategy's own collectives. All workers trace the same functions in the
# same order, so they use the same keys.
GROUP = 1 << 30
INSTANCES = itertools.count(GROUP)

_PLAIN = {  # arguments of Adam that the kernel does not know, with the values that do nothing
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "amsgrad": False,
}


def update(optimizer: keras.Optimizer, variables: Sequence[keras.Variable]) -> Update:
    """Build the optimizer for the variables, and return the function that updates them.

    A variable without a gradient (None) stays as it is.

    For plain Adam it is TensorFlow's kernel, one for each variable. Keras uses about ten operations instead, and each
    of them reads and writes the whole variable.
    """
    if not optimizer.built:  # that of a saved model is built; one with a loss scale would get its variables twice
        optimizer.build(variables)
    plain = all(variable.dtype == "float32" and variable.constraint is None for variable in variables)
    if plain and _is_plain_adam(optimizer) and (moments := private.moments(optimizer)) is not None:
        return lambda gradients: _adam(optimizer, variables, moments, gradients)
    return lambda gradients: optimizer.apply(gradients, variables)


def _is_plain_adam(optimizer: keras.Optimizer) -> bool:
    return type(optimizer) is keras.optimizers.Adam and all(
        getattr(optimizer, name, value) == value for name, value in _PLAIN.items()
    )


def _adam(
    optimizer: keras.optimizers.Adam,
    variables: Sequence[keras.Variable],
    moments: Sequence[tuple[keras.Variable, keras.Variable]],
    gradients: Sequence[Tensor],
) -> None:
    step = tf.cast(optimizer.iterations + 1, tf.float32)
    powers = {"beta1_power": optimizer.beta_1**step, "beta2_power": optimizer.beta_2**step}
    rate = optimizer.learning_rate  # once: a schedule is a dozen operations, as many as the rest of a variable's update
    for variable, (m, v), gradient in zip(variables, moments, gradients, strict=True):
        if gradient is not None:
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=m.value.handle,
                v=v.value.handle,
                **powers,
                lr=rate,
                beta1=optimizer.beta_1,
                beta2=optimizer.beta_2,
                epsilon=optimizer.epsilon,
                grad=gradient,
            )
    optimizer.iterations.assign_add(1)


def summed(gradients: Sequence[Tensor], variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Return the sum of each variable's gradient over all workers, as a dense tensor of the variable's shape.

    Each worker gets exactly the same bits. A gradient of None stays None: the variable has none on any worker. Call
    this in a replica context.

    A ring all-reduce between two workers sends two messages, one after the other, each with half of the gradients. Here
    each worker sends all its gradients in one message, which is the same number of bytes. With three or more workers it
    would be more bytes, so they use the all-reduce.
    """
    replica = tf.distribute.get_replica_context()
    # TensorFlow does not know the shape of every gradient: not that of a Dense layer on a sequence, for example.
    present = [
        tf.ensure_shape(tf.convert_to_tensor(gradient), variable.shape)
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    ]
    workers = replica.num_replicas_in_sync
    if workers > 1 and present:
        one_message = workers == 2 and all(gradient.dtype == tf.float32 for gradient in present)
        size = sum(gradient.shape.num_elements() for gradient in present) * tf.float32.size
        if one_message and size <= FEW_BYTES and not tf.config.list_logical_devices("GPU"):
            present = _in_one_message(present)
        else:
            present = list(replica.all_reduce(tf.distribute.ReduceOp.SUM, present))
    sums = iter(present)
    return [None if gradient is None else next(sums) for gradient in gradients]


def _in_one_message(gradients: Sequence[Tensor]) -> list[Tensor]:
    flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
    gathered = tf.raw_ops.CollectiveGatherV2(
        input=flat,
        group_size=2,
        group_key=GROUP,
        instance_key=next(INSTANCES),
        ordering_token=[],
        communication_hint="ring",
    )
    first, second = tf.split(gathered, 2)
    parts = tf.split(first + second, [gradient.shape.num_elements() for gradient in gradients])
    return [tf.reshape(part, gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
