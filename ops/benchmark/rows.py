"""The ways to train that are compared, and what is measured for each.

`training` means the same for all of them. It starts when `fit` would start, with the data and the model ready, and it
ends with the last epoch. It contains tracing or compiling, the epochs, their validation, and the checkpoints if the row
saves any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTED = ("tracing", "training", "validation", "checkpoint")
"""The phases of this job that correspond to `fit` of another row. In both, the time before them is not counted."""


@dataclass(frozen=True)
class Row:
    """A way to train: a module of this package with its arguments, or the flags of `mnist-job run`.

    With `apart`, it needs the virtual environment of the benchmark. With `saves`, it saves a checkpoint in each epoch.
    Rows of the same number of `epochs` are in the same table.
    """

    name: str
    title: str
    module: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    apart: bool = False
    saves: bool = False
    epochs: int = 10


CNN = ("--model", f"{Path(__file__).with_name('cnn.py')}:model", "--epochs", "6")
BY_256 = ("256", "0.004")
ROWS = (
    Row("notebook", "Keras `fit` on TensorFlow: the notebook as a script", ("notebook", "1")),
    Row("keras-100", "Keras `fit` on TensorFlow, `steps_per_execution=100`", ("notebook", "100")),
    Row("keras-jax", "Keras `fit` on JAX", ("keras_jax",), apart=True),
    Row("jax", "JAX alone, an epoch as one `lax.scan`", ("bare_jax",), apart=True),
    Row("torch-1", "Ray's TorchTrainer, 1 worker", ("torch_trainer", "1", "32", "0.001"), apart=True, saves=True),
    Row("torch-2", "Ray's TorchTrainer, 2 workers", ("torch_trainer", "2", "32", "0.001"), apart=True, saves=True),
    Row(
        "torch-2-256",
        "Ray's TorchTrainer, 2 workers, global batch 256, learning rate 0.004",
        ("torch_trainer", "2", *BY_256),
        apart=True,
        saves=True,
    ),
    Row(
        "ray-keras-2",
        "Ray's TensorflowTrainer, 2 workers, `steps_per_execution=100`: 2 epochs",
        ("ray_way", "100"),
        saves=True,
    ),
    Row("job-1", "this job, 1 worker", flags=("--workers", "1"), saves=True),
    Row("job-2", "this job, 2 workers", flags=("--workers", "2"), saves=True),
    Row(
        "job-2-256",
        "this job, 2 workers, global batch 256, learning rate 0.004",
        flags=("--workers", "2", "--batch-size", BY_256[0], "--learning-rate", BY_256[1]),
        saves=True,
    ),
    Row("cnn-fit", "Keras `fit`: a user's CNN, on all CPUs", ("cnn_fit", "6"), epochs=6),
    Row(
        "cnn-1",
        "this job: a user's CNN, 1 worker with 2 CPUs",
        flags=(*CNN, "--workers", "1", "--cpus-per-worker", "2"),
        saves=True,
        epochs=6,
    ),
    Row(
        "cnn-2",
        "this job: a user's CNN, 2 workers with a CPU each",
        flags=(*CNN, "--workers", "2"),
        saves=True,
        epochs=6,
    ),
)
NAMES = [row.name for row in ROWS]

STEPS, SWEEP = "steps", "sweep"  # also measured: a step without Ray, and a step for each batch and network


def of_outcome(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a row of this job from its `outcome.json`: training seconds, accuracy, loss, phases."""
    phases = outcome["phases"]
    return {
        "training": sum(phases[phase] for phase in COUNTED),
        "accuracy": outcome["evaluation"]["accuracy"],
        "loss": outcome["evaluation"]["loss"],
        "phases": phases,
    }
