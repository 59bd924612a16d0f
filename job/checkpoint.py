"""A checkpoint: a folder with the model, the optimizer's variables, and the epochs so far. All that a resume needs.

The order of the data and the learning rate follow from the seed, the epoch and the optimizer's step count.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ray.train import Checkpoint

from job.journal import Epoch

if TYPE_CHECKING:  # the driver, which does without TensorFlow, asks this module where the model lies
    import keras

MODEL = "model.keras"
OPTIMIZER = "optimizer.npz"
HISTORY = "history.json"


def save(folder: Path, network: "keras.Model", optimizer: "keras.optimizers.Optimizer", history: list[Epoch]) -> None:
    """Write a checkpoint into `folder`."""
    network.save(folder / MODEL)
    np.savez(folder / OPTIMIZER, *(np.asarray(variable) for variable in optimizer.variables))
    (folder / HISTORY).write_text(json.dumps([row._asdict() for row in history]))


def history(checkpoint: Checkpoint) -> list[Epoch]:
    """The epochs that led to a checkpoint."""
    assert checkpoint.filesystem is not None  # always set where Ray Train made the checkpoint
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{HISTORY}") as stream:
        return _epochs(stream.read())


def restore(checkpoint: Checkpoint, network: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> list[Epoch]:
    """Set the model and the optimizer to a checkpoint's state; gives the epochs that led to it."""
    with checkpoint.as_directory() as path:
        folder = Path(path)
        network.load_weights(folder / MODEL)
        with np.load(folder / OPTIMIZER) as arrays:
            for variable, name in zip(optimizer.variables, arrays.files, strict=True):
                variable.assign(arrays[name])
        return _epochs((folder / HISTORY).read_bytes())


def _epochs(content: bytes) -> list[Epoch]:
    return [Epoch(**row) for row in json.loads(content)]
