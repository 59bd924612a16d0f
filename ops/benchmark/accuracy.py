"""Test accuracy over seeds and learning-rate schedules, as a Markdown table.

    .venv/bin/python -m ops.benchmark.accuracy MNIST.npz [SCHEDULE ...]

Runs `mnist-job run` with its defaults (10 epochs, batch 32, 2 workers) five times for each schedule, or those named.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = range(5)


def main(data: str, *schedules: str) -> None:
    print("| schedule | median accuracy | minimum | maximum | median loss |\n| --- | --- | --- | --- | --- |")
    for schedule in schedules or ("cosine", "constant"):
        accuracies, losses = [], []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as output:
                command = ["mnist-job", "run", "--data", data, "--output", output, "--seed", str(seed)]
                command[0] = str(Path(sys.executable).with_name("mnist-job"))
                command += ["--learning-rate-schedule", schedule]
                subprocess.run(command, check=True, stdout=sys.stderr)
                outcome = json.loads((Path(output) / "mnist-job/outcome.json").read_text())
            accuracies.append(outcome["evaluation"]["accuracy"])
            losses.append(outcome["evaluation"]["loss"])
        figures = (statistics.median(accuracies), min(accuracies), max(accuracies), statistics.median(losses))
        print(f"| `{schedule}` | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
