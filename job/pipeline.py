"""The whole job on one page: preflight -> train -> evaluate -> publish."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from job import cluster, data, delivery, evaluation, exporter, metrics, ray_cluster, report, state, storage, trainer
from job.checkpoint import MODEL, Checkpoint, Checkpoints
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
from job.policy import HASTY_SECONDS, Deadline
from job.progress import Display
from job.state import Record


def run(config: JobConfig, *, dry_run: bool = False, force: bool = False) -> None:
    """Train, evaluate, publish; go on from where a run of this name was lost. With `dry_run` check and do nothing.

    A run that has its result already delivers that again, unless `force`. Raises a JobError for every way this can
    fail; the metrics say so before it is raised.
    """
    config = config.model_copy(update={"data": data.absolute(config.data)})
    display, identity, deadline = Display(), Identity.of(config), Deadline(config.timeout)
    with _failure_is_published(config, identity, deadline, dry_run=dry_run):
        with display.stage("reading the data"), _ends_as(DataError, deadline):
            summary = data.check(config.data, config.validation_fraction, config.batch_size)
        display.data(summary)
        identity = replace(identity, data_sha256=summary.sha256)
        with _ends_as(UsageError, deadline):
            delivery.check(config)
        with RunFolder.opened(config.output, config.name) as folder:
            with _ends_as(UsageError, deadline):
                mine = Record.of(identity.config, identity.data_sha256)
                outcome = state.settle(folder, mine, identity.run, force=force, dry_run=dry_run)
            if outcome is not None:
                display.line(f"run {outcome.identity.run} has done this already; --force does it anew")
                model = storage.File(folder.filesystem, f"{folder.final}/{MODEL}")
                verdict = _delivered_again(config, outcome, folder, display, model, deadline, dry_run=dry_run)
            else:
                with _cluster(config, display, deadline):
                    if dry_run:
                        display.line("all checks passed; nothing was trained")
                        return
                    trained, record = _trained(config, identity, folder, display, deadline)
                    model = trained.model
                    outcome = _evaluated(config, identity, display, model, record, deadline)
                    verdict = _publish(config, outcome, folder, display, deadline, model)
    if verdict is not None:
        raise verdict


def evaluate(config: EvaluateConfig, *, dry_run: bool = False) -> None:
    """Evaluate a saved model and publish the result. Raises as `run` does."""
    config = config.model_copy(update={"data": data.absolute(config.data)})
    display, identity, deadline = Display(), Identity.of(config), Deadline(config.timeout)
    with _failure_is_published(config, identity, deadline, dry_run=dry_run):
        with display.stage("reading the data"), _ends_as(DataError, deadline):
            data.load_test(config.data)
        with _ends_as(UsageError, deadline):
            model = _existing_model(config.model)
            delivery.check(config)
        with RunFolder.opened(config.output, config.name) as folder, _cluster(config, display, deadline):
            if dry_run:
                display.line("all checks passed; nothing was evaluated")
                return
            outcome = _evaluated(config, identity, display, model, None, deadline)
            verdict = _publish(config, outcome, folder, display, deadline)
    if verdict is not None:
        raise verdict


def _trained(
    config: JobConfig, identity: Identity, folder: RunFolder, display: Display, deadline: Deadline
) -> tuple[Checkpoint, TrainingRecord]:
    """The last checkpoint, and how it came about; only the evaluation was left where that is there already."""
    started, workers = time.time(), f"{config.workers} workers"
    checkpoints = Checkpoints(folder.filesystem, folder.checkpoints, identity.run)
    with _ends_as(TrainingError, deadline):
        last = checkpoints.newest()
        done = len(last.history) if last else 0
        if last is not None and done == config.epochs:
            return last, TrainingRecord(config.most_workers, 0, 0, last.history)
        doing = f"training on {workers}" + (f", from epoch {done + 1}" if done else "")
        with display.stage(doing, config.epochs) as stage:
            try:
                trained = trainer.train(config, folder, checkpoints, lambda entry: stage.entry(entry, config))
            except TrainingError as error:
                raise _explained(error, config) from error.__cause__
    last = trained.checkpoint
    return last, TrainingRecord(trained.workers, trained.restarts, time.time() - started, last.history)


def _explained(error: TrainingError, config: JobConfig) -> TrainingError:
    """The failure, with what Kubernetes knows of it."""
    try:
        killed = cluster.killed_for_memory(config, HASTY_SECONDS)
    except ClusterError as unknown:
        error.add_note(f"whether pods lacked memory is not known: {unknown}")
        return error
    if not killed:
        return error
    return TrainingError(
        f"{error}; OOMKilled (exit code 137): {', '.join(killed)}; give the pods a higher memory limit"
    )


def _evaluated(
    config: Settings,
    identity: Identity,
    display: Display,
    model: storage.File,
    training: TrainingRecord | None,
    deadline: Deadline,
) -> Outcome:
    started = time.time()
    with display.stage("evaluating on the test data"), _ends_as(EvaluationError, deadline):
        result = evaluation.evaluate(config, model)
        sha256 = model.sha256()
    outcome = Outcome(
        identity=identity,
        finished=time.time(),
        exit_code=0,
        training=training,
        evaluation=result,
        evaluation_seconds=time.time() - started,
        model_sha256=sha256,
    )
    display.evaluation(result)
    return _judged(config, outcome)


def _judged(config: Settings, outcome: Outcome) -> Outcome:
    """The outcome with the exit code that its accuracy deserves."""
    assert outcome.evaluation is not None
    accuracy, wanted = outcome.evaluation.accuracy, config.min_accuracy
    if wanted is None or accuracy >= wanted:
        return replace(outcome, exit_code=0, reason=None)
    reason = f"test accuracy {accuracy:.4f} is below --min-accuracy {wanted:g}"
    return replace(outcome, exit_code=QualityError.exit_code, reason=reason)


def _delivered_again(
    config: JobConfig,
    outcome: Outcome,
    folder: RunFolder,
    display: Display,
    model: storage.File,
    deadline: Deadline,
    *,
    dry_run: bool,
) -> QualityError | None:
    """A result that was there already goes where results go; its files change only where it is judged otherwise now."""
    if dry_run or outcome.evaluation is None:
        return None
    display.evaluation(outcome.evaluation)
    judged = _judged(config, outcome)
    if judged != outcome:
        return _publish(config, judged, folder, display, deadline, model)
    with _ends_as(DeliveryError, deadline):
        delivery.deliver(judged, config, config.delivery_timeout)
    return QualityError(judged.reason) if judged.reason else None


def _publish(
    config: Settings,
    outcome: Outcome,
    folder: RunFolder,
    display: Display,
    deadline: Deadline,
    model: storage.File | None = None,
) -> QualityError | None:
    """Deliver first, so that the files can say whether that went well. Gives the verdict on a model too poor.

    Raises DeliveryError.
    """
    verdict = QualityError(outcome.reason) if outcome.reason else None
    undelivered = None
    with _ends_as(DeliveryError, deadline):
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
        folder.clear()
    display.line(f"results in {storage.below(config.output, config.name)}")
    if undelivered is not None:
        raise undelivered
    return verdict


@contextmanager
def _cluster(config: Settings, display: Display, deadline: Deadline) -> Iterator[None]:
    """The Ray cluster, large enough, and left at any end."""
    with ExitStack() as stack:
        with display.stage(ray_cluster.doing(config)), _ends_as(ClusterError, deadline):
            stack.enter_context(ray_cluster.connected(config))
            ray_cluster.check_capacity(config)
            if config.exporter_port is not None:
                exporter.start(config.exporter_port)
        yield


@contextmanager
def _failure_is_published(config: Settings, identity: Identity, deadline: Deadline, *, dry_run: bool) -> Iterator[None]:
    """A failure goes to the metrics as well. Where it cannot, that is a note on it, and its exit code stays."""
    try:
        with deadline.running():
            yield
    except (JobError, KeyboardInterrupt) as stop:
        error = stop if isinstance(stop, JobError) else deadline.error() if deadline.passed else Interrupted()
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
def _ends_as(kind: type[JobError], deadline: Deadline) -> Iterator[None]:
    """Whatever goes wrong in a stage and has no exit code of its own ends with the stage's."""
    deadline.stage = kind
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
