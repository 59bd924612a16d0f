"""Test `mnist-job prepare` by Ray Data, and a run on what it has written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from sklearn.datasets import load_digits

from mnist_job.config.settings import PrepareConfig
from mnist_job.data import preparation, sources
from mnist_job.data.reading import Reading
from mnist_job.data.shards import opened
from tests.conftest import PAIR, job

PREPARE = ("prepare", "--data", "images", "--test-fraction", "0.2", "--destination", "shards")
TABLES = ("prepare", "--data", "tables", "--image-size", "8x8", "--destination", "shards")
SMALL = ("--shard-megabytes", "0.01")


def test_images_are_prepared_once_and_trained_on(tmp_path):
    """An interrupted preparation goes on."""
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

    result = job("run", "--data", "shards", "--epochs", "5", "--workers", "3", "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "has too few shards for more than 2; prepare it with a smaller --shard-megabytes" in result.stderr
    result = job("run", "--data", "shards", "--epochs", "5", *PAIR, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    outcome = json.loads((tmp_path / "runs/mnist-job/outcome.json").read_text())
    assert outcome["evaluation"]["accuracy"] > 0.85
    assert outcome["evaluation"]["class_names"][3] == "digit-3"


def test_tables_are_read_a_file_at_a_time_and_their_rows_are_shuffled(tmp_path):
    """The shards are those of the same rows in memory. An interrupted preparation goes on, and a bad file is named."""
    digits = load_digits()
    rows = pa.table({f"pixel{n}": values for n, values in enumerate(digits.data.T)} | {"label": digits.target})
    for part, first, last, files in (("train", 0, 1437, 5), ("test", 1437, 1797, 2)):
        for number, chosen in enumerate(np.array_split(np.arange(first, last), files)):
            file = tmp_path / f"tables/{part}-{number}.parquet"
            file.parent.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(rows.take(chosen), file)
    result = job(*TABLES, *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert "shards (1,149 train, 360 test, 288 val)" in result.stdout
    shards = sorted((tmp_path / "shards").rglob("*.arrow"))
    manifest = (tmp_path / "shards/manifest.json").read_bytes()
    config = PrepareConfig(data=str(tmp_path / "tables"), image_size="8x8", destination="unused", shard_megabytes=0.01)
    plan = preparation.plan(config, sources.read(config.data, None, Reading.of(config)))
    there = opened(str(tmp_path / "shards"))
    for part, planned in plan.parts.items():
        for number, shard in enumerate(there.manifest.parts[part]):
            ours, expected = there.read(shard), planned.samples.read(planned.shard(number))
            np.testing.assert_array_equal(ours.inputs, expected.inputs)
            np.testing.assert_array_equal(ours.targets, expected.targets)

    (tmp_path / "shards/manifest.json").unlink()  # as if it had been killed
    for shard in shards[3:6]:
        shard.unlink()
    result = job(*TABLES, *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert (tmp_path / "shards/manifest.json").read_bytes() == manifest

    halves = rows.take(np.arange(1150, 1437)).set_column(0, "pixel0", pa.array(np.full(287, 0.5)))
    pyarrow.parquet.write_table(halves, tmp_path / "tables/train-4.parquet")
    result = job(*TABLES[:-1], "others", *SMALL, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (3, 1), result.stderr
    assert "train-4.parquet: holds numbers that are no pixels" in result.stderr
