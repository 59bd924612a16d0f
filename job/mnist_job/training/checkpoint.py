"""Checkpoints: a folder with the model, the optimizer, the state of callbacks, and the history.

There is one after each epoch, and there may be some within an epoch, with what the epoch has measured so far. A result
comes from the former only.

A run needs nothing else to resume: the order of the data and the learning rate follow from the seed, the epoch and the
optimizer's step count. The manifest, with the SHA-256 of each file, is moved into the folder last. A folder without a
manifest was not finished and is skipped. If a file does not match the manifest, it was damaged later. The manifest is
read once, when a checkpoint is chosen. All later readers of the files get its checksums, and check them.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import fs

from mnist_job.bounds import CHECKPOINTS_TO_KEEP
from mnist_job.errors import TrainingError
from mnist_job.models import class_names
from mnist_job.storage import files, owned
from mnist_job.training.middle import Middle
from mnist_job.training.progress import Epoch

if TYPE_CHECKING:  # the driver imports this module, and must not import TensorFlow
    from mnist_job.training.callbacks import Callbacks
    from mnist_job.training.compiled import Compiled

MODEL = "model.keras"
OPTIMIZER = "optimizer.npz"
HISTORY = "history.json"
TRAINING = "training.json"
CALLBACKS = "callbacks.pickle"
MIDDLE = "middle.npz"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint: its files match its manifest. `damaged` describes newer checkpoints that are not intact.

    `manifest` has the SHA-256 of each file. `workers` is the number of workers that trained its last epoch; it is None
    in old checkpoints, which did not record it. `step` is the number of steps that are done in the epoch after those
    of the history.
    """

    filesystem: fs.FileSystem
    path: str
    manifest: dict[str, str]
    history: list[Epoch]
    workers: int | None
    damaged: list[str]
    step: int = 0

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
    _damaged: set[str] = field(default_factory=set, compare=False, repr=False)  # those that it has found

    def save(
        self,
        model: "Compiled",
        history: list[Epoch],
        workers: int,
        callbacks: "Callbacks | None" = None,
        keep: Collection[int] = (),
        middle: Middle | None = None,
    ) -> None:
        """Write a checkpoint, then remove unfinished ones and all but the newest CHECKPOINTS_TO_KEEP. Raises OSError.

        `workers` is the number of workers that trained the last epoch. The checkpoints of the epochs in `keep`
        stay, too. `middle` is the place within the next epoch, if this has begun.
        """
        variables = io.BytesIO()
        np.savez(variables, *(np.asarray(variable) for variable in model.optimizer.variables))
        contents = {
            MODEL: _saved(model),
            OPTIMIZER: variables.getvalue(),
            HISTORY: json.dumps([asdict(row) for row in history]).encode(),
            TRAINING: json.dumps({"workers": workers}).encode(),
        }
        if callbacks:
            contents[CALLBACKS] = callbacks.state()
        if middle:
            contents[MIDDLE] = middle.to_bytes()
        place = f".{middle.step:09}" if middle else ""  # a point comes after the hyphen of the epoch's own checkpoint
        path = f"{self.folder}/{len(history):07}{place}-{self.run}"
        self.filesystem.create_dir(path, recursive=True)
        for name, content in contents.items():
            self._write(f"{path}/{name}", content)
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        files.File(self.filesystem, f"{path}/{MANIFEST}").write(json.dumps(manifest).encode())
        self._remove_old(keep)

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None if no checkpoint was saved yet.

        Raises TrainingError if there are checkpoints but none is intact, and OSError if they cannot be read.
        """
        damaged: list[str] = []
        found = self._intact(self._newest_first(), damaged)
        if found is None and damaged:
            raise TrainingError(
                f"{self.folder}: no checkpoint is intact ({'; '.join(damaged)}); --force starts from the beginning"
            )
        return found

    def of_epoch(self, epoch: int, history: list[Epoch]) -> Checkpoint:
        """Return the newest intact checkpoint of this epoch of a training with this history.

        Raises TrainingError if there is none, and OSError if one cannot be read.
        """
        damaged: list[str] = []
        for name in self._newest_first():
            if _is_of_epoch(name, {epoch}) and (found := self._intact([name], damaged)) is not None:
                if _digits(found.history) == _digits(history[:epoch]):
                    return found
                damaged.append(f"{name} is of another training")
        raise TrainingError(
            f"{self.folder}: the model of epoch {epoch}, the best one, is lost "
            f"({'; '.join(damaged) or 'it has no checkpoint'}); --force trains again from the beginning"
        )

    def _intact(self, names: list[str], damaged: list[str]) -> Checkpoint | None:
        """Return the first intact checkpoint of these. Add a description of each damaged one before it to `damaged`."""
        for name in names:
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
                step = Middle.from_bytes(contents[MIDDLE]).step if MIDDLE in contents else 0
            except (ValueError, KeyError, AttributeError, TypeError, FileNotFoundError) as error:
                damaged.append(f"{name}: {error}")
                self._damaged.add(name)
                continue
            return Checkpoint(self.filesystem, path, manifest, history, workers, damaged, step)
        return None

    def restore(
        self, path: str, manifest: Mapping[str, str], model: "Compiled", callbacks: "Callbacks | None" = None
    ) -> tuple[list[Epoch], Middle | None]:
        """Load the checkpoint at `path` into the model, the optimizer and the callbacks.

        Return its history and, if it was saved within an epoch, the place there.

        Raises Changed, before it changes anything, if a file does not match `manifest` any more, and OSError if a file
        cannot be read.
        """
        try:
            names = [MODEL, OPTIMIZER, HISTORY, *([CALLBACKS] if callbacks else []), *({MIDDLE} & manifest.keys())]
            contents = {name: self._verified(path, name, manifest) for name in names}
        except ValueError as error:
            raise Changed(f"{path}: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / MODEL
            file.write_bytes(contents[MODEL])
            with model.as_given() as network:
                network.load_weights(file)
        with np.load(io.BytesIO(contents[OPTIMIZER])) as arrays:
            for variable, name in zip(model.optimizer.variables, arrays.files, strict=True):
                # NumPy has no bfloat16: it was saved as two bytes.
                kind = np.asarray(variable).dtype
                variable.assign(arrays[name].view(kind) if kind.itemsize == 2 else arrays[name])
        if callbacks:
            callbacks.restore(contents[CALLBACKS])
        history = [Epoch(**row) for row in json.loads(contents[HISTORY])]
        return history, Middle.from_bytes(contents[MIDDLE]) if MIDDLE in contents else None

    def _verified(self, path: str, file: str, manifest: Mapping[str, str]) -> bytes:
        content = self._read(f"{path}/{file}")
        if hashlib.sha256(content).hexdigest() != manifest[file]:
            raise ValueError(f"{file} has changed since it was written")
        return content

    def _remove_old(self, keep: Collection[int]) -> None:
        """Remove the oldest intact checkpoints, and unfinished or damaged ones that are older than an intact one."""
        intact = 0
        for name in self._newest_first():
            is_intact = name not in self._damaged and self._is_complete(name)
            stays = is_intact and _is_of_epoch(name, keep)
            if not stays and intact >= (CHECKPOINTS_TO_KEEP if is_intact else 1):
                owned.remove(self.filesystem, f"{self.folder}/{name}", owned.in_a_checkpoint)
            intact += is_intact

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


def _is_of_epoch(name: str, epochs: Collection[int]) -> bool:
    """Return whether a checkpoint was saved at the end of one of these epochs."""
    return int(name[:7]) in epochs and name[7] == "-"


def _digits(history: list[Epoch]) -> str:
    """Return all that is measured, as text: NaN is equal to NaN. A resumed run may have trained an epoch again."""
    return repr([replace(row, seconds=0.0) for row in history])


def _saved(model: "Compiled") -> bytes:
    with tempfile.TemporaryDirectory() as folder, model.as_given() as network:
        file = Path(folder) / MODEL
        network.save(file)
        content = file.read_bytes()
    return content if model.class_names is None else class_names.added(content, model.class_names)
