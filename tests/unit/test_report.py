"""Test the report: it shows all of a run on one page that needs no other files, for all kinds of runs."""

import json
import re
import shlex
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_job.cli import main
from mnist_job.config import sources
from mnist_job.config.settings import EvaluateConfig, JobConfig
from mnist_job.data.arrays import Split
from mnist_job.evaluation.measures import Answers, Evaluation, measure, most_confident
from mnist_job.phases import PHASES
from mnist_job.pipeline import job
from mnist_job.report import page as report
from mnist_job.report import plots
from mnist_job.results import metrics
from mnist_job.results.outcome import Identity, Outcome, TrainingRecord
from mnist_job.training.progress import Epoch
from tests.unit.test_metrics import failed, outcome

VOID = {"meta", "img", "br"}
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Parses a page. An element that is closed at the wrong place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.words, self._open = text, [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def plots(self) -> list[str]:
        """Return the description of each plot."""
        return [svg["aria-label"] for svg in self.all("svg") if svg["role"] == "img"]


def history(epochs: int) -> list[Epoch]:
    return [
        Epoch(n, 1 / n, 2 / n, 1 - 0.5 / n, 1e-3 / n, 0.25, train_accuracy=1 - 0.4 / n) for n in range(1, epochs + 1)
    ]


def evaluation(classes: int = 4, images: int = 300, shape: tuple[int, ...] = (8, 8)) -> Evaluation:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes), images).astype(np.float32)
    labels = np.where(random.random(images) < 0.5, probabilities.argmax(axis=1), random.integers(0, classes, images))
    pixels = random.integers(0, 256, (images, *shape), dtype=np.uint8)
    answers = Answers.collected([probabilities], labels, "y_test")
    mistakes = most_confident(answers, labels, Split(pixels, labels), (float(pixels.min()), float(pixels.max())))
    return replace(measure(answers, labels), image_shape=list(shape), mistakes=mistakes)


def whole(**changes) -> Outcome:
    identity = replace(Identity.of(JobConfig(data="digits", epochs=3)), data_sha256="da7a" * 16)
    return outcome(
        **{
            "identity": identity,
            "training": TrainingRecord(2, 1, 5.0, history(3)),
            "evaluation": evaluation(),
            "model_sha256": "50de" * 16,
            "phases": dict.fromkeys(PHASES, 1.5),
        }
        | changes
    )


def test_everything_that_is_known_of_a_run_is_in_it():
    ended = whole()
    page = Page(report.render(ended))
    words, measured = " ".join(page.words), ended.evaluation
    assert [f"{measured.accuracy:.4f}" in words, f"{measured.loss:.4f}" in words] == [True, True]
    first, last = ended.training.history[0], ended.training.history[-1]
    loss, accuracy, rate, confusion, recall, time = page.plots()
    for value in (first.train_loss, last.train_loss, first.validation_loss, last.validation_loss, measured.loss):
        assert f"{value:.4f}" in loss
    for value in (first.train_accuracy, last.train_accuracy, last.validation_accuracy, measured.accuracy):
        assert f"{value:.4f}" in accuracy
    assert [f"{row.learning_rate:.3g}" in rate for row in (first, last)] == [True, True]
    assert "4 classes" in confusion
    assert f"{min(measured.recall):.4f}" in recall
    assert f"{sum(ended.phases.values()):.1f} in total" in time
    for row in measured.confusion:
        assert all(str(count) in page.words for count in row)
    for text in (*PHASES.values(), *ended.identity.versions, *ended.identity.versions.values()):
        assert text in page.words
    for text in (ended.identity.run, ended.identity.config_hash, ended.identity.data_sha256, ended.model_sha256):
        assert text in page.words
    for field in ended.identity.config:
        assert sources.flag(field) in page.words
    assert {"Python", "TensorFlow", "Keras", "Ray"} == ended.identity.versions.keys()


def test_it_says_why_training_ended_and_which_epoch_was_kept():
    best = whole(training=TrainingRecord(2, 1, 5.0, history(3), 2, "validation_loss has not improved for 1 epoch"))
    words = " ".join(Page(report.render(best)).words)
    assert "Training ended after epoch 3: validation_loss has not improved for 1 epoch." in words
    assert "the test once, with the weights of epoch 2, which is the best one." in words
    assert "with the weights of the last epoch" in " ".join(Page(report.render(whole())).words)


