"""Run the examples of docs/data.md and docs/models.md as a new user does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import PROGRAM, WAIT_SECONDS
from tests.documents import ROOT, block

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
    ran([sys.executable, "-c", block("own data", DATA)], photographs)
    printed = ran(["sh", "-ec", block("own run", DATA)], photographs)
    assert "images: 10 classes, images of 8x8" in printed
    predicted = ran([sys.executable, "-c", block("predict", MODELS)], photographs).strip("[]\n").split()
    labels = np.load(photographs / "images.npz")["y_test"][:10]
    assert sum(int(guess) == label for guess, label in zip(predicted, labels, strict=True)) >= 7


def test_a_model_of_your_own(tmp_path):
    (tmp_path / "notebook.py").write_text(block("own model", MODELS))
    printed = ran(["sh", "-ec", block("own model run", MODELS)], tmp_path)
    assert float(printed.partition("test accuracy ")[2].partition(",")[0]) > 0.9
