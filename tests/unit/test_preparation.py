"""Test which samples `prepare` writes into which shard, and what it does with files that are there already."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pyarrow import fs

from mnist_job.config.settings import PrepareConfig
from mnist_job.data import manifest, preparation, shards, sources
from mnist_job.data.arrays import Split
from mnist_job.data.preparation import Plan
from mnist_job.data.reading import Reading
from mnist_job.distributed import shuffling
from mnist_job.distributed.writer import Done, Sums, Writer
from mnist_job.errors import DataError, UsageError
from mnist_job.log import Log
from mnist_job.pipeline.prepare import prepare
from tests.prepared import prepared
from tests.unit.test_formats import CLASSES, FORMATS, PARTS, by_class, png, save_images


def planned(place: Path | str, **settings) -> Plan:
    config = PrepareConfig(data=str(place), destination="unused", **{"shard_megabytes": 100e-6} | settings)
    return preparation.plan(config, sources.read(config.data, None, Reading.of(config)))


def written(plan: Plan, folder: Path) -> list[Done]:
    """Write all shards in this process."""
    writer = Writer(fs.LocalFileSystem(), str(folder), plan.preparation)
    return [writer.write(part, number, one) for part, one in plan.parts.items() for number in range(one.shards)]


def samples(plan: Plan, part) -> Split:
    one = plan.parts[part]
    return shards.joined([one.samples.read(one.shard(number)) for number in range(one.shards)])


@pytest.mark.parametrize("name", FORMATS)
def test_each_part_has_its_samples_once(tmp_path, name):
    save, settings = FORMATS[name]
    plan = planned(save(tmp_path), **settings)
    assert plan.names == (CLASSES if name == "images" else None)
    for part, pair in PARTS.items():
        assert by_class(samples(plan, part)) == by_class(Split(*pair))
    assert plan.parts["train"].per_shard == 5  # of 20 bytes
    assert plan.parts["train"].rows.tolist() != sorted(plan.parts["train"].rows.tolist())
    assert plan.parts["test"].rows.tolist() == sorted(plan.parts["test"].rows.tolist())


def test_parts_that_are_not_there_are_split_off_by_class(tmp_path):
    save_images(tmp_path)
    plan = planned(tmp_path / "train", test_fraction=0.2, validation_fraction=0.25)
    parts = {part: samples(plan, part) for part in ("train", "val", "test")}
    assert {part: np.bincount(split.targets).tolist() for part, split in parts.items()} == {
        "train": [6, 6, 6],
        "val": [2, 2, 2],
        "test": [2, 2, 2],
    }
    assert sorted(row for split in parts.values() for row in by_class(split)) == by_class(Split(*PARTS["train"]))


def test_a_shard_that_is_there_is_not_written_again(tmp_path):
    plan = planned(save_images(tmp_path / "images"))
    first = written(plan, tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.arrow"))
    files[3].unlink()
    before = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    assert written(plan, tmp_path / "out") == first
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert files[3].exists()


@pytest.mark.parametrize("content", [b"mine", shards.written(Split(*PARTS["test"]))], ids=["any", "a shard"])
def test_a_file_of_anything_else_stays(tmp_path, content):
    plan = planned(save_images(tmp_path / "images"))
    file = tmp_path / "out/val/000000.arrow"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"val/000000\.arrow: is not a shard of this data set; choose another destination"
    ):
        written(plan, tmp_path / "out")
    assert file.read_bytes() == content


def test_what_was_prepared_has_another_hash_if_anything_changes(tmp_path):
    folder = save_images(tmp_path)
    first = planned(folder).preparation
    assert planned(folder).preparation == first
    hashes = {first, planned(folder, shard_megabytes=200e-6).preparation, planned(folder, image_size="2x2").preparation}
    file = next(folder.glob("train/cat/*"))
    file.write_bytes(png(np.zeros((4, 5), np.uint8)))
    hashes.add(planned(folder).preparation)
    file.unlink()
    hashes.add(planned(folder).preparation)
    assert len(hashes) == 5


def test_what_is_prepared_already_is_left_alone(tmp_path, capsys):
    images = save_images(tmp_path / "images")
    there = prepared(tmp_path / "shards", {name: Split(*pair) for name, pair in PARTS.items()}, 5)
    file = tmp_path / "shards" / manifest.FILE
    file.write_text(replace(there.manifest, preparation=planned(images, shard_megabytes=8).preparation).to_json())
    before = {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")}
    prepare(PrepareConfig(data=str(images), destination=str(file.parent)), Log())
    assert f"{file.parent} is this data set, prepared already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")} == before


def test_a_destination_with_anything_else_is_left_alone(tmp_path):
    images = save_images(tmp_path / "images")
    prepared(tmp_path / "shards", {name: Split(*pair) for name, pair in PARTS.items()}, 5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for data, place, sentence in (
        (images, "shards", "holds another prepared data set; choose another destination"),
        (images, "mine", "holds notes.txt, which is not of a prepared data set; give a new folder"),
        (tmp_path / "shards", "again", "is a prepared data set already; train on it"),
    ):
        with pytest.raises(UsageError, match=sentence):
            prepare(PrepareConfig(data=str(data), destination=str(tmp_path / place)), Log())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_whose_rows_look_different_is_named(tmp_path):
    for number, kind in enumerate((pa.uint8(), pa.float32())):
        rows = pa.table({"a": pa.array(range(8), kind), "label": [0, 1] * 4})
        pyarrow.parquet.write_table(rows, tmp_path / f"train-{number}.parquet")
    pyarrow.parquet.write_table(rows, tmp_path / "test-0.parquet")
    samples = planned(tmp_path).parts["train"].samples
    assert isinstance(samples, preparation.InFiles)
    none = np.full(16, shuffling.NONE)
    assert shuffling._rows(samples, 0, none, none)["refused"] == []
    (told,) = shuffling._rows(samples, 1, none, none)["refused"]
    assert re.search(
        r"train-1\.parquet: has rows of 1 float32, but .*train-0\.parquet has rows of 1 uint8; write them", told
    )


def test_sums_are_those_of_the_numbers():
    images, labels = PARTS["train"]
    found, numbers = Sums.of(Split(images, labels)), images.astype(float)
    assert found.of_class == (10, 10, 10)
    assert (found.numbers, found.largest, found.total) == (numbers.size, numbers.max(), numbers.sum())
    assert found.squares == pytest.approx((numbers**2).sum())


def test_a_split_beside_a_validation_part_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--validation-fraction 0\.3: .* has its own validation part"):
        planned(save_images(tmp_path), validation_fraction=0.3)