def test_it_shows_the_most_confident_mistakes():
    page = Page(report.render(whole()))
    mistakes = whole().evaluation.mistakes
    assert [image["src"].removeprefix("data:image/png;base64,") for image in page.all("img")] == [
        m.png for m in mistakes
    ]
    assert [image["alt"] for image in page.all("img")] == [f"Test image {m.index}" for m in mistakes]
    assert len(mistakes) == 25


@pytest.mark.parametrize(
    ("shape", "note"),
    [
        ((8, 8), None),
        ((8, 8, 3), None),
        ((8, 8, 4), "the mean of the 4 channels"),
        ((200, 100, 3), "have 200x100 pixels and are scaled down"),
    ],
)
def test_it_says_where_an_image_is_not_shown_as_it_is(shape, note):
    text = report.render(whole(evaluation=evaluation(shape=shape)))
    assert [words in text for words in ("scaled down", "the mean of the")] == [
        words in (note or "") for words in ("scaled down", "the mean of the")
    ]
    assert note is None or note in text


NOTHING: dict = {"train_loss": None, "validation_loss": None, "train_metrics": {"auc": None}}
RUNS = {
    "whole": whole(),
    "without training": whole(training=None),
    "failed": failed(),
    "without evaluation": whole(evaluation=None, model_sha256=None, exit_code=6, reason="broken"),
    "below the wanted accuracy": whole(exit_code=7, reason="too poor"),
    "one epoch, no mistake": whole(
        training=TrainingRecord(1, 0, 1.0, history(1)),
        evaluation=Evaluation(2, 0.0, 1.0, [1.0, None], [[2, 0], [0, 0]]),
    ),
    "no loss is finite": whole(training=TrainingRecord(1, 0, 1.0, [replace(row, **NOTHING) for row in history(3)])),
    "the last loss is not finite": whole(
        training=TrainingRecord(
            1,
            0,
            1.0,
            [*(replace(row, train_metrics={"auc": 0.5}) for row in history(2)), replace(history(3)[-1], **NOTHING)],
        )
    ),
    "before there were mistakes": whole(
        training=TrainingRecord(1, 0, 1.0, [replace(row, train_accuracy=None) for row in history(3)]),
        evaluation=replace(evaluation(), mistakes=[], image_shape=[]),
        phases={},
    ),
    "many classes": whole(evaluation=evaluation(classes=150, images=3000, shape=(64, 64, 3))),
    "very many classes": whole(evaluation=evaluation(classes=2000, images=3000)),
    "many classes, of before": whole(
        evaluation=replace(
            evaluation(classes=101, images=500),
            confusion=[[int(i == j) for i in range(101)] for j in range(101)],
            confusion_pairs=[],
        )
    ),
    "many epochs": whole(training=TrainingRecord(1, 0, 1.0, history(5000))),
    "the best epoch": whole(training=TrainingRecord(1, 0, 1.0, history(5), 2, SCRIPT)),
    "an evaluation": whole(training=None, identity=Identity.of(EvaluateConfig(data="digits", model="m.keras"))),
}


@pytest.fixture(params=RUNS)
def page(request) -> Page:
    return Page(report.render(RUNS[request.param]))


def test_it_needs_nothing_else(page):
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    references = [
        v for _, attributes in page.elements for k, v in attributes.items() if k in ("src", "href", "xlink:href")
    ]
    assert [v for v in references if not v.startswith(("data:image/png;base64,", "#"))] == []
    assert re.findall(r"@import|url\((?!#)|https?://", page.text) == []
    assert len(page.text) < 500_000


