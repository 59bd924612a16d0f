"""Adam for data-parallel workers. For a small model, this module takes most of a step's time: see ops/benchmark."""

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from mnist_job.training.batches import Tensor

FEW_BYTES = 1 << 19  # up to this size, gradients are sent in one message: on loopback faster up to about 0.7 MB
# Larger than the keys of MultiWorkerMirroredStrategy's own collectives. All workers trace the same functions in the
# same order, so they use the same keys.
GROUP = 1 << 30
INSTANCES = itertools.count(GROUP)


class Adam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Keras's Adam, faster under a strategy: one message from each worker, and one pass over each variable."""

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Sum dense gradients over the workers, and update the variables that the optimizer was built with.

        The update is one TensorFlow kernel for each variable. Keras uses about ten operations instead, and each of them
        reads and writes the whole variable.
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
    """Return the sum of each float32 tensor over all workers. Each worker gets exactly the same bits.

    A ring all-reduce between two workers sends two messages, one after the other, each with half of the gradients. Here
    each worker sends all its gradients in one message, which is the same number of bytes. With three or more workers it
    would be more bytes, so they use the all-reduce.
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
