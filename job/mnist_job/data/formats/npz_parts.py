"""The parts of an .npz, by the usual names of its arrays, or by those of `--data-arrays`."""

from collections.abc import Sequence

from mnist_job.data import arrays, npz
from mnist_job.data.arrays import Split
from mnist_job.data.reading import PARTS, Part, Reading
from mnist_job.errors import DataError, UsageError
from mnist_job.storage import files

SPELLINGS = {"x": ("images", "x", "data", "inputs", "features"), "y": ("labels", "y", "targets", "label")}
OTHER_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class NpzParts:
    """The parts of the .npz at a path or URI."""

    class_names = None

    def __init__(self, place: str, reading: Reading) -> None:
        """Read the names of the arrays. Raises DataError, and UsageError for a name of `--data-arrays` that is none."""
        self._place, self._where = place, files.shown(place)
        self._there = npz.names(place)
        for ours, theirs in reading.data_arrays.items():
            if theirs not in self._there:
                raise UsageError(f"--data-arrays {ours}={theirs}: {self._where} holds {npz.listed(self._there)}")
        self._chosen = {
            f"{letter}_{part}": reading.data_arrays.get(f"{letter}_{part}") or self._usual(letter, part)
            for part in PARTS
            for letter in "xy"
        }

    @property
    def has_validation(self) -> bool:
        """Whether there are both arrays of a validation part. Raises DataError if there is one of them."""
        there = [name for name in ("x_val", "y_val") if self._chosen[name] is not None]
        if len(there) == 1:
            raise DataError(
                f"{self._where}: holds {self._chosen[there[0]]} but not the other array; "
                "a validation part needs both x_val and y_val"
            )
        return bool(there)

    def load(self, part: Part) -> Split:
        """Return a part. Raises DataError."""
        for ours in (f"x_{part}", f"y_{part}"):
            if self._chosen[ours] is None:
                raise DataError(
                    f"{self._where}: {ours}: no such array; the file holds {npz.listed(self._there)}; name it by "
                    f"--data-arrays {ours}=NAME"
                )
        x, y = str(self._chosen[f"x_{part}"]), str(self._chosen[f"y_{part}"])
        inputs, targets = npz.read(self._place, x, y)
        if len(inputs) != len(targets):
            raise DataError(f"{self._where}: {x} holds {len(inputs)} images, {y} {len(targets)} labels")
        numbers, one_hot = arrays.targets(targets, f"{self._where}: {y}")
        return Split(inputs, numbers, None, one_hot)

    def _usual(self, letter: str, part: Part) -> str | None:
        """Return the array with a usual name: x_train, X_train, train_images, images_train..."""
        lower = {name.lower(): name for name in self._there}
        return next((lower[name] for name in _spellings(letter, part) if name in lower), None)


def _spellings(letter: str, part: Part) -> Sequence[str]:
    return [
        spelled
        for other in OTHER_NAMES[part]
        for word in (letter, *SPELLINGS[letter])
        for spelled in (f"{word}_{other}", f"{other}_{word}")
    ]
