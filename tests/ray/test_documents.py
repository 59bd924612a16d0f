"""Run the examples of docs/data.md and docs/models.md as a new user does."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_iris

from tests.conftest import PROGRAM, WAIT_SECONDS
from tests.documents import ROOT, block
from tests.unit.test_formats import records

DATA, MODELS = ROOT / "docs/data.md", ROOT / "docs/models.md"


def ran(command: list[str], folder: Path) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Create a folder with `images/CLASS/*.png`."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / "images" / f"digit-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_from_a_folder_of_images_to_a_prediction(photographs):
    """The names of the classes are in the outcome, the metrics, the report and the model."""
    printed = ran(["sh", "-ec", block("images", DATA)], photographs)
    assert "images: 10 classes, images of 8x8: 1,149 for training, 288 for validation, 360 for the test" in printed
    results = photographs / "runs/mnist-job"
    names = [f"digit-{number}" for number in range(10)]
    assert json.loads((results / "outcome.json").read_text())["evaluation"]["class_names"] == names
    assert 'class="digit-7"' in (results / "metrics.prom").read_text()
    assert '<th scope="row">digit-7</th>' in (results / "report.html").read_text()
    files = [next((photographs / "images" / name).iterdir()) for name in names]
    predicted = ran([sys.executable, "-c", block("predict", MODELS), *map(str, files)], photographs)
    assert sum(guess == name for guess, name in zip(ast.literal_eval(predicted), names, strict=True)) >= 7
    evaluate = [PROGRAM, "evaluate", "--data", "images", "--test-fraction", "0.2"]
    again = ran([*evaluate, "--model", "runs/mnist-job/model.keras"], photographs)
    assert printed.partition("test accuracy")[2].splitlines()[0] == again.partition("test accuracy")[2].splitlines()[0]


@pytest.mark.parametrize("name", ["arrays", "table", "records"])
def test_the_other_formats_in_a_dry_run(tmp_path, name):
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target
    np.savez(tmp_path / "arrays.npz", a=images[300:], b=labels[300:], c=images[:300], d=labels[:300])
    flowers = load_iris(as_frame=True)
    species = flowers.target_names[flowers.target]
    flowers.data.assign(species=species).to_csv(tmp_path / "flowers.csv", index=False)
    rows = zip(flowers.data.values.tolist(), species, strict=True)
    records(tmp_path / "flowers.tfrecord", [{"size": x[:2], "form": x[2:], "species": name} for x, name in rows])
    printed = ran(["sh", "-ec", f"{block(name, DATA).strip()} --dry-run"], tmp_path)
    expected = {
        "arrays": "arrays: 10 classes, images of 8x8",
        "table": "flowers.csv: 3 classes, ",
        "records": "flowers.tfrecord: 3 classes, ",
    }
    assert expected[name] in printed


@pytest.mark.full
def test_a_model_of_your_own(tmp_path):
    (tmp_path / "notebook.py").write_text(block("own model", MODELS))
    printed = ran(["sh", "-ec", block("own model run", MODELS)], tmp_path)
    assert float(printed.partition("test accuracy ")[2].partition(",")[0]) > 0.9
