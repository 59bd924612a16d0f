"""Format the measurements as tables for README.md and docs/performance.md.

A figure is the median of the medians of all machines, with the minimum and the maximum of all repetitions. A ratio
compares two rows of one repetition, which the same machine ran within minutes.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ops.benchmark.rows import ROWS

STEP = "step"
HALF = "16:128,64"  # a worker's part of the notebook's batch, with two workers
SWEEP = [f"{batch}:{hidden}" for hidden in ("128,64", "2048,2048") for batch in (32, 128, 512, 1024, 2048, 4096)]
FLOOR = (HALF, SWEEP[0])  # the settings with which a step of two workers is compared, in each repetition
STEPS = 10 * 1500  # of the notebook's 48,000 images at batch 32

BESIDE = {
    "job-1": ("notebook", "keras-100", "keras-jax", "jax", "torch-1"),
    "job-2": ("notebook", "torch-2", "ray-keras-2"),
    "job-2-256": ("notebook", "torch-2", "torch-2-256"),
    "cnn-1": ("cnn-fit",),
    "cnn-2": ("cnn-fit",),
}
"""The rows with which each row of this job is compared."""
SHORT = ("ray-keras-2",)  # it trains fewer epochs and evaluates nothing, so its whole process cannot be compared

Result = dict[str, Any]
Repetition = list[Result]
Machine = list[Repetition]


def tables(machines: Sequence[list[Result]]) -> str:
    """Return all tables that have measurements on these machines, without the rows that were not measured."""
    split = [_repetitions(results) for results in machines]
    everything = [one for results in machines for one in results]
    whole = [_whole(split, epochs) for epochs in dict.fromkeys(row.epochs for row in ROWS)]
    return "\n\n".join(table for table in (*whole, _ratios(split), _others(split), _steps(everything)) if table)


def _repetitions(results: list[Result]) -> Machine:
    numbers = sorted({one["repetition"] for one in results})
    return [[one for one in results if one["repetition"] == number] for number in numbers]


def _whole(machines: list[Machine], epochs: int) -> str:
    lines = [
        f"| | whole, s | training of {epochs} epochs, s | CPU, s | peak, GiB | checkpoints | test accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in (row for row in ROWS if row.epochs == epochs):
        cells = [_figure(machines, _value(row.name, key), 1) for key in ("wall", "training", "cpu")]
        cells.append(_figure(machines, _value(row.name, "peak", 2**-30), 2))
        if any(cells):
            accuracy = _figure(machines, _value(row.name, "accuracy"), 4) or "not measured"
            lines.append(f"| {row.title} | {' | '.join(cells)} | {'yes' if row.saves else 'no'} | {accuracy} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _ratios(machines: list[Machine]) -> str:
    titles = {row.name: row.title for row in ROWS}
    lines = [
        "| this job / another way, within one repetition | whole | training | CPU | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for job, others in BESIDE.items():
        for other in others:
            cells = []
            for key in ("wall", "training", "cpu", "peak"):
                comparable = other not in SHORT or key in ("training", "peak")
                cells.append(_figure(machines, _ratio(job, other, key), 2) if comparable else "")
            if any(cells):
                lines.append(f"| {titles[job]} / {titles[other]} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _others(machines: list[Machine]) -> str:
    def under_ray(one: Repetition) -> float:
        return float(_phases(one)["training"]) / STEPS / (_step(one, 1, HALF) + _step(one, 2, SWEEP[0], "all_reduce"))

    wanted: list[tuple[str, Callable[[Repetition], float]]] = [
        ("a step of 2 workers under Ray / compute and a bare all-reduce, without Ray", under_ray),
        ("the evaluate task, s", lambda one: float(_phases(one)["evaluate"])),
    ]
    lines = ["| this job, 2 workers | |", "| --- | --- |"]
    lines += [f"| {name} | {figure} |" for name, value in wanted if (figure := _figure(machines, value, 2))]
    return "\n".join(lines) if len(lines) > 2 else ""


def _steps(results: list[Result]) -> str:
    lines = [
        "| global batch | hidden layers | steps/s, 1 worker | 2 workers | images/s, 1 worker | 2 workers | 2 / 1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in SWEEP:
        try:
            batch, one, two = int(setting.partition(":")[0]), _step(results, 1, setting), _step(results, 2, setting)
        except LookupError:
            continue
        lines.append(
            f"| {batch} | {setting.partition(':')[2].replace(',', ', ')} | {1 / one:,.0f} | {1 / two:,.0f} "
            f"| {batch / one:,.0f} | {batch / two:,.0f} | {one / two:.2f} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def _value(row: str, key: str, unit: float = 1.0) -> Callable[[Repetition], float]:
    """Return a function that returns the row's figure in a repetition, or raises LookupError if there is none."""

    def value(one: Repetition) -> float:
        for result in one:
            if result["row"] == row:
                return float(result[key]) * unit
        raise LookupError(row)

    return value


def _ratio(row: str, other: str, key: str) -> Callable[[Repetition], float]:
    above, below = _value(row, key), _value(other, key)
    return lambda one: above(one) / below(one)


def _phases(one: Repetition) -> dict[str, float]:
    for result in one:
        if result["row"] == "job-2":
            return dict(result["phases"])
    raise LookupError("job-2")


def _step(results: list[Result], workers: int, setting: str, key: str = "step") -> float:
    """Return the median seconds of a step. Raises LookupError if none was measured."""
    batch, _, hidden = setting.partition(":")
    layers = [int(units) for units in hidden.split(",")]
    found = [
        one[key]
        for one in results
        if one["row"] == STEP and (one["workers"], one["batch"], one["hidden"]) == (workers, int(batch), layers)
    ]
    if not found:
        raise LookupError(setting)
    return float(statistics.median(found))


def _figure(machines: list[Machine], value: Callable[[Repetition], float], digits: int) -> str:
    """Return the figure over all repetitions that have it, or an empty text if none has it."""
    medians, found = [], []
    for machine in machines:
        here = []
        for repetition in machine:
            try:
                here.append(value(repetition))
            except LookupError:
                continue
        if here:
            medians.append(statistics.median(here))
            found += here
    if not found:
        return ""
    low, middle, high = (f"{figure:.{digits}f}" for figure in (min(found), statistics.median(medians), max(found)))
    return middle if low == high else f"{middle} ({low}..{high})"
