"""Test `mnist-job prepare` by Ray Data, and a run on what it has written."""

import json

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import PAIR, job

PREPARE = ("prepare", "--data", "images", "--test-fraction", "0.2", "--destination", "shards")
SMALL = ("--shard-megabytes", "0.01")


def test_images_are_prepared_once_and_trained_on(tmp_path):
    """An interrupted preparation goes on, and another data set is not written into the same folder."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = tmp_path / f"images/digit-{label}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(file)
    result = job(*PREPARE, *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert "shards (1,149 train, 360 test, 288 val)" in result.stdout
    shards = sorted((tmp_path / "shards").rglob("*.arrow"))
    assert len(shards) == 1 + 8 + 3 + 2
    manifest = (tmp_path / "shards/manifest.json").read_bytes()

    (tmp_path / "shards/manifest.json").unlink()  # as if it had been killed
    shards[-1].unlink()
    before = {file: file.stat().st_mtime_ns for file in shards[1:-1]}
    result = job(*PREPARE, *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert (tmp_path / "shards/manifest.json").read_bytes() == manifest
    assert {file: file.stat().st_mtime_ns for file in before} == before
    result = job(*PREPARE, *SMALL, cwd=tmp_path)
    assert "prepared already" in result.stdout
    result = job(*PREPARE, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "holds another prepared data set; choose another destination" in result.stderr

    result = job("run", "--data", "shards", "--epochs", "5", "--workers", "3", "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "has too few shards for more than 2; prepare it with a smaller --shard-megabytes" in result.stderr
    result = job("run", "--data", "shards", "--epochs", "5", *PAIR, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    outcome = json.loads((tmp_path / "runs/mnist-job/outcome.json").read_text())
    assert outcome["evaluation"]["accuracy"] > 0.85
    assert outcome["evaluation"]["class_names"][3] == "digit-3"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    result = job(*PREPARE[:-1], "mine", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "holds notes.txt, which is not of a prepared data set; give a new folder" in result.stderr
