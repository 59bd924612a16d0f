"""The names of a model's classes, in the saved model: a member of its archive that Keras ignores."""

import io
import json
import zipfile
from collections.abc import Sequence
from itertools import zip_longest

from mnist_job.errors import DataError
from mnist_job.storage import files

MEMBER = "classes.json"


def added(content: bytes, names: Sequence[str]) -> bytes:
    """Return the content of a .keras file with the names of its classes. Keras ignores this member of the archive."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(MEMBER, json.dumps(list(names)))
    return file.getvalue()


def check(model: files.File, shown: str, names: Sequence[str] | None) -> None:
    """Check that the classes of a model have the same names as those of the data, if both have names.

    With other names, or in another order, every answer would be taken for another class. Raises DataError.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(model.read())) as archive:
            saved = json.loads(archive.read(MEMBER))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # the evaluation says what is wrong with the file
        return
    if names is not None and saved != list(names):
        first = next(number for number, pair in enumerate(zip_longest(saved, names)) if pair[0] != pair[1])
        ours, theirs = ((those[first] if first < len(those) else "none") for those in (saved, names))
        raise DataError(
            f"--model {shown}: its classes are not those of the data: class {first} is {ours} for the model, and "
            f"{theirs} in the data"
        )
