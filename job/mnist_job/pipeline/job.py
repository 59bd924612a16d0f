"""The whole job on one page: preflight -> train -> evaluate -> publish."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from mnist_job.config.settings import EvaluateConfig, JobConfig, Settings
from mnist_job.data import dataset, sources
from mnist_job.data.described import Facts
from mnist_job.data.reading import Reading
from mnist_job.data.sources import Source as Data
from mnist_job.distributed import capacity, cluster
from mnist_job.errors import (
    ClusterError,
    DataError,
    DeliveryError,
    EvaluationError,
    QualityError,
    UsageError,
)
from mnist_job.evaluation.task import Candidate, Evaluator
from mnist_job.log import Log
from mnist_job.models import class_names, saved_model
from mnist_job.models import origin as origins
from mnist_job.pipeline import checks, delivery, gates, train
from mnist_job.pipeline.stages import Run
from mnist_job.report import page
from mnist_job.results import earlier, exporter, metrics
from mnist_job.results.earlier import Record
from mnist_job.results.outcome import Outcome, TrainingRecord
from mnist_job.storage import files
from mnist_job.storage.folder import OUTCOME, RunFolder
from mnist_job.training import stopping
from mnist_job.training.checkpoint import MODEL
from mnist_job.usercode import files as files_of_code
from mnist_job.usercode.apart import Apart


def run(config: JobConfig, log: Log, *, dry_run: bool = False, force: bool = False) -> None:
    """Train, evaluate and publish. Resume a run of the same name if it has not finished.

    If the run already has a result, deliver that again; with `force`, run everything again instead. With `dry_run`, do
    only the checks. Raises a JobError for every failure, after publishing the failure in the metrics.
    """
    config = config.model_copy(update={"data": sources.absolute(config.data)})
    this = Run(config, log)
    with (
        this.failure_is_published(dry_run=dry_run),
        _folder(this, dry_run=dry_run, replaces=force) as folder,
        ExitStack() as stack,
    ):
        with this.stage("data", UsageError):
            stopping.monitor(config.monitor)
            origin = origins.read(config)
            apart = stack.enter_context(Apart(origin.code))
        with this.stage("data", DataError, "reading the data"):
            summary = checks.data(apart, origin.data, dataset.check, config, origin.data)
        this.display.data(summary)
        config = config.model_copy(update=summary.holdout)
        this.identity = this.identity.with_settings(config, summary.sha256, origin.checksums)
        with this.stage("data", UsageError):
            mine = Record.of(this.identity.config, summary.sha256, this.identity.code)
            outcome = earlier.settle(folder, mine, this.identity.run, force=force, dry_run=dry_run)
        if outcome is not None:
            already = f"run {outcome.identity.run} has already done this; --force repeats it"
            log.result(already, run=outcome.identity.run, results=_results(config))
            verdict = _delivered_again(this, outcome, folder, dry_run=dry_run)
        else:
            checks.training(this, config, apart, origin, summary)
            with _cluster(this):
                if dry_run:
                    log.info("all checks passed; nothing was trained")
                    return
                evaluator = Evaluator(config, origin.code)
                if cluster.is_local(config):  # its CPUs are partly idle until the workers start to train
                    evaluator.prepare(cluster.this_node())
                trained, record = train.train(this, config, origin, summary, folder, evaluator)
                this.display.training(record, config.epochs)
                trusted = not origin.model.is_reference
                modules = (origin.model.function.module,) if origin.model.function is not None else ()
                candidate = Candidate(trained.model, trained.model.path, trained.manifest[MODEL], trusted, modules)
                checked = (summary.test_facts, summary.names)
                outcome = _evaluated(this, evaluator, candidate, origin.data, checked, record)
                files = {MODEL: trained.model} | folder.event_files(folder.work)
                verdict = _publish(this, outcome, folder, files)
    if verdict is not None:
        raise verdict


def evaluate(config: EvaluateConfig, log: Log, *, dry_run: bool = False) -> None:
    """Evaluate a saved model and publish the result. Raises the same errors as `run`."""
    config = config.model_copy(update={"data": sources.absolute(config.data)})
    this = Run(config, log)
    with this.failure_is_published(dry_run=dry_run), _folder(this, dry_run=dry_run, replaces=True) as folder:
        with this.stage("data", UsageError):
            earlier.check_for_evaluation(folder)
            data = sources.read(config.data, config.code, Reading.of(config))
            own = files_of_code.read(config.code, []) | data.code
            model = saved_model.existing(config.model)
            trusted = config.code is not None
            candidate = Candidate(model, files.shown(config.model), None, trusted, own.registering if trusted else ())
        with this.stage("data", DataError, "reading the data"), Apart(own) as apart:
            checked = checks.data(apart, data, dataset.check_test, data)
            class_names.check(model, files.shown(config.model), checked[1])
        with _cluster(this):
            if dry_run:
                log.info("all checks passed; nothing was evaluated")
                return
            outcome = _evaluated(this, Evaluator(config, own), candidate, data, checked)
            verdict = _publish(this, outcome, folder, {})
    if verdict is not None:
        raise verdict


def _evaluated(
    this: Run,
    evaluator: Evaluator,
    candidate: Candidate,
    data: Data,
    checked: tuple[Facts, tuple[str, ...] | None],
    record: TrainingRecord | None = None,
) -> Outcome:
    """Evaluate the model and return the outcome. `checked` has the facts of the test data and the classes' names."""
    started = time.time()
    facts, names = checked
    with this.stage("evaluate", EvaluationError, "evaluating on the test data"):
        result, sha256 = evaluator.evaluate(candidate, data, facts)
    outcome = Outcome(
        identity=this.identity,
        finished=time.time(),
        exit_code=0,
        training=record,
        evaluation=replace(result, class_names=list(names or ())),
        evaluation_seconds=time.time() - started,
        model_sha256=sha256,
        phases=dict(this.clock.seconds),
    )
    this.display.evaluation(outcome)
    return gates.judged(this.config, outcome)


