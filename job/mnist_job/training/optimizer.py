"""Adam of data-parallel workers. Nearly all of a small model's step is what this module does: see ops/benchmark."""

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from mnist_job.training.batches import Tensor

FEW_BYTES = 1 << 19  # of gradients; on loopback one message is faster than two up to some 0.7 MB
# Keys beyond those of MultiWorkerMirroredStrategy's own collectives. All workers trace the same functions in the same
# order, so they take the same.
GROUP = 1 << 30
INSTANCES = itertools.count(GROUP)


class Adam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Keras's Adam, from the replicas of a strategy: one message a worker, one pass over the memory a variable."""

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Sum dense gradients over the workers, and update the variables that the optimizer was built with.

        By TensorFlow's kernel, which does what Keras writes as some ten operations, each over all of the memory.
        """
        step = tf.cast(self.iterations + 1, tf.float32)
        powers = {"beta1_power": self.beta_1**step, "beta2_power": self.beta_2**step}
        variables = trainable_variables or self._trainable_variables
        for variable, m, v, gradient in zip(variables, self._momentums, self._velocities, summed(grads), strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=m.value.handle,
                v=v.value.handle,
                **powers,
                lr=self.learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )
        self.iterations.assign_add(1)


def summed(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The sum over all workers of float32 tensors of known shapes, the same to the last bit on each.

    A ring all-reduce between two workers is two messages of half the gradients, one after the other. To exchange the
    gradients whole is one, of as many bytes in all; from three workers on it would be more bytes.
    """
    replica = tf.distribute.get_replica_context()
    workers = replica.num_replicas_in_sync
    if workers == 1:
        return list(gradients)
    sizes = [gradient.shape.num_elements() for gradient in gradients]
    if workers > 2 or sum(sizes) * tf.float32.size > FEW_BYTES or tf.config.list_logical_devices("GPU"):
        return list(replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))
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
    parts = tf.split(first + second, sizes)
    return [tf.reshape(part, gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
