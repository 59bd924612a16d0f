"""Prepared data sets for tests, written without `mnist-job prepare`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mnist_job.data import manifest, shards
from mnist_job.data.arrays import Split
from mnist_job.data.described import EXAMPLES
from mnist_job.data.manifest import Form, Manifest, Shard
from mnist_job.data.shards import Prepared


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
            written[name].append(Shard.of(file, len(some), content))
    train = parts["train"]
    content = shards.written(train[:EXAMPLES])
    (folder / "examples.arrow").write_bytes(content)
    made = Manifest(
        source="test",
        preparation="",
        form=Form.of(train),
        parts={name: tuple(those) for name, those in written.items()},
        examples=Shard.of("examples.arrow", len(train[:EXAMPLES]), content),
        of_class={
            name: tuple(np.bincount(part.targets).tolist()) if part.has_classes else () for name, part in parts.items()
        },
        names=None,
        scale=float(np.abs(train.inputs).max()),
        mean=float(train.inputs.mean()),
        deviation=float(train.inputs.std()),
    )
    (folder / manifest.FILE).write_text(made.to_json())
    return shards.opened(str(folder))
