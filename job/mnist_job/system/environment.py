"""Make a run independent of the user's environment variables and files, so that it always computes the same.

Each process of a run calls `pin` before it imports the libraries. The processes of a local Ray inherit the variables
from the driver.
"""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from mnist_job.errors import UsageError

PINNED = {
    "KERAS_BACKEND": "tensorflow",
    "RAY_TRAIN_V2_ENABLED": "1",
    # gRPC's own variable, empty: TensorFlow and Ray connect to the other nodes directly. Downloads and object stores
    # still use the proxy of `http_proxy` and `https_proxy`.
    "grpc_proxy": "",
}
# All other variables with these prefixes are removed: they change the result, or the processes that compute it.
_DROPPED = ("KERAS_", "TF_", "XLA_", "NVIDIA_TF32_OVERRIDE", "PYTHON", "RAY_CLIENT_MODE", "RAY_LOG_TO_STDERR")
_KEPT = frozenset(
    {"KERAS_HOME", "TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING"}
)
# The import names of all packages that the processes of a run use.
_IMPORTED = (
    *("ray", "keras", "tensorflow", "numpy", "pyarrow", "pydantic", "yaml", "sklearn", "scipy", "pooch", "h5py"),
    *("prometheus_client", "kubernetes", "rich", "tenacity", "tensorboardX", "PIL", "matplotlib", "google", "grpc"),
)
NEEDLESS = ("boto3", "matplotlib", "sklearn")


def pin() -> None:
    """Set and remove environment variables, for this process and for those that it starts."""
    for name in [name for name in os.environ if name.startswith(_DROPPED) and name not in _KEPT | PINNED.keys()]:
        del os.environ[name]
    os.environ.update(PINNED)


def pin_for_tensorflow(*, verbose: bool) -> None:
    """Pin the variables of a process that will import TensorFlow. Hide TensorFlow's messages unless `verbose`."""
    pin()
    if not verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def prepare() -> None:
    """Pin the driver's environment, and remove the folder of its script from the import path.

    Raises UsageError if a file in the current folder would be imported instead of a package, or if Ray cannot be
    imported.
    """
    if sys.flags.optimize > 1:
        raise UsageError("PYTHONOPTIMIZE=2, or python -OO: Ray cannot be imported without docstrings; leave it out")
    pin()
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("ignore")  # a library's warning must not end the run
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if HOME is not writable
    script = str(Path(sys.argv[0]).resolve().parent)
    ours = str(Path(__file__).resolve().parents[2])
    if sys.path and sys.path[0] == script != ours:
        del sys.path[0]  # Ray would add it to the workers' path too
    with suppress(FileNotFoundError):  # the current folder was deleted
        _check_imports(Path.cwd().resolve())


def _check_imports(folder: Path) -> None:
    for name in _IMPORTED:
        found = PathFinder.find_spec(name)
        if found is not None and folder / name in _places(found):
            raise UsageError(
                f"{folder / name}: would be imported instead of the package {name}; rename it, remove its folder from "
                "PYTHONPATH, or start the program in another folder"
            )


def _places(found: ModuleSpec) -> list[Path]:
    """Return the folders of a package, or the path of a module without its suffix."""
    if found.submodule_search_locations is not None:
        return [Path(place).resolve() for place in found.submodule_search_locations]
    return [Path(found.origin).resolve().with_suffix("")] if found.origin else []


@contextmanager
def importing_keras() -> Iterator[None]:
    """Import Keras and TensorFlow inside this context: without the user's `keras.json`, and without NEEDLESS."""
    with without_needless(), _keras_at_its_defaults():
        yield


@contextmanager
def without_needless() -> Iterator[None]:
    """Let imports in this context fail for NEEDLESS, except for those that are already imported.

    Keras and tensorboardX import these packages if they are installed, for plots, scikit-learn wrappers and S3, which
    this job does not use there. Without them, `import keras` in a worker takes 2.1 s of CPU time instead of 4.4 s
    (Keras 3.15, after `ray.train`).
    """
    hidden = [name for name in NEEDLESS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _keras_at_its_defaults() -> Iterator[None]:
    """Hide the user's `keras.json` in this context, and let Keras write none."""
    former = os.environ.get("KERAS_HOME")
    with tempfile.TemporaryDirectory(prefix="mnist-job-") as empty:
        os.environ["KERAS_HOME"] = empty
        try:
            yield
        finally:
            if former is None:
                del os.environ["KERAS_HOME"]
            else:
                os.environ["KERAS_HOME"] = former
    config: Any = sys.modules.get("keras.src.backend.config")
    if hasattr(config, "_KERAS_DIR"):  # Keras's folder for downloads stays the user's
        config._KERAS_DIR = former or str(Path("~/.keras").expanduser())
