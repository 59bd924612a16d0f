"""Write the shards of a prepared data set, by Ray Data: each in a task, which reads its samples, on any node."""

import logging
from collections.abc import Iterator
from typing import Any

import ray.data
from pydantic import TypeAdapter

from mnist_job.data.preparation import InFiles, Plan
from mnist_job.data.reading import Part
from mnist_job.distributed import shuffling
from mnist_job.distributed.writer import Done, Writer, named, told
from mnist_job.errors import DataError


def written(plan: Plan, writer: Writer, *, verbose: bool) -> Iterator[Done]:
    """Write all shards, and yield each one when it is there, in any order. Raises DataError."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    for row in _rows(plan, writer):
        if row["refused"]:
            raise DataError(row["refused"])
        yield TypeAdapter(Done).validate_json(row["done"])


def _rows(plan: Plan, writer: Writer) -> Iterator[dict[str, str]]:
    """Write all shards. Yield, for each one, its `Done` as JSON, or why it is `refused`."""
    there = {part: ray.put(planned) for part, planned in plan.parts.items()}
    tasks: list[dict[str, Any]] = []
    in_files: list[tuple[Part, set[int]]] = []
    for part, planned in plan.parts.items():
        numbers, new = set(range(planned.shards)), set[int]()
        if isinstance(planned.samples, InFiles):
            before = writer.there(part)
            new = {number for number in numbers if named(part, number) not in before}
            in_files += [(part, new)] if new else []
        tasks += [{"part": part, "number": number} for number in sorted(numbers - new)]

    def write(task: dict[str, Any]) -> dict[str, str]:
        part, number = task["part"], int(task["number"])
        return told(lambda: writer.write(part, number, ray.get(there[part])), writer.folder)

    if tasks:
        yield from ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(write).iter_rows()
    for part, numbers in in_files:
        yield from shuffling.written(part, plan.parts[part], numbers, writer)
