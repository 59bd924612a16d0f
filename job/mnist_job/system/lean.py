"""Hide optional packages from Keras and tensorboardX, which import them if they are installed.

They are for plots, scikit-learn wrappers and S3, which this job does not use there. Without them, `import keras` in a
worker takes 2.1 s of CPU time instead of 4.4 s (Keras 3.15, after `ray.train`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEEDLESS = ("boto3", "matplotlib", "sklearn")


@contextmanager
def needless_hidden() -> Iterator[None]:
    """Let imports in this context fail for NEEDLESS, except for those that are already imported."""
    hidden = [name for name in NEEDLESS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
