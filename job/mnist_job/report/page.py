"""`report.html`: the report of a run in a single file, for people. Programs read `outcome.json` instead."""

import html
import shlex
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import numpy as np

from mnist_job.config import sources
from mnist_job.data.fits import shape_text
from mnist_job.evaluation.measures import LONGEST_SIDE, MOST_DENSE, Evaluation, Mistake, confidence_interval
from mnist_job.phases import PHASES
from mnist_job.report import elements, plots
from mnist_job.results.outcome import Outcome, TrainingRecord

MOST_ROWS = 100  # the most rows of a table
FEW_ROWS = 12  # a table of epochs with more rows is folded

_PAGE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))


def render(outcome: Outcome) -> str:
    """Return the page. If the outcome has no training or no evaluation, their sections are left out."""
    training, evaluation = outcome.training, outcome.evaluation
    parts = [_head(outcome)]
    if training is not None:
        parts.append(_training(training, evaluation))
    if evaluation is not None:
        if evaluation.recall:
            parts.append(_classes(evaluation))
        parts.append(_mistakes(evaluation))
    if outcome.phases:
        parts.append(_time(outcome.phases))
    parts.append(_again(outcome))
    parts.append(_origin(outcome))
    return _PAGE.substitute(title=html.escape(_title(outcome)), body="\n".join(parts))


def _title(outcome: Outcome) -> str:
    return f"{outcome.identity.name}: {outcome.identity.dataset}"


def _head(outcome: Outcome) -> str:
    evaluation = outcome.evaluation
    if outcome.succeeded:
        verdict, kind = "Succeeded", "good"
    else:
        verdict, kind = f"Failed with exit code {outcome.exit_code}: {outcome.reason or ''}", "bad"
    ended = f"{datetime.fromtimestamp(outcome.finished, UTC):%Y-%m-%d %H:%M:%S} UTC"
    figures = []
    if evaluation is not None:
        figures = [
            *(_of_classifier(evaluation, evaluation.accuracy) if evaluation.accuracy is not None else ()),
            ("test loss", f"{evaluation.loss:.4f}", "mean cross-entropy" if evaluation.recall else "as compiled"),
            *((name, f"{value:.4f}", "as compiled") for name, value in evaluation.metrics.items()),
        ]
    figures.append(("duration", f"{outcome.finished - outcome.identity.started:.1f} s", f"ended {ended}"))
    shown = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd><b>{html.escape(value)}</b> {html.escape(note)}</dd></div>"
        for name, value, note in figures
    )
    return (
        f"<h1>{html.escape(_title(outcome))}</h1>\n"
        f'<p class="verdict {kind}">{html.escape(verdict)}</p>\n<dl class="figures">{shown}</dl>'
    )


def _of_classifier(evaluation: Evaluation, accuracy: float) -> list[tuple[str, str, str]]:
    right = int(evaluation.of_classes()[0].sum())
    low, high = confidence_interval(right, evaluation.samples)
    return [
        ("test accuracy", f"{accuracy:.4f}", f"95 %: {low:.4f} to {high:.4f}"),
        ("wrong", f"{evaluation.samples - right:,}", f"of {evaluation.samples:,} test images"),
    ]


def _training(training: TrainingRecord, evaluation: Evaluation | None) -> str:
    history, kept = training.history, training.kept.epoch
    rows = plots.thinned(history, MOST_ROWS)
    table = elements.table(
        ("epoch", "training loss", "validation loss", "training accuracy", "validation accuracy", "learning rate", "s"),
        (
            (
                str(row.epoch),
                *(
                    "" if value is None else f"{value:.4f}"
                    for value in (
                        row.train_loss,
                        row.validation_loss,
                        row.train_accuracy,
                        row.validation_accuracy,
                    )
                ),
                f"{row.learning_rate:.3g}",
                f"{row.seconds:.2f}",
            )
            for row in rows
        ),
    )
    every = "Every epoch" if len(rows) == len(history) else f"{len(rows)} of {len(history):,} epochs"
    ended = f"Training ended after epoch {len(history):,}: {training.ended}. " if training.ended else ""
    which = "the last epoch" if kept == len(history) else f"epoch {kept:,}, which is the best one"
    return (
        "<h2>Training</h2>\n"
        f'<p class="note">{html.escape(ended)}Training is measured during the epoch, each batch before its update. '
        f"Validation is measured after each epoch, and the test once, with the weights of {which}.</p>\n"
        '<div class="plots">'
        + elements.figure("Loss", plots.loss(history, evaluation, kept))
        + (
            elements.figure("Accuracy", plots.accuracy(history, evaluation, kept))
            if any(row.validation_accuracy is not None for row in history)
            else ""
        )
        + elements.figure("Learning rate", plots.learning_rate(history))
        + f"{elements.details(f'{every} as a table', table, is_open=len(rows) <= FEW_ROWS)}</div>"
    )