def test_it_can_be_read_without_seeing_it(page):
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert levels.count(1) == 1
    assert all(page.plots())
    assert len(page.plots()) == len(page.all("svg"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(heading["scope"] in ("row", "col") for heading in page.all("th"))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    used = re.findall(r"url\(#([^)]*)\)", page.text) + [use["href"][1:] for use in page.all("use")]
    assert set(used) <= set(names)


def test_plots_have_the_page_s_colours_and_text(page):
    assert [placeholder for placeholder in plots._VARIABLES if placeholder in page.text] == []
    variables = set(re.findall(r"var\(--(\w+)\)", page.text))
    assert variables <= set(re.findall(r"--(\w+):", page.text))


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast by the formula of WCAG 2."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: tuple[float, ...], page: str) -> str:
    """Return what a cell of the confusion matrix shows if its colour is strongest."""
    below = (int(page[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#" + "".join(
        f"{round(255 * (plots.MOST_OPAQUE * a + (1 - plots.MOST_OPAQUE) * b)):02x}"
        for a, b in zip(colour, below, strict=True)
    )


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_its_colours_have_the_contrast_of_wcag_aa(theme):
    text = report.render(failed())
    colours = dict(re.findall(r"--(\w+): (#\w{6})", text.split(":root {")[1 + theme].split("}")[0]))
    assert set(colours) == {"ink", "muted", "page", "raised", "line", "good", "bad", "training", "validation", "test"}
    for background in (colours["page"], colours["raised"]):
        for name in ("ink", "muted", "good", "bad", "training", "validation", "test"):
            assert contrast(colours[name], background) >= 4.5, name
    for cell in (plots.RIGHT, plots.WRONG):
        assert contrast(colours["ink"], mixed(cell, colours["page"])) >= 4.5


def test_text_from_outside_is_escaped():
    config = JobConfig(data=f"{SCRIPT}.npz", output=f"{SCRIPT}<svg onload=x>\"'", epochs=3)
    identity = Identity.of(config)
    identity = replace(identity, version=SCRIPT, versions={SCRIPT: SCRIPT}, data_sha256=SCRIPT)
    measured = evaluation()
    measured = replace(measured, mistakes=[replace(measured.mistakes[0], png=f'"{SCRIPT}')])
    ended = whole(
        identity=identity, exit_code=7, reason=SCRIPT, evaluation=measured, model_sha256=SCRIPT, phases={SCRIPT: 1.0}
    )
    page = Page(report.render(ended))
    assert page.all("script") == []
    assert [attributes for _, attributes in page.elements if "onload" in attributes] == []
    assert " ".join(page.words).count(SCRIPT) >= 7


def test_it_is_the_same_again_from_the_outcome_s_file():
    ended = whole()
    assert report.render(Outcome.from_json(ended.to_json().encode())) == report.render(ended)


# --- how to run it again ----------------------------------------------------------------------------------------------


def parsed(words: list[str], monkeypatch) -> JobConfig | EvaluateConfig:
    """Return the settings that the program would use."""
    taken = []
    with monkeypatch.context() as patch:
        for name in ("run", "evaluate"):
            patch.setattr(job, name, lambda config, *_, **__: taken.append(config))
        assert main.main(words[1:]) == 0
    return taken[0]


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["nightly", "a.b-c"]),
        "data": st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
        "output": st.sampled_from(["-out", "a b", "s3://bucket/x", "'\"$HOME"]),
        "workers": st.sampled_from(["3", "1:4", 2]),
        "batch_size": st.integers(4, 4096),
        "learning_rate": st.floats(1e-12, 1),
        "learning_rate_schedule": st.sampled_from(["cosine", "constant"]),
        "hidden_layers": st.lists(st.integers(1, 999), max_size=3).map(tuple),
        "validation_fraction": st.none() | st.floats(0.21, 0.99),
        "validation_split": st.none() | st.just("tail"),
        "min_accuracy": st.none() | st.floats(0, 1),
        "min_recall": st.none() | st.floats(0, 1),
        "use_gpu": st.booleans(),
        "verbose": st.booleans(),
        "timeout": st.none() | st.integers(1, 999),
        "patience": st.none() | st.integers(1, 99),
        "keep": st.sampled_from(["last", "best"]),
        "monitor": st.sampled_from(["validation_loss", "train_auc:max"]),
    },
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(given_settings=SETTINGS)
def test_the_command_gives_the_same_settings_again(given_settings):
    config = JobConfig(**given_settings)
    words = sources.command_line(config.model_dump(mode="json"))
    with pytest.MonkeyPatch.context() as patch:
        assert parsed(shlex.split(shlex.join(words)), patch) == config


def test_the_command_of_an_evaluation_is_its_own(monkeypatch):
    config = EvaluateConfig(model="-m.keras", data="digits", evaluate_on_gpu=True)
    words = sources.command_line(config.model_dump(mode="json"))
    assert words == ["mnist-job", "evaluate", "--data", "digits", "--evaluate-on-gpu", "--model=-m.keras"]
    assert parsed(words, monkeypatch) == config


def test_the_command_is_on_the_page_and_holds_what_differs_from_the_defaults():
    assert "mnist-job run --data digits --epochs 3" in Page(report.render(whole())).words
    assert "mnist-job run" in Page(report.render(whole(identity=Identity.of(JobConfig())))).words


def test_more_classes_than_a_picture_can_show_are_told_by_their_most_frequent_confusions():
    measured = evaluation(classes=101, images=5000)
    page = Page(report.render(whole(evaluation=measured)))
    assert [plot for plot in page.plots() if plot.startswith("Confusion matrix")] == []
    assert "The most frequent confusions" in page.words
    wrong = [(images, true, predicted) for true, predicted, images in measured.confusion_pairs if true != predicted]
    first, last = sorted(wrong, reverse=True)[0], sorted(wrong, reverse=True)[report.MOST_ROWS - 1]
    for images, true, predicted in (first, last):
        assert f"{true}</th><td>{predicted}</td><td>{images}</td>" in page.text


def test_the_command_of_a_run_of_before_says_how_its_validation_part_was_taken():
    config = JobConfig(data="digits", validation_fraction=0.2).model_dump(mode="json")
    del config["validation_split"]
    assert sources.command_line(config) == ["mnist-job", "run", "--data", "digits", "--validation-split", "tail"]


def test_the_command_leaves_out_what_was_settled_as_the_defaults_say():
    config = JobConfig(data="digits", validation_fraction=0.2, validation_split="stratified")
    assert sources.command_line(config.model_dump(mode="json")) == ["mnist-job", "run", "--data", "digits"]


def test_a_history_is_thinned_to_its_last_row():
    assert list(plots.thinned(range(1, 11), 100)) == list(range(1, 11))
    assert list(plots.thinned(range(1, 11), 4)) == [1, 4, 7, 10]
    assert len(plots.thinned(range(12345), 100)) <= 100
    assert plots.thinned(range(12345), 100)[-1] == 12344


def test_an_outcome_of_before_is_read():
    content = asdict(whole())
    del content["evaluation"]["mistakes"], content["evaluation"]["image_shape"], content["identity"]["versions"]
    del content["evaluation"]["confusion_pairs"]
    for row in content["training"]["history"]:
        del row["train_accuracy"], row["stopped_by"]
    del content["training"]["kept_epoch"], content["training"]["ended"]
    former = Outcome.from_json(json.dumps(content).encode())
    assert former.evaluation.mistakes == []
    assert former.training.history[0].train_accuracy is None
    assert former.training.kept == former.training.history[-1]
    assert Page(report.render(former)).all("img") == []


def test_missing_figures_of_the_training_are_not_invented():
    words = " ".join(Page(report.render(whole(training=TrainingRecord(None, None, None, history(3))))).words)
    assert "workers not known" in words
    assert "restarted" not in words


def test_a_value_that_is_not_finite_is_absent_everywhere():
    ended = RUNS["the last loss is not finite"]
    loss = Page(report.render(ended)).plots()[0]
    assert "training 1.0000; validation 2.0000; test" in loss
    assert Page(report.render(RUNS["no loss is finite"])).plots()[0].startswith("Loss by epoch: test ")
    first, second, _ = history(3)
    between = whole(training=TrainingRecord(1, 0, 1.0, [replace(first, **NOTHING), second, replace(first, **NOTHING)]))
    assert "training not finite; validation not finite; test" in Page(report.render(between)).plots()[0]
    written = json.loads(ended.to_json())["training"]["history"][-1]
    assert (written["train_loss"], written["train_metrics"]) == (None, {"auc": None})
    assert Outcome.from_json(ended.to_json().encode()) == ended
    assert ended.training.history[-1].measured("train") == {"accuracy": ended.training.history[-1].train_accuracy}
    assert "mnist_job_train_loss" not in metrics.text(ended)
    assert "mnist_job_validation_loss" not in metrics.text(ended)
    assert "nan" not in ended.history_csv().lower()
