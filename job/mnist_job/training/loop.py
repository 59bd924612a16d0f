"""The training loop. Ray Train starts it on every worker, with the addresses of all workers in TF_CONFIG.

Keras 3's `fit` does not work under MultiWorkerMirroredStrategy, and the one of Keras 2 exchanges messages for each
metric at each step. So this module has its own loop: one compiled function runs a whole epoch on data that is already
on the device. The workers exchange the gradients once a step, and the sums of all metrics twice an epoch.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import keras
import ray.train.collective
import tensorflow as tf

from mnist_job.config.training import LoopSettings
from mnist_job.data import dataset, verify
from mnist_job.models.origin import Origin
from mnist_job.models.source import Shapes
from mnist_job.phases import Clock
from mnist_job.training import not_finite, optimizer, states, stopping
from mnist_job.training.batches import Plan, ResidentBatches, Share, Tensor
from mnist_job.training.callbacks import Callbacks
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.compiled import Compiled, added_up, only
from mnist_job.training.progress import Epoch, Spent, Start, Tell, finite
from mnist_job.training.reporter import Reporter
from mnist_job.training.strategy import joined

EXAMPLES = 8  # to build a model's parts, and its metrics, on the first worker as on the others
VALIDATION_IMAGES_A_STEP = 1024  # for each worker: enough to keep a device busy, and few enough for any model

Metrics = dict[str, Tensor]
Update = Callable[[Sequence[Tensor]], None]


def train(
    config: LoopSettings,
    origin: Origin,
    checked: dataset.Facts,
    checkpoints: Checkpoints,
    tell: Tell,
    clock: Clock,
) -> None:
    """Train until the end, from the last intact checkpoint if there is one. Save a checkpoint after each epoch.

    Only the first worker reports and saves. `origin` is where the network and the data come from. `checked`
    describes the training data that the driver has checked.

    Raises DataError if this worker's data is different, ClusterError if a GPU is required and TensorFlow finds none,
    TrainingError if no checkpoint is intact, a callback fails or a loss is not finite, and OSError if a checkpoint
    cannot be read or written.
    """
    # First: after this worker has joined the others, they would wait for it if it failed.
    training = verify.load_training(config, origin.data, checked)
    strategy = joined(config)
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())

    batches = ResidentBatches(training.train, config.batch_size, share, config.seed)
    validation = ResidentBatches(training.validation, VALIDATION_IMAGES_A_STEP * share.workers, share)

    keras.utils.set_random_seed(config.seed)
    network = origin.model.build(Shapes(training.image_shape, training.classes, training.scale, config.seed))
    some = training.train[:EXAMPLES]
    synchronized = share.workers > 1 and config.batch_norm == "synchronized"
    model = Compiled(network, learning_rate(config, batches.steps), some, synchronized=synchronized)
    if not origin.model.is_reference:  # its function may not start from the same weights everywhere
        first = network.get_weights() if share.rank == 0 else None
        network.set_weights(ray.train.collective.broadcast_from_rank_zero(first))
    update = optimizer.update(model.optimizer, model.variables)
    del training, some  # free the memory: the data is on the device now
    agree = ray.train.collective.broadcast_from_rank_zero
    callbacks = Callbacks(origin.callbacks, model, agree, epochs=config.epochs, steps=batches.steps)
    callbacks.train_begin()

    history: list[Epoch] = []
    if (chosen := _agreed_checkpoint(checkpoints, tell, clock, share)) is not None:
        history = checkpoints.restore(*chosen, model, callbacks)
    clock.ended("setup")

    so_far = tf.Variable(tf.zeros(3, tf.float64))
    train_epoch = compiled_training(strategy, model, update, batches, so_far)
    validate = compiled_validation(strategy, model, validation)
    clock.ended("tracing")
    reporter = Reporter(tell, so_far, batches, config.epochs, done=len(history))
    while stopping.ended(history, config) is None:
        epoch = len(history)
        started = time.perf_counter()
        callbacks.epoch_begin(epoch)
        rate = float(model.optimizer.learning_rate.numpy())
        model.reseed(config.seed, epoch, share.rank)
        with reporter.epoch(epoch + 1) if share.rank == 0 else nullcontext():
            metrics, finite_steps = train_epoch(batches.plan(epoch))
            trained = _numbers(metrics)
        clock.ended("training")
        if trained["loss"] is None and config.on_nan == "stop":
            raise not_finite.stop(f"epoch {epoch + 1}, step {int(finite_steps) + 1}", "training")
        validated = _numbers(validate(validation.plan(0)))
        clock.ended("validation")
        if validated["loss"] is None and config.on_nan == "stop":
            raise not_finite.stop(f"epoch {epoch + 1}", "validation")
        row = Epoch(
            epoch=epoch + 1,
            train_loss=trained.pop("loss"),
            train_accuracy=trained.pop("accuracy", None),
            validation_loss=validated.pop("loss"),
            validation_accuracy=validated.pop("accuracy", None),
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            train_metrics=trained,
            validation_metrics=validated,
        )
        history.append(row := callbacks.epoch_end(row))
        clock.ended("training")
        if stopping.ended(history, config) is not None:
            model.optimizer.finalize_variable_values(model.variables)  # as `fit` does at its end
            callbacks.train_end(row)
        if share.rank == 0:
            checkpoints.save(model, history, share.workers, callbacks, stopping.epochs_to_keep(history, config))
            clock.ended("checkpoint")
            tell(Spent(clock.handed_over()))
            tell(row)


def _numbers(metrics: Metrics) -> dict[str, float | None]:
    return {name: finite(float(value)) for name, value in metrics.items()}


def learning_rate(
    config: LoopSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate or, if it changes during training, its schedule: a function of the optimizer's step."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps_per_epoch)


def compiled_training(
    strategy: tf.distribute.Strategy, model: Compiled, update: Update, batches: ResidentBatches, so_far: Tensor
) -> Callable[[Plan], tuple[Metrics, Tensor]]:
    """Compile an epoch of training to one function of the epoch's plan.

    The function returns the metrics of the epoch over all workers, as `fit` does: each batch is measured before its
    update. `loss` is the mean over all images. The function also returns the number of steps (float64) before the
    first whose loss is not finite on any worker. It runs to the end of the epoch even so: a worker that left it would
    leave the others waiting. After each step, the variable `so_far` has this worker's sums of the loss and of the
    images, and a third one, so that another thread can read them.
    """
    network, workers = model.network, strategy.num_replicas_in_sync
    states_of_part = states.of_the_part(network, model.synchronized) if batches.has_empty_parts else []

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def step(inputs: Tensor, labels: Tensor, weights: Tensor | None, share: Tensor) -> tuple[list[Tensor], Tensor]:
        targets = model.targets(labels)
        before = [tf.identity(state.value) for state in states_of_part]
        with tf.GradientTape() as tape:
            answers = network(inputs, training=True)
            loss = mine = network.compute_loss(inputs, targets, answers, weights)
            if workers > 1:
                loss *= workers  # Keras divides it by them, as if all parts of a batch had the same size
                mine = loss * tf.cast(share, loss.dtype)  # summed over the workers: the mean over the global batch
            scaled = model.optimizer.scale_loss(mine)
        gradients = tape.gradient(scaled, [variable.value for variable in model.variables])
        network.compute_metrics(inputs, targets, answers, weights)
        if batches.has_empty_parts:
            states.undo(states_of_part, before, share)
            gradients = states.gradients(gradients, share)
        return optimizer.summed(gradients, model.variables), _totals(model, loss, labels, answers)

    # The update is outside `strategy.run`, where Keras sums nothing over the workers: the gradients are sums already.
    @tf.function(input_signature=[batches.plan_signature])  # type: ignore[untyped-decorator]
    def epoch(plan: Plan) -> tuple[Metrics, Tensor]:
        network.reset_metrics()
        sums, finite_sums = tf.zeros(3, tf.float64), tf.zeros(3, tf.float64)
        for i in tf.range(batches.steps):
            gradients, found = strategy.run(step, args=batches.batch(plan, i))
            update(gradients)
            sums += found
            finite_sums += tf.cast(tf.math.is_finite(sums), tf.float64)
            so_far.assign(sums)
        if workers > 1:
            states.agree(strategy, states.of(network), images=sums[1])
        return _over_all_workers(strategy, model, sums), not_finite.least(strategy, finite_sums[0])

    epoch.get_concrete_function()  # traced here, once
    return epoch  # type: ignore[no-any-return]


def compiled_validation(
    strategy: tf.distribute.Strategy, model: Compiled, batches: ResidentBatches
) -> Callable[[Plan], Metrics]:
    """Compile a pass over the validation images to one function of its plan, which returns their metrics."""
    network = model.network

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def check(inputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        targets = model.targets(labels)
        answers = network(inputs, training=False)
        network.compute_metrics(inputs, targets, answers, weights)
        loss = network.compute_loss(inputs, targets, answers, weights, training=False)
        return _totals(model, loss, labels, answers)

    @tf.function(input_signature=[batches.plan_signature])  # type: ignore[untyped-decorator]
    def validate(plan: Plan) -> Metrics:
        network.reset_metrics()
        sums = tf.zeros(3, tf.float64)
        for i in tf.range(batches.steps):
            inputs, labels, weights, _ = batches.batch(plan, i)
            sums += check(inputs, labels, weights)
        return _over_all_workers(strategy, model, sums)

    validate.get_concrete_function()
    return validate  # type: ignore[no-any-return]


def _totals(model: Compiled, loss: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
    """Return three sums over these images: the loss, the images and, for a model without metrics, the hits."""
    number = tf.cast(tf.shape(labels)[0], tf.float64)
    hits = tf.constant(0.0, tf.float64)
    if not model.was_compiled:
        hits = tf.cast(tf.math.count_nonzero(tf.equal(tf.argmax(only(answers), 1, tf.int32), labels)), tf.float64)
    # The mean loss of no images is not a number.
    return tf.stack([tf.where(number > 0, tf.cast(loss, tf.float64) * number, 0.0), number, hits])


def _over_all_workers(strategy: tf.distribute.Strategy, model: Compiled, sums: Tensor) -> Metrics:
    """Add up what the workers have measured. The variables of a Keras metric are sums over the images."""
    variables = model.network.metrics_variables
    sums, *totals = added_up(strategy, [sums, *(variable.value for variable in variables)])
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total)
    loss, images, hits = tf.unstack(sums)
    found: Metrics = model.network.get_metrics_result()
    return found | {"loss": loss / images} | ({} if model.was_compiled else {"accuracy": hits / images})


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
