"""The whole job on one page: preflight -> train -> evaluate -> publish."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from job import data, delivery, evaluation, exporter, metrics, ray_cluster, report, storage, trainer
from job.checkpoint import MODEL
from job.config import EvaluateConfig, JobConfig, Settings
from job.errors import (
    ClusterError,
    DataError,
    DeliveryError,
    EvaluationError,
    Interrupted,
    JobError,
    QualityError,
    TrainingError,
    UsageError,
)
from job.folder import OUTCOME, RunFolder
from job.outcome import Identity, Outcome, TrainingRecord
from job.progress import Display

# `ray job stop` kills 3 s after its SIGTERM; and a place that failed is not waited for twice.
HASTY_SECONDS = 2.0


def run(config: JobConfig, *, dry_run: bool = False) -> None:
    """Train, evaluate, publish. With `dry_run` check everything and do nothing.

    Raises a JobError for every way this can fail; the metrics say so before it is raised.
    """
    config = config.model_copy(update={"data": data.absolute(config.data)})
    display, identity = Display(), Identity.of(config)
    with _failure_is_published(config, identity, dry_run=dry_run):
        with display.stage("reading the data"), _ends_as(DataError):
            display.data(data.check(config.data, config.validation_fraction, config.batch_size))
        with _places(config, identity, display) as folder:
            if dry_run:
                display.line("all checks passed; nothing was trained")
                return
            started = time.time()
            with (
                display.stage(f"training on {config.workers} workers", config.epochs) as stage,
                _ends_as(TrainingError),
            ):
                trained = trainer.train(config, folder, lambda entry: stage.entry(entry, config))
            record = TrainingRecord(config.workers, trained.restarts, time.time() - started, trained.history)
            model = storage.File(folder.filesystem, f"{trained.checkpoint.path}/{MODEL}")
            outcome = _evaluated(config, identity, display, model, record)
            verdict = _publish(config, outcome, folder, display, model)
    if verdict is not None:
        raise verdict


def evaluate(config: EvaluateConfig, *, dry_run: bool = False) -> None:
    """Evaluate a saved model and publish the result. Raises as `run` does."""
    config = config.model_copy(update={"data": data.absolute(config.data)})
    display, identity = Display(), Identity.of(config)
    with _failure_is_published(config, identity, dry_run=dry_run):
        with display.stage("reading the data"), _ends_as(DataError):
            data.load_test(config.data)
        model = _existing_model(config.model)
        with _places(config, identity, display) as folder:
            if dry_run:
                display.line("all checks passed; nothing was evaluated")
                return
            outcome = _evaluated(config, identity, display, model, None)
            verdict = _publish(config, outcome, folder, display)
    if verdict is not None:
        raise verdict


def _evaluated(
    config: Settings, identity: Identity, display: Display, model: storage.File, training: TrainingRecord | None
) -> Outcome:
    started = time.time()
    with display.stage("evaluating on the test data"), _ends_as(EvaluationError):
        result = evaluation.evaluate(config, model)
        sha256 = model.sha256()
    display.evaluation(result)
    failure = None
    if config.min_accuracy is not None and result.accuracy < config.min_accuracy:
        failure = QualityError(f"test accuracy {result.accuracy:.4f} is below --min-accuracy {config.min_accuracy:g}")
    return Outcome(
        identity=identity,
        finished=time.time(),
        exit_code=failure.exit_code if failure else 0,
        reason=str(failure) if failure else None,
        training=training,
        evaluation=result,
        evaluation_seconds=time.time() - started,
        model_sha256=sha256,
    )


def _publish(
    config: Settings, outcome: Outcome, folder: RunFolder, display: Display, model: storage.File | None = None
) -> QualityError | None:
    """Deliver first, so that the files can say whether that went well. Gives the verdict on a model too poor.

    Raises DeliveryError.
    """
    verdict = QualityError(outcome.reason) if outcome.reason else None
    undelivered = None
    with _ends_as(DeliveryError):
        try:
            delivery.deliver(outcome, config, config.delivery_timeout)
        except DeliveryError as error:
            if verdict is None:
                undelivered = error
                outcome = replace(outcome, exit_code=error.exit_code, reason=str(error))
            else:
                verdict.add_note(f"the failure could not be reported: {error}")
        files = {
            OUTCOME: outcome.to_json(),
            "metrics.prom": metrics.text(outcome),
            "report.html": report.render(outcome),
        }
        if outcome.training is not None:
            files["history.csv"] = outcome.history_csv()
        folder.publish(files, {MODEL: model} if model else {})
    display.line(f"results in {storage.below(config.output, config.name)}")
    if undelivered is not None:
        raise undelivered
    return verdict


@contextmanager
def _places(config: Settings, identity: Identity, display: Display) -> Iterator[RunFolder]:
    """The run's folder and the Ray cluster, both checked; the cluster is left and the folder cleared at any end."""
    delivery.check(config)
    folder = RunFolder.create(config.output, identity.name, identity.run)
    with ExitStack() as stack:
        stack.callback(folder.discard)
        with display.stage(ray_cluster.doing(config)), _ends_as(ClusterError):
            stack.enter_context(ray_cluster.connected(config))
            ray_cluster.check_capacity(config)
            if config.exporter_port is not None:
                exporter.start(config.exporter_port)
        yield folder


@contextmanager
def _failure_is_published(config: Settings, identity: Identity, *, dry_run: bool) -> Iterator[None]:
    """A failure goes to the metrics as well. Where it cannot, that is a note on it, and its exit code stays."""
    try:
        yield
    except (JobError, KeyboardInterrupt) as stop:
        error = stop if isinstance(stop, JobError) else Interrupted()
        if not dry_run:
            hasty = isinstance(error, Interrupted | DeliveryError)
            timeout = min(config.delivery_timeout, HASTY_SECONDS) if hasty else config.delivery_timeout
            outcome = Outcome(identity, time.time(), error.exit_code, str(error))
            try:
                delivery.deliver(outcome, config, timeout)
            except DeliveryError as undelivered:
                if str(undelivered) != str(error):  # else the place was refused, and that has been said
                    error.add_note(f"the failure could not be reported: {undelivered}")
        if error is stop:
            raise
        raise error from stop


@contextmanager
def _ends_as(kind: type[JobError]) -> Iterator[None]:
    """Whatever goes wrong in a stage and has no exit code of its own ends with the stage's."""
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise kind(f"{type(error).__name__}: {text} (--verbose shows where)") from error


def _existing_model(place: str) -> storage.File:
    try:
        model = storage.File(*storage.resolve(place))
        if model.exists():
            return model
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {place}: cannot be read: {error}") from error
    raise UsageError(f"--model {place}: no such file")
