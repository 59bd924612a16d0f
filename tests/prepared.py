"""Prepared data sets for tests, written without `mnist-job prepare`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mnist_job.data import shards
from mnist_job.data.arrays import Split
from mnist_job.data.described import EXAMPLES
from mnist_job.data.shards import Form, Manifest, Prepared, Shard


def prepared(folder: Path, parts: Mapping[str, Split], rows: int) -> Prepared:
    """Write the parts as shards of so many rows, the last one of fewer, and open them."""
    written = {}
    for name, part in parts.items():
        (folder / name).mkdir(parents=True)
        written[name] = []
        for start in range(0, len(part), rows):
            some, file = part[start : start + rows], f"{name}/{start:06}.arrow"
            content = shards.written(some)
            (folder / file).write_bytes(content)
            written[name].append(Shard(file, len(some), hashlib.sha256(content).hexdigest()))
    train = parts["train"]
    content = shards.written(train[:EXAMPLES])
    (folder / "examples.arrow").write_bytes(content)
    manifest = Manifest(
        source="test",
        preparation="",
        form=Form.of(train),
        parts={name: tuple(those) for name, those in written.items()},
        examples=Shard("examples.arrow", len(train[:EXAMPLES]), hashlib.sha256(content).hexdigest()),
        of_class={
            name: tuple(np.bincount(part.targets).tolist()) if part.has_classes else () for name, part in parts.items()
        },
        names=None,
        scale=float(np.abs(train.inputs).max()),
        mean=float(train.inputs.mean()),
        deviation=float(train.inputs.std()),
    )
    (folder / shards.MANIFEST).write_text(manifest.to_json())
    return shards.opened(str(folder))
