"""The checks that run the user's code before workers start, in a process of its own."""

from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

from mnist_job.config.settings import JobConfig
from mnist_job.data.described import Summary
from mnist_job.data.sources import Source as Data
from mnist_job.errors import UsageError
from mnist_job.models.origin import Origin
from mnist_job.models.source import Shapes
from mnist_job.pipeline import gates
from mnist_job.pipeline.stages import Run
from mnist_job.training import preflight, stopping
from mnist_job.usercode.apart import Apart

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def data(
    apart: Apart, source: Data, check: Callable[Given, Returned], *args: Given.args, **kwargs: Given.kwargs
) -> Returned:
    """Return what a check of the data returns. It runs in a process of its own if the data come from a function."""
    if source.function is None:
        return check(*args, **kwargs)
    return apart.call(source.place, check, *args, **kwargs)


def training(this: Run, config: JobConfig, apart: Apart, origin: Origin, summary: Summary) -> None:
    """Check that the model and the callbacks can be trained, and that the model measures what decides the end.

    Raises UsageError.
    """
    if summary.most_workers is not None and config.most_workers > summary.most_workers:
        raise UsageError(
            f"--workers {config.workers}: {origin.data.place} has too few shards for more than {summary.most_workers}; "
            "prepare it with a smaller --shard-megabytes"
        )
    measured: Collection[str] = stopping.OF_THE_REFERENCE
    is_classifier = summary.classes is not None
    if origin.model.is_reference and not is_classifier:
        raise UsageError(
            f"{origin.data.place}: the targets are no class numbers, which the default network needs; give a --model"
        )
    if not origin.model.is_reference or origin.callbacks is not None:
        own = [f"the {what} {name}" for what in ("model", "callbacks") if (name := getattr(config, what)) is not None]
        with this.stage("data", UsageError, f"trying {' and '.join(own)}"):
            shapes = Shapes(summary.image_shape, summary.classes, summary.scale, config.seed)
            given = config.model_dump(exclude_defaults=True)
            found = preflight.check(apart, origin.model, origin.callbacks, shapes, summary.examples, given)
        measured, is_classifier = found.measured, found.is_classifier and is_classifier
    with this.stage("data", UsageError):
        stopping.check(config, measured)
        gates.check(config, is_classifier=is_classifier)
