"""The plots of the report, as SVG elements of the page. They use its fonts and its colours, light and dark.

Each plot has the width of a phone, and a text for screen readers that says what it shows.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_job.evaluation.measures import Evaluation, confidence_interval
from mnist_job.training.progress import Epoch

MOST_CLASSES = 20  # up to so many, the confusion matrix has numbers; the recall plot shows at most so many
MOST_POINTS = 400  # the most points of a curve; a longer history is thinned out
MOST_MARKERS = 30

# Placeholders that are replaced by the colour variables of the page's style sheet.
INK, GRID, TRAINING, VALIDATION, TEST = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "ink", GRID: "line", TRAINING: "training", VALIDATION: "validation", TEST: "test"}
# The same colours in light and in dark. They are so transparent that the text on them stays readable.
RIGHT, WRONG, MOST_OPAQUE = (0.15, 0.39, 0.92), (0.92, 0.40, 0.05), 0.6
_styled = mpl.rc_context(
    {
        "svg.fonttype": "none",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "lines.markersize": 5,
    }
)

RowT = TypeVar("RowT")


def thinned(rows: Sequence[RowT], most: int) -> Sequence[RowT]:
    """Return every n-th row, always with the last one, so that at most `most` rows remain."""
    every = max(ceil(len(rows) / most), 1)
    return rows[(len(rows) - 1) % every :: every]


def loss(history: list[Epoch], evaluation: Evaluation | None, kept: int) -> str:
    """Draw the loss by epoch, and the loss on the test data with the weights of the epoch `kept`."""
    training, validation = [row.train_loss for row in history], [row.validation_loss for row in history]
    return _curves("Loss", history, training, validation, evaluation.loss if evaluation else None, kept)


def accuracy(history: list[Epoch], evaluation: Evaluation | None, kept: int) -> str:
    """Draw the accuracy by epoch, and the accuracy on the test data with the weights of the epoch `kept`."""
    training, validation = [row.train_accuracy for row in history], [row.validation_accuracy for row in history]
    return _curves("Accuracy", history, training, validation, evaluation.accuracy if evaluation else None, kept)


@_styled
def learning_rate(history: list[Epoch]) -> str:
    """Draw the learning rate at the start of each epoch."""
    axes = _axes(2.2)
    _by_epoch(axes, history, [row.learning_rate for row in history], "-o", INK)
    axes.set(ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:g}")
    first, last = history[0].learning_rate, history[-1].learning_rate
    return _svg(axes, f"Learning rate by epoch: {first:.3g} in the first, {last:.3g} in the last.")


@_styled
def _curves(
    name: str,
    history: list[Epoch],
    training: Sequence[float | None],
    validation: Sequence[float | None],
    test: float | None,
    kept: int,
) -> str:
    axes = _axes(3)
    words = []
    for which, values, line, colour in (
        ("training", training, "--s", TRAINING),
        ("validation", validation, "-o", VALIDATION),
    ):
        if any(value is not None for value in values):
            ends = [f"{value:.4f}" for value in (values[0], values[-1]) if value is not None]
            words.append(f"{which} {' to '.join(ends) or 'not finite'}")
            _by_epoch(axes, history, values, line, colour, label=which)
    if test is not None:
        words.append(f"test {test:.4f}")
        axes.axhline(test, color=TEST, linewidth=1, linestyle=":")
        axes.plot(kept, test, "D", color=TEST, markersize=8, label="test", zorder=3)
    axes.legend()
    return _svg(axes, f"{name} by epoch: {'; '.join(words)}.")


def _by_epoch(
    axes: Axes, history: list[Epoch], values: Sequence[float | None], line: str, colour: str, **options: Any
) -> None:
    points = thinned([(row.epoch, value) for row, value in zip(history, values, strict=True)], MOST_POINTS)
    shape = line if len(points) <= MOST_MARKERS else line[:-1]
    axes.plot(
        [epoch for epoch, _ in points], [np.nan if y is None else y for _, y in points], shape, color=colour, **options
    )
    axes.set(xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@_styled
def confusion(evaluation: Evaluation) -> str:
    """Draw the confusion matrix, for up to MOST_DENSE classes."""
    classes = len(evaluation.recall)
    true_classes, predicted_classes, images = evaluation.pairs().T
    counts = np.zeros((classes, classes), np.int64)
    counts[true_classes, predicted_classes] = images
    right = np.eye(classes, dtype=bool)
    wrong = np.where(right, 0, counts)
    cells = np.empty((classes, classes, 4))
    cells[..., :3] = np.where(right[..., None], RIGHT, WRONG)
    shares = np.where(right, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), wrong / max(wrong.max(), 1))
    cells[..., 3] = shares * MOST_OPAQUE
    axes = _axes(4.2)
    axes.imshow(cells, interpolation="none")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if classes <= MOST_CLASSES:
        names = [evaluation.name(label) for label in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90 if evaluation.class_names else 0)
        axes.set_yticks(range(classes), names)
        axes.tick_params(length=0)
        for (true, predicted), count in np.ndenumerate(counts):
            if count:
                axes.text(predicted, true, str(count), ha="center", va="center", fontsize=8 if classes <= 12 else 5)
    words = f"Confusion matrix of {classes} classes: {counts[right].sum():,} of {counts.sum():,} images on the diagonal"
    if most := wrong.max():
        true, predicted = (int(label) for label in np.unravel_index(wrong.argmax(), wrong.shape))
        words += f"; most often confused: {evaluation.name(true)}, taken for {evaluation.name(predicted)} {most} times"
    return _svg(axes, f"{words}.")


@_styled
def recall(evaluation: Evaluation) -> str:
    """Draw the recall of each class with its 95 % interval. Of many classes, draw those with the lowest recall."""
    every = sorted((share, label) for label, share in enumerate(evaluation.recall) if share is not None)
    shown = sorted(every[:MOST_CLASSES], key=lambda pair: pair[1])
    axes = _axes(0.8 + 0.34 * len(shown))
    hits, images = evaluation.of_classes()
    for position, (share, label) in enumerate(shown):
        interval = confidence_interval(int(hits[label]), int(images[label]))
        axes.plot(interval, (position, position), "|-", color=TEST, markersize=8)
        axes.plot(share, position, "o", color=TEST, markersize=6)
    axes.set_yticks(range(len(shown)), [evaluation.name(label) for _, label in shown])
    axes.set(xlabel="recall", ylabel="class", ylim=(len(shown) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    (least, worst), (most, best) = every[0], every[-1]
    ends = f"from {least:.4f} (class {evaluation.name(worst)}) to {most:.4f} (class {evaluation.name(best)})"
    return _svg(axes, f"Recall of each class: {ends}.")


@_styled
def phases(seconds: Mapping[str, float]) -> str:
    """Draw the seconds of each phase."""
    axes = _axes(0.6 + 0.28 * len(seconds))
    names = [phase.replace("_", " ") for phase in seconds]
    bars = axes.barh(names, list(seconds.values()), color=TRAINING, height=0.6)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    most, longest = max(zip(seconds.values(), names, strict=True))
    total = sum(seconds.values())
    return _svg(axes, f"Seconds by phase: {total:.1f} in total. The longest phase is {longest}, with {most:.1f}.")


def _axes(height: float) -> Axes:
    """Return axes that are as wide as a phone, and `height` inches high."""
    return Figure(figsize=(4.4, height), layout="constrained").subplots()


def _svg(axes: Axes, alternative: str) -> str:
    """Return the drawing as an element of the page, without the parts that only a separate SVG file needs."""
    figure, content = axes.get_figure(root=True), io.StringIO()
    assert figure is not None
    with mpl.rc_context({"svg.hashsalt": alternative}):  # ids that differ from those of the other plots
        figure.savefig(content, format="svg", transparent=True)
    document = content.getvalue()
    view = re.search(r'viewBox="[^"]*"', document)
    assert view is not None
    drawing = document[document.index("<defs>") :]
    for useless in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        "<!--.*?-->",
        "(?<=\n) +",
        r'(?<=<g) id="[^"]*"',
        "font-family:[^;]*; ",
    ):
        drawing = re.sub(useless, "", drawing, flags=re.DOTALL)
    for placeholder, variable in _VARIABLES.items():
        drawing = drawing.replace(placeholder, f"var(--{variable})")
    drawing = drawing.replace("xlink:href", "href")
    return f'<svg role="img" aria-label="{html.escape(alternative)}" {view[0]}>{drawing}'
