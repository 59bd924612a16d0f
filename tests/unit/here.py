"""The user's code in the process of the tests, which has imported Keras: one for each test would take minutes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_job.code.files import Code


class Here:
    """What `Apart` is for the functions that get one."""

    def call(self, _name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


@contextmanager
def here(code: Code, folder: Path) -> Iterator[Here]:
    """Make the code importable in this context, and forget its modules at the end."""
    before = set(sys.modules)
    try:
        with code.importable(folder):
            yield Here()
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
