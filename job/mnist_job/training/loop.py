"""The training loop. Ray Train starts it on every worker, with the addresses of all workers in TF_CONFIG.

Each epoch is a pass over the training images and one over the validation images (`passes.py`), with few pauses.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext

import keras
import ray.train.collective

from mnist_job.config.training import LoopSettings
from mnist_job.data import verify
from mnist_job.data.described import Facts
from mnist_job.models.origin import Origin
from mnist_job.models.source import Shapes
from mnist_job.phases import Clock
from mnist_job.training import not_finite, optimizer, stopping, streamed
from mnist_job.training.batches import Share
from mnist_job.training.callbacks import Callbacks
from mnist_job.training.checkpoint import Checkpoints
from mnist_job.training.compiled import Compiled
from mnist_job.training.middle import Middle
from mnist_job.training.pace import Pace, taken
from mnist_job.training.passes import Training, Validation
from mnist_job.training.progress import Epoch, Spent, Start, Tell, finite
from mnist_job.training.reporter import Reporter
from mnist_job.training.strategy import joined

EXAMPLES = 8  # to build a model's parts, and its metrics, on the first worker as on the others
VALIDATION_IMAGES_A_STEP = 1024  # for each worker: enough to keep a device busy, and few enough for any model


def train(
    config: LoopSettings,
    origin: Origin,
    checked: Facts,
    checkpoints: Checkpoints,
    tell: Tell,
    clock: Clock,
) -> None:
    """Train until the end, from the last intact checkpoint if there is one.

    Save a checkpoint after each epoch, and within an epoch when `checkpoint_minutes` have passed since the last one.

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

    batches = streamed.batches(training.train, config.batch_size, share, config.seed)
    validation = streamed.batches(training.validation, VALIDATION_IMAGES_A_STEP * share.workers, share)

    keras.utils.set_random_seed(config.seed)
    network = origin.model.build(Shapes(training.image_shape, training.classes, training.scale, config.seed))
    some = training.examples[:EXAMPLES]
    synchronized = share.workers > 1 and config.batch_norm == "synchronized"
    rate = learning_rate(config, batches.steps)
    model = Compiled(network, rate, some, synchronized=synchronized, class_names=training.names)
    if not origin.model.is_reference:  # its function may not start from the same weights everywhere
        first = network.get_weights() if share.rank == 0 else None
        network.set_weights(ray.train.collective.broadcast_from_rank_zero(first))
    update = optimizer.update(model.optimizer, model.variables)
    del training, some  # free the memory: the data is on the device now
    agree = ray.train.collective.broadcast_from_rank_zero
    callbacks = Callbacks(origin.callbacks, model, agree, epochs=config.epochs, steps=batches.steps)
    callbacks.train_begin()

    history: list[Epoch] = []
    middle: Middle | None = None
    if (chosen := _agreed_checkpoint(checkpoints, tell, clock, share)) is not None:
        history, middle = checkpoints.restore(*chosen, model, callbacks)
    clock.ended("setup")

    training_pass = Training(strategy, model, update, batches)
    validation_pass = Validation(strategy, model, validation)
    clock.ended("tracing")
    done = len(history) * batches.steps + (middle.step if middle else 0)
    reporter = Reporter(tell, training_pass.sums, batches, config.epochs, done=done)
    pace = Pace(done, config.checkpoint_minutes, agree, _is_a_node_leaving)
    while stopping.ended(history, config) is None:
        epoch, started = len(history), time.perf_counter()
        if middle is None:
            callbacks.epoch_begin(epoch)
        model.reseed(config.seed, epoch, share.rank)
        training_pass.begin()
        if middle is not None:
            training_pass.restore(middle.values)
        step, seconds, first_rate = middle[:3] if middle else (0, 0.0, float(model.optimizer.learning_rate.numpy()))
        middle = None
        with reporter.epoch(epoch + 1, step) if share.rank == 0 else nullcontext():
            for due in taken(training_pass, batches, epoch, step, pace):
                seconds += time.perf_counter() - started
                clock.ended("training")
                within = Middle(due, seconds, first_rate, training_pass.values())
                if share.rank == 0 and (within.is_finite or config.on_nan == "ignore"):
                    keep = stopping.epochs_to_keep(history, config)
                    checkpoints.save(model, history, share.workers, callbacks, keep, within)
                pace.saved()
                clock.ended("checkpoint")
                started = time.perf_counter()
            metrics, finite_steps = training_pass.end()
        trained = _finite(metrics)
        clock.ended("training")
        if trained["loss"] is None and config.on_nan == "stop":
            raise not_finite.stop(f"epoch {epoch + 1}, step {finite_steps + 1}", "training")
        validated = _finite(validation_pass.whole(0)[0])
        clock.ended("validation")
        if validated["loss"] is None and config.on_nan == "stop":
            raise not_finite.stop(f"epoch {epoch + 1}", "validation")
        row = Epoch(
            epoch=epoch + 1,
            train_loss=trained.pop("loss"),
            train_accuracy=trained.pop("accuracy", None),
            validation_loss=validated.pop("loss"),
            validation_accuracy=validated.pop("accuracy", None),
            learning_rate=first_rate,
            seconds=seconds + time.perf_counter() - started,
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
        pace.saved()


def _is_a_node_leaving() -> bool:
    """Return whether Ray has announced that it takes away the node of a worker. All workers must call it."""
    announced = getattr(ray.train, "get_preemption_info", None)  # not every Ray has it
    return announced is not None and announced() is not None


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in metrics.items()}


def learning_rate(
    config: LoopSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate or, if it changes during training, its schedule: a function of the optimizer's step."""
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps_per_epoch)


def _agreed_checkpoint(
    checkpoints: Checkpoints, tell: Tell, clock: Clock, share: Share
) -> tuple[str, dict[str, str]] | None:
    """Return the path and the manifest of the checkpoint that all workers resume from. The first worker chooses it."""
    choice: tuple[str, dict[str, str]] | None = None
    if share.rank == 0:
        newest = checkpoints.newest()
        clock.ended("setup")
        node = ray.get_runtime_context().get_node_id()
        place = (len(newest.history) + 1, newest.step) if newest else (1, 0)
        tell(Start(share.workers, newest.damaged if newest else [], node, clock.handed_over(), *place))
        choice = (newest.path, newest.manifest) if newest else None
    agreed: tuple[str, dict[str, str]] | None = ray.train.collective.broadcast_from_rank_zero(choice)
    return agreed
