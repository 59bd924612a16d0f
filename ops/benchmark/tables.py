"""What was measured, as the README's tables: medians, with the least and the most of all repetitions."""

import statistics
from collections.abc import Callable
from typing import Any

NOTEBOOK = "the notebook as a script"
RAY = "Ray's way, 2 workers: 2 epochs"
RAY_100 = "Ray's way, 2 workers, `steps_per_execution=100`: 2 epochs"
ONE = "this job, 1 worker"
TWO = "this job, 2 workers"
RECOMMENDED = "this job, 2 workers, global batch 256, learning rate 0.004"
IMPORTS = "import tensorflow, keras"
STEP = "step"
HALF = "16:128,64"  # a worker's part of the notebook's batch, when there are two
SWEEP = [f"{batch}:{hidden}" for hidden in ("128,64", "2048,2048") for batch in (32, 128, 512, 1024, 2048, 4096)]
STEPS = 10 * 1500  # of the notebook's 48,000 images at batch 32

Result = dict[str, Any]


def tables(results: list[Result]) -> str:
    """All three."""
    return "\n\n".join([_whole(results), _ratios(results), _steps(results)])


def _whole(results: list[Result]) -> str:
    lines = [
        "| | whole, s | training of 10 epochs, s | CPU, s | peak, GiB | test accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in (NOTEBOOK, RAY, RAY_100, ONE, TWO, RECOMMENDED):
        cells = [_spread([one[key] for one in results if one["row"] == row]) for key in ("wall", "training", "cpu")]
        cells.append(_spread([one["peak"] / 2**30 for one in results if one["row"] == row], 2))
        accuracies = [one["accuracy"] for one in results if one["row"] == row and "accuracy" in one]
        cells.append(f"{statistics.median(accuracies):.4f}" if accuracies else "not measured")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratios(results: list[Result]) -> str:
    """Each within one repetition."""

    def value(one: list[Result], row: str, key: str) -> float:
        return float(next(result[key] for result in one if result["row"] == row))

    def floor(one: list[Result]) -> float:
        return _step(one, 1, HALF) + _step(one, 2, SWEEP[0], "all_reduce")

    def under_ray(one: list[Result]) -> float:
        return next(result["phases"]["training"] for result in one if result["row"] == TWO) / STEPS

    def evaluate(one: list[Result]) -> float:
        return next(result["phases"]["evaluate"] for result in one if result["row"] == TWO)

    wanted: list[tuple[str, Callable[[list[Result]], float]]] = [
        (f"whole: {RECOMMENDED} / the notebook", lambda one: value(one, RECOMMENDED, "wall") / notebook(one)),
        (f"whole: {TWO} / the notebook", lambda one: value(one, TWO, "wall") / notebook(one)),
        (f"whole: {ONE} / the notebook", lambda one: value(one, ONE, "wall") / notebook(one)),
        (
            f"training: {ONE} / the notebook's `fit`",
            lambda one: value(one, ONE, "training") / value(one, NOTEBOOK, "training"),
        ),
        (f"training: {TWO} / Ray's way", lambda one: value(one, TWO, "training") / value(one, RAY, "training")),
        ("a step of 2 workers under Ray / compute and a bare all-reduce", lambda one: under_ray(one) / floor(one)),
        ("the evaluate task, s", evaluate),
        (
            "CPU until the first step, 2 workers / three times `import tensorflow, keras`",
            lambda one: value(one, TWO, "cpu_until_first_step") / (3 * value(one, IMPORTS, "cpu")),
        ),
        (f"peak memory: {TWO} / Ray's way", lambda one: value(one, TWO, "peak") / value(one, RAY, "peak")),
    ]

    def notebook(one: list[Result]) -> float:
        return value(one, NOTEBOOK, "wall")

    repetitions = [
        [one for one in results if one["repetition"] == number] for number in {one["repetition"] for one in results}
    ]
    lines = ["| ratio, within one repetition | |", "| --- | --- |"]
    lines += [f"| {name} | {_spread([ratio(one) for one in repetitions], 2)} |" for name, ratio in wanted]
    return "\n".join(lines)


def _steps(results: list[Result]) -> str:
    lines = [
        "| global batch | hidden layers | steps/s, 1 worker | 2 workers | images/s, 1 worker | 2 workers | 2 / 1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in SWEEP:
        batch, one, two = int(setting.partition(":")[0]), _step(results, 1, setting), _step(results, 2, setting)
        lines.append(
            f"| {batch} | {setting.partition(':')[2].replace(',', ', ')} | {1 / one:,.0f} | {1 / two:,.0f} "
            f"| {batch / one:,.0f} | {batch / two:,.0f} | {one / two:.2f} |"
        )
    return "\n".join(lines)


def _step(results: list[Result], workers: int, setting: str, key: str = "step") -> float:
    """Seconds a step, median."""
    batch, _, hidden = setting.partition(":")
    layers = [int(units) for units in hidden.split(",")]
    return statistics.median(
        one[key]
        for one in results
        if one["row"] == STEP and (one["workers"], one["batch"], one["hidden"]) == (workers, int(batch), layers)
    )


def _spread(figures: list[float], digits: int = 1) -> str:
    low, middle, high = (f"{of(figures):.{digits}f}" for of in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low}..{high})"