def _classes(evaluation: Evaluation) -> str:
    classes = len(evaluation.recall)
    hits, images = evaluation.of_classes()
    rows = []
    for label, share in sorted(enumerate(evaluation.recall), key=lambda row: (row[1] is None, row[1]))[:MOST_ROWS]:
        found, there = int(hits[label]), int(images[label])
        interval = "{:.4f} to {:.4f}".format(*confidence_interval(found, there)) if there else ""
        rows.append(
            (evaluation.name(label), "" if share is None else f"{share:.4f}", interval, f"{found:,}", f"{there:,}")
        )
    recall = elements.table(("class", "recall", "95 % interval", "found", "images"), rows)
    fewer = f", the {plots.MOST_CLASSES} lowest" if classes > plots.MOST_CLASSES else ""
    return (
        '<h2>Test images by class</h2>\n<div class="plots">'
        + _confusion(evaluation)
        + elements.figure(
            f"Recall{fewer}",
            plots.recall(evaluation),
            "The share of a class's images that are recognized, with its 95 % confidence interval (Wilson).",
            elements.details("The recall of each class as a table, the lowest first", recall),
        )
        + "</div>"
    )


def _confusion(evaluation: Evaluation) -> str:
    """Return the confusion matrix as a picture and a table. For many classes, return only the largest numbers."""
    classes, pairs = len(evaluation.recall), evaluation.pairs()
    if classes <= plots.MOST_CLASSES:
        summary = "The confusion matrix as a table (rows: true class)"
        images = {(true, predicted): count for true, predicted, count in pairs.tolist()}
        each = range(classes)
        rows = ((evaluation.name(i), *(str(images.get((i, j), 0)) for j in each)) for i in each)
        counts = elements.table(("true", *map(evaluation.name, each)), rows)
    else:
        summary = "The most frequent confusions"
        wrong = pairs[pairs[:, 0] != pairs[:, 1]]
        most = wrong[np.lexsort(-wrong.T[[1, 0, 2]])[:MOST_ROWS]]  # sorted by images, then by class, largest first
        counts = elements.table(
            ("true class", "predicted", "images"),
            ((evaluation.name(true), evaluation.name(wrong), str(count)) for true, wrong, count in most.tolist()),
        )
    if classes > MOST_DENSE:
        return f"<div><h3>{summary}</h3>{counts}</div>"
    return elements.figure(
        "Confusion matrix",
        plots.confusion(evaluation),
        "Row: the true class. Column: the predicted class. Blue is right, orange is wrong. Stronger colours mean more "
        "images.",
        elements.details(summary, counts),
    )


def _mistakes(evaluation: Evaluation) -> str:
    if not evaluation.mistakes:
        return ""
    note = "The wrong predictions with the highest probabilities. The numbers count the test images from 0."
    shape = evaluation.image_shape
    if max(shape[:2], default=0) > LONGEST_SIDE:
        note += f" The images have {shape_text(shape[:2])} pixels and are scaled down here."
    if shape[2:] not in ([], [1], [3]):
        note += f" The pictures show the mean of the {shape[2]} channels."
    items = "".join(_mistake(mistake, evaluation) for mistake in evaluation.mistakes)
    return f'<h2>Most confident mistakes</h2>\n<p class="note">{note}</p>\n<ul class="mistakes">{items}</ul>'


def _mistake(mistake: Mistake, evaluation: Evaluation) -> str:
    true, predicted = (html.escape(evaluation.name(label)) for label in (mistake.label, mistake.predicted))
    probability = "&gt; 0.9999" if mistake.probability > 0.9999 else f"{mistake.probability:.4f}"
    picture = f'<img alt="Test image {mistake.index}" src="data:image/png;base64,{html.escape(mistake.png)}">'
    return (
        f"<li>{picture if mistake.png else ''}"
        f"<p>true <b>{true}</b><br>predicted <b>{predicted}</b><br>{probability}<br>"
        f'<span class="note">no. {mistake.index}</span></p></li>'
    )


def _time(seconds: dict[str, float]) -> str:
    ordered = {phase: seconds[phase] for phase in (*PHASES, *seconds) if phase in seconds}
    rows = ((phase.replace("_", " "), f"{ordered[phase]:.2f}", PHASES.get(phase, "")) for phase in ordered)
    table = elements.table(("phase", "seconds", "what"), rows, kind="facts")
    figure = elements.figure("Seconds by phase", plots.phases(ordered))
    return f'<h2>Time</h2>\n<div class="plots">{figure}<div>{table}</div></div>'


def _again(outcome: Outcome) -> str:
    command = shlex.join(sources.command_line(outcome.identity.config))
    return (
        f"<h2>Run it again</h2>\n<pre><code>{html.escape(command)}</code></pre>\n"
        '<p class="note">All other settings have their defaults. If the result of this run is still in its folder, '
        "this command delivers it again and trains nothing; <code>--force</code> trains again.</p>"
    )


def _origin(outcome: Outcome) -> str:
    identity, training = outcome.identity, outcome.training
    facts = {"run": identity.run, "mnist-job": identity.version, **identity.versions}
    if training is not None:
        workers = "not known" if training.workers is None else f"{training.workers}"
        facts["workers"] = workers + ("" if training.restarts is None else f", restarted {training.restarts} times")
    sums = {
        "configuration": identity.config_hash,
        "data, SHA-256": identity.data_sha256,
        "model, SHA-256": outcome.model_sha256,
    }
    facts |= {name: value for name, value in sums.items() if value is not None}
    changed = sources.changed(identity.config)
    settings = (
        (sources.flag(field), "" if value is None else sources.text(value), "given" if field in changed else "default")
        for field, value in identity.config.items()
    )
    return (
        f"<h2>Versions and checksums</h2>\n{elements.table(('what', 'which'), facts.items(), kind='facts')}\n"
        f"<h2>Settings</h2>\n{elements.table(('setting', 'value', 'source'), settings, kind='facts')}"
    )
