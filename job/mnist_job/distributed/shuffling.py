"""Write shards whose rows come from many files, each of which is read once: Ray Data sorts the rows by their shard.

It keeps what does not fit into memory on disk. A node must hold some files and some shards at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import ray.data
from ray.data.context import ShuffleStrategy

from mnist_job.data.fits import shape_text
from mnist_job.data.preparation import InFiles, Planned, Rows
from mnist_job.data.reading import Part
from mnist_job.distributed.writer import Done, Writer, told
from mnist_job.errors import DataError, JobError

NONE = -1  # the shard of a row that is in none, and of a file that cannot be read
Batch = Mapping[str, Any]


def written(part: Part, planned: Planned, numbers: Iterable[int], writer: Writer) -> Iterator[dict[str, str]]:
    """Write these shards of a part. Yield, for each one, its `Done` as JSON, or why it is `refused`."""
    samples = planned.samples
    assert isinstance(samples, InFiles)
    there = ray.put((planned, samples, *_places(planned, samples, numbers)))
    context = ray.data.DataContext.get_current()
    # A hash shuffle would start a process for each of 200 partitions.
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED

    def rows(batch: Batch) -> dict[str, Any]:
        _, samples, shard_of, place_of = ray.get(there)
        return _rows(samples, int(batch["item"][0]), shard_of, place_of)

    def write(group: Batch) -> dict[str, list[str]]:
        return {name: [text] for name, text in told(lambda: _write(group), writer.folder).items()}

    def _write(group: Batch) -> Done:
        number = int(group["shard"][0])
        if number == NONE:
            raise DataError(str(group["refused"][0]))
        planned, samples, _, _ = ray.get(there)
        inputs = np.asarray(group["inputs"])[np.argsort(group["place"])]
        return writer.write(part, number, planned, samples.split(inputs, planned.shard(number)))

    items = ray.data.from_items(list(range(len(samples.counts))), override_num_blocks=len(samples.counts))
    yield from (
        items.map_batches(rows, batch_size=1).groupby("shard").map_groups(write, batch_format="numpy").iter_rows()
    )


def _places(planned: Planned, samples: InFiles, numbers: Iterable[int]) -> tuple[Rows, Rows]:
    """Return the shard of each row of the files, and its place there."""
    shard_of = np.full(sum(samples.counts), NONE)
    place_of = np.zeros_like(shard_of)
    for number in numbers:
        rows = planned.shard(number)
        shard_of[rows] = number
        place_of[rows] = np.arange(len(rows))
    return shard_of, place_of


def _rows(samples: InFiles, number: int, shard_of: Rows, place_of: Rows) -> dict[str, Any]:
    """Return the rows of a file that are in a shard or, if it cannot be read, one row that says why."""
    form = samples.form
    first = sum(samples.counts[:number])
    mine = shard_of[first : first + samples.counts[number]]
    chosen = np.flatnonzero(mine != NONE)
    path = samples.table.paths[number]
    try:
        inputs = samples.table.file(number)
        if (inputs.shape[1:], inputs.dtype.str) != (form.shape, form.dtype):
            raise DataError(
                f"{path}: has rows of {shape_text(inputs.shape[1:])} {inputs.dtype}, but {samples.table.paths[0]} has "
                f"rows of {shape_text(form.shape)} {np.dtype(form.dtype)}; write them with the same columns and types"
            )
        if len(inputs) != len(mine):
            raise DataError(f"{path}: has changed since its targets were read; prepare the data set again")
    except JobError as error:
        nothing = np.zeros((1, *form.shape), form.dtype)
        return {"shard": [NONE], "place": [0], "refused": [str(error)], "inputs": nothing}
    places = place_of[first : first + len(mine)]
    refused = [""] * len(chosen)
    return {"shard": mine[chosen], "place": places[chosen], "refused": refused, "inputs": inputs[chosen]}
