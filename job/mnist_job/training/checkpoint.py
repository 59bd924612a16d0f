"""Checkpoints: after each epoch, a folder with the model, the optimizer's variables and the history.

A run needs nothing else to resume: the order of the data and the learning rate follow from the seed, the epoch and the
optimizer's step count. The manifest, with the SHA-256 of each file, is moved into the folder last. A folder without a
manifest was not finished and is skipped. If a file does not match the manifest, it was damaged later. The manifest is
read once, when a checkpoint is chosen. All later readers of the files get its checksums, and check them.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import fs

from mnist_job.bounds import CHECKPOINTS_TO_KEEP
from mnist_job.errors import TrainingError
from mnist_job.storage import files, owned
from mnist_job.training.progress import Epoch

if TYPE_CHECKING:  # the driver imports this module, and must not import TensorFlow
    from mnist_job.training.compiled import Compiled

MODEL = "model.keras"
OPTIMIZER = "optimizer.npz"
HISTORY = "history.json"
TRAINING = "training.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint: its files match its manifest. `damaged` describes newer checkpoints that are not intact.

    `manifest` has the SHA-256 of each file. `workers` is the number of workers that trained its last epoch; it is None
    in old checkpoints, which did not record it.
    """

    filesystem: fs.FileSystem
    path: str
    manifest: dict[str, str]
    history: list[Epoch]
    workers: int | None
    damaged: list[str]

    @property
    def model(self) -> files.File:
        """The saved model."""
        return files.File(self.filesystem, f"{self.path}/{MODEL}")


class Changed(OSError):  # noqa: N818 what happened
    """A checkpoint has changed since it was chosen. A restart of all workers chooses another one."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder. The names of those that this object saves contain `run`, which no other run has."""

    filesystem: fs.FileSystem
    folder: str
    run: str

    def save(self, model: "Compiled", history: list[Epoch], workers: int) -> None:
        """Write a checkpoint, then remove unfinished ones and all but the newest CHECKPOINTS_TO_KEEP. Raises OSError.

        `workers` is the number of workers that trained the last epoch.
        """
        variables = io.BytesIO()
        np.savez(variables, *(np.asarray(variable) for variable in model.optimizer.variables))
        contents = {
            MODEL: _saved(model),
            OPTIMIZER: variables.getvalue(),
            HISTORY: json.dumps([asdict(row) for row in history]).encode(),
            TRAINING: json.dumps({"workers": workers}).encode(),
        }
        path = f"{self.folder}/{len(history):07}-{self.run}"
        self.filesystem.create_dir(path, recursive=True)
        for name, content in contents.items():
            self._write(f"{path}/{name}", content)
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        self._write(f"{path}/{MANIFEST}.new", json.dumps(manifest).encode())
        self.filesystem.move(f"{path}/{MANIFEST}.new", f"{path}/{MANIFEST}")
        self._remove_old()

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None if no checkpoint was saved yet.

        Raises TrainingError if there are checkpoints but none is intact, and OSError if they cannot be read.
        """
        damaged = []
        for name in self._newest_first():
            path = f"{self.folder}/{name}"
            try:
                if not self._is_complete(name):
                    if int(name[:7]) > 1:  # the checkpoint before it must have been finished
                        damaged.append(f"{name} has no {MANIFEST}")
                    continue
                manifest: dict[str, str] = json.loads(self._read(f"{path}/{MANIFEST}"))
                contents = {file: self._verified(path, file, manifest) for file in manifest}
                history = [Epoch(**row) for row in json.loads(contents[HISTORY])]
                workers = json.loads(contents[TRAINING])["workers"] if TRAINING in contents else None
            except (ValueError, KeyError, AttributeError, TypeError, FileNotFoundError) as error:
                damaged.append(f"{name}: {error}")
                continue
            return Checkpoint(self.filesystem, path, manifest, history, workers, damaged)
        if damaged:
            raise TrainingError(
                f"{self.folder}: no checkpoint is intact ({'; '.join(damaged)}); --force starts from the beginning"
            )
        return None

    def restore(self, path: str, manifest: Mapping[str, str], model: "Compiled") -> list[Epoch]:
        """Load the checkpoint at `path` into the model and the optimizer, and return its history.

        Raises Changed, before it changes anything, if a file does not match `manifest` any more, and OSError if a file
        cannot be read.
        """
        try:
            contents = {name: self._verified(path, name, manifest) for name in (MODEL, OPTIMIZER, HISTORY)}
        except ValueError as error:
            raise Changed(f"{path}: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / MODEL
            file.write_bytes(contents[MODEL])
            with model.as_given() as network:
                network.load_weights(file)
        with np.load(io.BytesIO(contents[OPTIMIZER])) as arrays:
            for variable, name in zip(model.optimizer.variables, arrays.files, strict=True):
                kind = np.asarray(variable).dtype
                variable.assign(
                    arrays[name].view(kind) if kind.itemsize == 2 else arrays[name]
                )  # NumPy has no bfloat16
        return [Epoch(**row) for row in json.loads(contents[HISTORY])]

    def _verified(self, path: str, file: str, manifest: Mapping[str, str]) -> bytes:
        content = self._read(f"{path}/{file}")
        if hashlib.sha256(content).hexdigest() != manifest[file]:
            raise ValueError(f"{file} has changed since it was written")
        return content

    def _remove_old(self) -> None:
        """Remove the oldest complete checkpoints, and unfinished ones that are older than a complete one."""
        complete = 0
        for name in self._newest_first():
            is_complete = self._is_complete(name)
            if complete >= (CHECKPOINTS_TO_KEEP if is_complete else 1):
                owned.remove(self.filesystem, f"{self.folder}/{name}", owned.in_a_checkpoint)
            complete += is_complete

    def _newest_first(self) -> list[str]:
        if not self._exists(self.folder):
            return []
        entries = self.filesystem.get_file_info(fs.FileSelector(self.folder))
        return sorted((entry.base_name for entry in entries if owned.is_checkpoint(entry.base_name)), reverse=True)

    def _is_complete(self, name: str) -> bool:
        return self._exists(f"{self.folder}/{name}/{MANIFEST}")

    def _exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type != fs.FileType.NotFound)

    def _read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def _write(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)


def _saved(model: "Compiled") -> bytes:
    with tempfile.TemporaryDirectory() as folder, model.as_given() as network:
        file = Path(folder) / MODEL
        network.save(file)
        return file.read_bytes()
