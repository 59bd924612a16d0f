"""The end of a run whose loss is no longer a finite number, and the step at which that began."""

import tensorflow as tf

from mnist_job.errors import TrainingError
from mnist_job.training.batches import Tensor


def least(strategy: tf.distribute.Strategy, steps: Tensor) -> Tensor:
    """Return the least of all workers' numbers of steps (float64). Call it in a compiled function.

    Each worker sees only the loss of its own part of a batch. So the loss of one may be finite for a step longer.
    """
    workers = strategy.num_replicas_in_sync

    def everywhere(mine: Tensor) -> Tensor:
        replica = tf.distribute.get_replica_context()
        place = tf.one_hot(replica.replica_id_in_sync_group, workers, dtype=mine.dtype)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine * place)

    return tf.reduce_min(strategy.run(everywhere, args=(steps,)))


def stop(where: str, loss: str) -> TrainingError:
    """Return the error that ends the run. `where` is an epoch, and the step if it is known."""
    return TrainingError(
        f"{where}: the {loss} loss is not finite; lower the learning rate, or continue by --on-nan ignore"
    )
