"""Measure the test accuracy for several seeds, and print it as a Markdown table.

    .venv/bin/python -m ops.benchmark.accuracy MNIST.npz [FLAGS of `mnist-job run`]

Runs `mnist-job run` five times with these flags. Without flags, it uses the defaults (10 epochs, batch 32, 2 workers)
with each learning-rate schedule and each validation split. (The notebook uses `tail` with `constant`.)
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = range(5)
VARIANTS = [
    ("--learning-rate-schedule", schedule, "--validation-split", split)
    for split in ("stratified", "tail")
    for schedule in ("cosine", "constant")
]


def main(data: str, *flags: str) -> None:
    print("| flags | median accuracy | minimum | maximum | median loss |\n| --- | --- | --- | --- | --- |")
    for chosen in (flags,) if flags else VARIANTS:
        accuracies, losses = [], []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as output:
                command = ["mnist-job", "run", "--data", data, "--output", output, "--seed", str(seed)]
                command[0] = str(Path(sys.executable).with_name("mnist-job"))
                subprocess.run([*command, *chosen], check=True, stdout=sys.stderr)
                outcome = json.loads((Path(output) / "mnist-job/outcome.json").read_text())
            accuracies.append(outcome["evaluation"]["accuracy"])
            losses.append(outcome["evaluation"]["loss"])
        figures = (statistics.median(accuracies), min(accuracies), max(accuracies), statistics.median(losses))
        print(f"| `{' '.join(chosen)}` | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