def _delivered_again(this: Run, outcome: Outcome, folder: RunFolder, *, dry_run: bool) -> QualityError | None:
    """Deliver an earlier result again, and return the verdict if the model is below a gate.

    The gates may have changed since. If the verdict has changed, also write the files of the result again.
    """
    if dry_run or outcome.evaluation is None:
        return None
    this.display.evaluation(outcome)
    judged = gates.judged(this.config, outcome)
    if judged != outcome:
        with this.stage("publish", UsageError):
            folder.check_replaceable()
        model = files.File(folder.filesystem, f"{folder.final}/{MODEL}")
        return _publish(this, judged, folder, {MODEL: model} | folder.event_files(folder.final))
    with this.stage("publish", DeliveryError):
        delivery.deliver(judged, this.config, this.config.delivery_timeout)
    return QualityError(judged.reason) if judged.reason else None


def _publish(this: Run, outcome: Outcome, folder: RunFolder, files: dict[str, files.File]) -> QualityError | None:
    """Deliver the outcome, then write it and `files` into the folder. Return the verdict if the model is below a gate.

    The delivery comes first, so that the outcome in the folder says whether it succeeded. Raises DeliveryError.
    """
    verdict = QualityError(outcome.reason) if outcome.reason else None
    undelivered = None
    with this.stage("publish", DeliveryError):
        try:
            delivery.deliver(outcome, this.config, this.config.delivery_timeout)
        except DeliveryError as error:
            if verdict is None:
                undelivered = error
                outcome = replace(outcome, exit_code=error.exit_code, reason=str(error))
            else:
                verdict.add_note(f"the failure could not be reported: {error}")
        this.clock.ended("publish")
        outcome = replace(outcome, phases=outcome.phases | {"publish": this.clock.seconds["publish"]})
        texts = {
            OUTCOME: outcome.to_json(),
            "metrics.prom": metrics.text(outcome),
            "report.html": page.render(outcome),
        }
        if outcome.training is not None:
            texts["history.csv"] = outcome.history_csv()
        folder.publish(texts, files, {MODEL: outcome.model_sha256} if MODEL in files else {})
        folder.clear()
    this.log.result(f"results in {_results(this.config)}", results=_results(this.config))
    if this.config.verbose:
        this.display.phases(this.clock.seconds)
    if undelivered is not None:
        raise undelivered
    return verdict


def _results(config: Settings) -> str:
    return files.below(config.output, config.name)


@contextmanager
def _folder(this: Run, *, dry_run: bool, replaces: bool) -> Iterator[RunFolder]:
    """Check the places for the results, then open the run's folder."""
    config = this.config
    with ExitStack() as stack:
        with this.stage("data", UsageError):
            delivery.check(config)
            opened = RunFolder.opened(
                config.output, config.name, this.identity.run, dry_run=dry_run, replaces=replaces, tell=this.log.info
            )
            folder = stack.enter_context(opened)
        yield folder


@contextmanager
def _cluster(this: Run) -> Iterator[None]:
    """Connect to a Ray cluster that has room for the run, and always disconnect at the end of this context."""
    with ExitStack() as stack:
        with this.stage("ray_start", ClusterError, cluster.doing(this.config)):
            stack.enter_context(cluster.connected(this.config))
            capacity.check(this.config, this.log.info)
            if this.config.exporter_port is not None:
                exporter.start(this.config.exporter_port)
        yield
