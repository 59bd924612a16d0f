"""The user's code in the process of the tests, which has imported Keras: one for each test would take minutes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from mnist_job.usercode.files import FOLDER, Code


class Here:
    """What `Apart` is for the functions that get one."""

    def call(self, _name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


@contextmanager
def here(code: Code, folder: Path) -> Iterator[Here]:
    """Make the code importable in this context, without the modules of earlier ones. A dtype policy ends with it."""
    for name, module in list(sys.modules.items()):
        if f"/{FOLDER}/" in str(getattr(module, "__file__", None)):
            del sys.modules[name]
    former = keras.config.dtype_policy()
    try:
        with code.importable(folder):
            yield Here()
    finally:
        keras.config.set_dtype_policy(former)
