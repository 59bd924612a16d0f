"""Keras and tensorboardX import what they find: for plots, for wrappers, for S3. This job has no need of that there.

Half of the CPU time of `import keras` in a worker goes there (keras 3.15: 4.4 s against 2.1 s, after `ray.train`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEEDLESS = ("boto3", "matplotlib", "sklearn")


@contextmanager
def needless_hidden() -> Iterator[None]:
    """What is imported inside does without NEEDLESS, unless they are imported already."""
    hidden = [name for name in NEEDLESS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "is not there", to an import
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
