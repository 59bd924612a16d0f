"""`report.html`: a run on one page, with its plots inside. Made for a person; programs read `outcome.json`."""

import base64
import html
import io
from datetime import UTC, datetime

from matplotlib.figure import Figure

from job.data import shape_text
from job.evaluation import Evaluation
from job.journal import Epoch
from job.outcome import Outcome

CLASSES_WITH_NUMBERS = 20  # a larger confusion matrix is drawn without a number in each cell

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }}
  img {{ max-width: 100%; height: auto }}
  table {{ border-collapse: collapse; margin: 1rem 0 }}
  th, td {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }}
  .figures {{ display: flex; gap: 3rem; flex-wrap: wrap }} .figures b {{ display: block; font-size: 2rem }}
  .failed {{ color: #a40000 }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def render(outcome: Outcome) -> str:
    """The page. An Outcome without training or evaluation has the parts that it has."""
    parts = []
    if not outcome.succeeded:
        parts.append(
            f'<p class="failed">Failed with exit code {outcome.exit_code}: {html.escape(outcome.reason or "")}'
        )
    if (evaluation := outcome.evaluation) is not None:
        parts.append(
            '<div class="figures">'
            f"<div><b>{evaluation.accuracy:.4f}</b>test accuracy</div>"
            f"<div><b>{evaluation.loss:.4f}</b>test loss</div>"
            f"<div><b>{evaluation.samples:,}</b>test images</div></div>"
        )
    if outcome.training is not None:
        parts.append("<h2>Training</h2>" + _image(_curves(outcome.training.history), "loss and accuracy by epoch"))
    if evaluation is not None:
        parts.append("<h2>Test images by class</h2>" + _image(_confusion(evaluation), "confusion matrix"))
    parts.append("<h2>Run</h2>" + _table(_facts(outcome)))
    parts.append("<h2>Settings</h2>" + _table({key: str(value) for key, value in outcome.identity.config.items()}))
    title = f"{outcome.identity.name}: {outcome.identity.dataset}"
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _facts(outcome: Outcome) -> dict[str, str]:
    identity, training = outcome.identity, outcome.training
    facts = {
        "run": identity.run,
        "ended": f"{datetime.fromtimestamp(outcome.finished, UTC):%Y-%m-%d %H:%M:%S} UTC",
        "duration": f"{outcome.finished - identity.started:.1f} s",
        "mnist-job": identity.version,
        "configuration": identity.config_hash,
        "model's SHA-256": outcome.model_sha256 or "none",
    }
    if training is not None:
        facts["workers"] = f"{training.workers}, started again {training.restarts} times"
    return facts


def _table(rows: dict[str, str]) -> str:
    return "<table>" + "".join(f"<tr><th>{html.escape(k)}<td>{html.escape(v)}" for k, v in rows.items()) + "</table>"


def _curves(history: list[Epoch]) -> Figure:
    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row.train_loss for row in history], marker="o", label="training")
    loss.plot(epochs, [row.validation_loss for row in history], marker="o", label="validation")
    loss.set(xlabel="epoch", ylabel="loss")
    loss.legend()
    accuracy.plot(epochs, [row.validation_accuracy for row in history], marker="o", color="C1", label="validation")
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _confusion(evaluation: Evaluation) -> Figure:
    counts = evaluation.confusion
    classes = len(counts)
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    matrix, recall = figure.subplots(1, 2)
    matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    matrix.set(xlabel="predicted class", ylabel="true class", title=f"confusion, {shape_text((classes, classes))}")
    if classes <= CLASSES_WITH_NUMBERS:
        matrix.set_xticks(range(classes))
        matrix.set_yticks(range(classes))
        for true, row in enumerate(counts):
            for predicted, count in enumerate(row):
                if count:
                    dark = shares[true][predicted] > 0.5
                    matrix.text(
                        predicted, true, count, ha="center", va="center", fontsize=7, color="w" if dark else "k"
                    )
    recall.bar(range(classes), [value or 0 for value in evaluation.recall])
    recall.set(xlabel="class", ylabel="recall", ylim=(0, 1), title="share of a class's images found")
    recall.xaxis.get_major_locator().set_params(integer=True)
    recall.grid(axis="y", alpha=0.3)
    return figure


def _image(figure: Figure, alternative: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f'<img alt="{alternative}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
