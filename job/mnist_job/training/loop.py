"""The training loop. Ray Train starts it on every worker, with the addresses of all workers in TF_CONFIG.

Keras 3's `fit` does not work under MultiWorkerMirroredStrategy, and the one of Keras 2 exchanges messages for each
metric at each step. So this module has its own loop: one compiled function runs a whole epoch on data that is already
on the device. The workers exchange the gradients once a step, and the sums of three metrics twice an epoch.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

import keras
import ray.train.collective
import tensorflow as tf

from mnist_job.config.parts import LoopSettings
from mnist_job.data import dataset, verify
from mnist_job.errors import ClusterError
from mnist_job.models import reference
from mnist_job.phases import Clock
from mnist_job.training import tensorflow_private
from mnist_job.training.batches import Plan, ResidentBatches, Share, Tensor
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.optimizer import Adam
from mnist_job.training.progress import Epoch, Spent, Start, Tell
from mnist_job.training.reporter import Reporter

FIRST_WORKER_SECONDS = 30.0  # after this, TensorFlow waits for the first worker itself
VALIDATION_IMAGES_A_STEP = 1024  # for each worker: enough to keep a device busy, and few enough for any model


def train(config: LoopSettings, checked: dataset.Facts, checkpoints: Checkpoints, tell: Tell, clock: Clock) -> None:
    """Train to the last epoch, from the last intact checkpoint if there is one. Save a checkpoint after each epoch.

    Only the first worker reports and saves. `checked` describes the training data that the driver has checked.

    Raises DataError if this worker's data is different, ClusterError if a GPU is required and TensorFlow finds none,
    TrainingError if no checkpoint is intact, and OSError if a checkpoint cannot be read or written.
    """
    # First: after this worker has joined the others, they would wait for it if it failed.
    training = verify.load_training(config, checked)
    strategy = start_tensorflow(config)
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())

    batches = ResidentBatches(training.train, config.batch_size, share, config.seed)
    validation = ResidentBatches(training.validation, VALIDATION_IMAGES_A_STEP * share.workers, share)

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        network = reference.build(training.image_shape, training.classes, training.scale, config.hidden_layers)
        optimizer = Adam(learning_rate(config, batches.steps))
        optimizer.build(network.trainable_variables)
    del training  # free the memory: the data is on the device now

    history: list[Epoch] = []
    if (agreed := _agreed_checkpoint(checkpoints, tell, clock, share)) is not None:
        history = checkpoints.restore(*agreed, network, optimizer)
    clock.ended("setup")

    so_far = tf.Variable(tf.zeros(3, tf.float64))
    train_epoch = compiled_training(strategy, network, optimizer, batches, so_far)
    validate = compiled_validation(strategy, network, validation)
    clock.ended("tracing")
    reporter = Reporter(tell, so_far, batches, config.epochs, done=len(history))
    for epoch in range(len(history), config.epochs):
        started = time.perf_counter()
        rate = float(optimizer.learning_rate.numpy())
        with reporter.epoch(epoch + 1) if share.rank == 0 else nullcontext():
            train_loss, train_correct, trained = (float(x) for x in train_epoch(batches.plan(epoch)))
        clock.ended("training")
        validation_loss, correct, validated = (float(x) for x in validate(validation.plan(0)))
        clock.ended("validation")
        row = Epoch(
            epoch=epoch + 1,
            train_loss=train_loss / trained,
            train_accuracy=train_correct / trained,
            validation_loss=validation_loss / validated,
            validation_accuracy=correct / validated,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )
        history.append(row)
        if share.rank == 0:
            checkpoints.save(network, optimizer, history, share.workers)
            clock.ended("checkpoint")
            tell(Spent(clock.handed_over()))
            tell(row)


def start_tensorflow(config: LoopSettings) -> tf.distribute.Strategy:
    """Let TensorFlow use the CPUs or the GPU of this worker, and join the other workers.

    Raises ClusterError if a GPU is required and TensorFlow finds none.
    """
    tf.config.threading.set_intra_op_parallelism_threads(config.threads_per_worker)
    tf.config.threading.set_inter_op_parallelism_threads(config.threads_per_worker)
    if config.use_gpu and not tf.config.list_physical_devices("GPU"):
        raise ClusterError(
            "--use-gpu: TensorFlow sees no GPU in a worker that Ray gave one; the image or environment needs "
            "tensorflow[and-cuda] and the node its driver"
        )
    _await_first_worker()
    tensorflow_private.leave_silent_workers_to_ray(config.worker_timeout)
    # `timeout_seconds` is not set: it would start a thread for each collective that sleeps until the timeout (tsl's
    # SchedClosureAfter), and after about ten thousand steps no more threads could start. Ray Train's health check
    # finds silent workers instead.
    implementation = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=implementation.NCCL if config.use_gpu else implementation.RING
        )
    )


def _await_first_worker() -> None:
    """Wait until the first worker listens. TensorFlow would sleep for a second after its first look."""
    config = json.loads(os.environ["TF_CONFIG"])
    host, _, port = config["cluster"]["worker"][0].rpartition(":")
    started = time.monotonic()
    while config["task"]["index"] > 0 and time.monotonic() < started + FIRST_WORKER_SECONDS:
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return
        time.sleep(0.01)


def learning_rate(
    config: LoopSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate or, if it changes during training, its schedule: a function of the optimizer's step."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps_per_epoch)


def compiled_training(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    optimizer: Adam,
    batches: ResidentBatches,
    so_far: Tensor,
) -> Callable[[Plan], Tensor]:
    """Compile an epoch of training to one function of the epoch's plan.

    The function returns three float64 sums over all workers: the loss, the correctly classified images, and all images.
    Each batch is measured before its update. After each step, the variable `so_far` has this worker's part of the sums,
    so that another thread can read them.
    """

    def step(images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            probabilities = network(images, training=True)
            losses = _cross_entropy(labels, probabilities)
            loss = tf.reduce_sum(losses * weights)  # summed over the workers: the mean over the global batch
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)  # sums over the workers
        return _totals(losses, probabilities, labels, weights)

    # The loop is outside `strategy.run`: apply_gradients does not work in a nested graph of a replica.
    @tf.function(input_signature=[batches.plan_signature])  # type: ignore[untyped-decorator]
    def epoch(plan: Plan) -> Tensor:
        sums = tf.zeros(3, tf.float64)
        for i in tf.range(batches.steps):
            sums += strategy.run(step, args=batches.batch(plan, i))
            so_far.assign(sums)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    epoch.get_concrete_function()  # traced here, once
    return epoch  # type: ignore[no-any-return]


def compiled_validation(
    strategy: tf.distribute.Strategy, network: keras.Model, batches: ResidentBatches
) -> Callable[[Plan], Tensor]:
    """Compile a pass over the validation images to one function of its plan.

    The function returns three float64 sums over all workers: the loss, the correctly classified images, and all images.
    """

    def check(images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        probabilities = network(images, training=False)
        return _totals(_cross_entropy(labels, probabilities), probabilities, labels, weights)

    @tf.function(input_signature=[batches.plan_signature])  # type: ignore[untyped-decorator]
    def validate(plan: Plan) -> Tensor:
        checked = tf.zeros(3, tf.float64)
        for i in tf.range(batches.steps):
            checked += strategy.run(check, args=batches.batch(plan, i))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, checked, axis=None)

    validate.get_concrete_function()
    return validate  # type: ignore[no-any-return]


_cross_entropy = keras.losses.sparse_categorical_crossentropy  # equals the categorical one on one-hot labels


def _totals(losses: Tensor, probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), labels)
    each = tf.cast(tf.stack([losses, tf.cast(hits, losses.dtype), tf.ones_like(losses)]), tf.float64)
    return tf.reduce_sum(tf.where(weights > 0, each, 0.0), axis=1)


def _agreed_checkpoint(
    checkpoints: Checkpoints, tell: Tell, clock: Clock, share: Share
) -> tuple[str, dict[str, str]] | None:
    """Return the path and the manifest of the checkpoint that all workers resume from. The first worker chooses it."""
    choice: tuple[str, dict[str, str]] | None = None
    if share.rank == 0:
        newest = checkpoints.newest()
        clock.ended("setup")
        node = ray.get_runtime_context().get_node_id()
        tell(Start(share.workers, newest.damaged if newest else [], node, clock.handed_over()))
        choice = (newest.path, newest.manifest) if newest else None
    agreed: tuple[str, dict[str, str]] | None = ray.train.collective.broadcast_from_rank_zero(choice)
    return agreed
