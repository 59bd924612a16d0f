"""The command `prepare`: a data set as shards that are read while a model trains, larger than a machine's memory."""

import math
from collections.abc import Iterator, Sequence

from pyarrow import fs

from mnist_job.config.settings import PrepareConfig
from mnist_job.data import manifest, preparation, shards, sources
from mnist_job.data.described import EXAMPLES
from mnist_job.data.manifest import Form, Manifest, Shard
from mnist_job.data.preparation import Plan
from mnist_job.data.reading import Part, Reading
from mnist_job.distributed import cluster, preparing
from mnist_job.distributed.writer import Done, Writer
from mnist_job.errors import DataError, UsageError, one_line
from mnist_job.log import Log
from mnist_job.storage import files

OURS = ("train", "val", "test", "examples.arrow", manifest.FILE)
TOLD_EACH = 10  # a line for each tenth of the shards


def prepare(config: PrepareConfig, log: Log) -> None:
    """Write the data set at `data` as shards into the folder `destination`.

    An interrupted preparation goes on, and one that is complete is left alone. Raises DataError, and UsageError if the
    destination has anything else in it.
    """
    place = files.absolute(config.destination)
    shown = files.shown(place)
    source = sources.read(config.data, config.code, Reading.of(config))
    if source.function is not None:
        raise UsageError(f"{config.data}: is a function, whose data are in memory anyway; train on it directly")
    if source.prepared is not None:
        raise UsageError(f"--data {source.place}: is a prepared data set already; train on it")
    plan = preparation.plan(config, source)
    try:
        filesystem, folder = files.resolve(place)
        _check_place(filesystem, folder, shown)
        if shards.found(place):
            if shards.opened(place).manifest.preparation != plan.preparation:
                raise UsageError(f"{shown}: holds another prepared data set; choose another destination")
            log.result(f"{shown} is this data set, prepared already", prepared=shown)
            return
        writer = Writer(filesystem, folder, plan.preparation)
        with cluster.connected(config):
            done = _told(preparing.written(plan, writer, verbose=config.verbose), plan, log)
        made = _manifest(plan, done, source.place, _examples(plan, writer))
        writer.put(manifest.FILE, made.to_json().encode())
    except OSError as error:
        raise DataError(f"{shown}: cannot be written: {one_line(error, 200)}") from error
    counts = ", ".join(f"{made.samples(part):,} {part}" for part in made.parts)
    log.result(f"prepared {source.place} in {len(done):,} shards ({counts}): {shown}", prepared=shown)


def _check_place(filesystem: fs.FileSystem, folder: str, shown: str) -> None:
    """Check that the folder has nothing in it that `prepare` did not write. Raises UsageError."""
    there = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    for entry in there:
        if entry.base_name.removesuffix(".new") not in OURS:
            raise UsageError(
                f"{shown}: holds {entry.base_name}, which is not of a prepared data set; give a new folder"
            )


def _told(written: Iterator[Done], plan: Plan, log: Log) -> list[Done]:
    """Collect the shards, and tell how far it is."""
    every, done = sum(planned.shards for planned in plan.parts.values()), []
    for one in written:
        done.append(one)
        if len(done) * TOLD_EACH // every > (len(done) - 1) * TOLD_EACH // every:
            log.info(f"{len(done):,} of {every:,} shards are written", written=len(done), shards=every)
    return done


def _examples(plan: Plan, writer: Writer) -> tuple[Shard, Form]:
    """Write the first training samples to a file of their own, and return it, and what a sample looks like."""
    train = plan.parts["train"]
    split = train.samples.read(train.rows[:EXAMPLES])
    content = shards.written(split)
    writer.put("examples.arrow", content)
    return Shard.of("examples.arrow", len(split), content), Form.of(split)


def _manifest(plan: Plan, done: Sequence[Done], place: str, examples: tuple[Shard, Form]) -> Manifest:
    """Return the description of what was written."""
    parts: dict[Part, list[Done]] = {part: [] for part in plan.parts}
    for one in done:
        parts[one.part].append(one)
    train = [one.sums for one in parts["train"]]
    classes = max(len(plan.names or ()), *(len(one.sums.of_class) for one in done))
    of_class = {str(part): _added([one.sums.of_class for one in those], classes) for part, those in parts.items()}
    numbers = sum(one.numbers for one in train)
    mean = sum(one.total for one in train) / numbers
    scale = max(one.largest for one in train)
    if scale == 0:
        raise DataError(f"{place}: every number of the training inputs is 0")
    return Manifest(
        source=place,
        preparation=plan.preparation,
        form=examples[1],
        parts={str(part): _in_order(those) for part, those in parts.items()},
        examples=examples[0],
        of_class=of_class,
        names=plan.names,
        scale=scale,
        mean=mean,
        deviation=math.sqrt(max(sum(one.squares for one in train) / numbers - mean**2, 0)),
    )


def _added(counts: Sequence[tuple[int, ...]], classes: int) -> tuple[int, ...]:
    return tuple(sum(count[label] for count in counts if label < len(count)) for label in range(classes))


def _in_order(done: Sequence[Done]) -> tuple[Shard, ...]:
    return tuple(one.shard for one in sorted(done, key=lambda one: one.number))
