"""What a run takes from its surroundings and what not: it computes the same, whatever variables and files are there.

Each process of a run pins what it depends on before it imports that; those of a local Ray inherit it from the driver.
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
    # gRPC's own variable, empty: TensorFlow and Ray speak to the other nodes directly. What is downloaded, and object
    # stores, go on through the proxy that `http_proxy` and `https_proxy` name.
    "grpc_proxy": "",
}
# What else begins so changes what is computed, or the processes that compute it.
_DROPPED = ("KERAS_", "TF_", "XLA_", "NVIDIA_TF32_OVERRIDE", "PYTHON", "RAY_CLIENT_MODE", "RAY_LOG_TO_STDERR")
_KEPT = frozenset(
    {"KERAS_HOME", "TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING"}
)
# Everything that the processes of a run import from elsewhere, by its import name.
_IMPORTED = (
    *("ray", "keras", "tensorflow", "numpy", "pyarrow", "pydantic", "yaml", "sklearn", "scipy", "pooch", "h5py"),
    *("prometheus_client", "kubernetes", "rich", "tenacity", "tensorboardX", "PIL", "matplotlib", "google", "grpc"),
)


def pin() -> None:
    """Set and remove variables of this process, for itself and for those that it starts."""
    for name in [name for name in os.environ if name.startswith(_DROPPED) and name not in _KEPT | PINNED.keys()]:
        del os.environ[name]
    os.environ.update(PINNED)


def prepare() -> None:
    """Pin what the driver depends on, and take its program's folder off the path of imports.

    Raises UsageError where a file of the current folder would be imported in place of a package, or Ray cannot be.
    """
    if sys.flags.optimize > 1:
        raise UsageError("PYTHONOPTIMIZE=2, or python -OO: Ray cannot be imported without docstrings; leave it out")
    pin()
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("ignore")  # a library's warning is no failure of the run
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a HOME that it cannot write
    script = str(Path(sys.argv[0]).resolve().parent)
    ours = str(Path(__file__).resolve().parents[2])
    if sys.path and sys.path[0] == script != ours:
        del sys.path[0]  # Ray hands it on to the workers
    with suppress(FileNotFoundError):  # a current folder that is gone holds nothing
        _check_imports(Path.cwd().resolve())


def _check_imports(folder: Path) -> None:
    for name in _IMPORTED:
        found = PathFinder.find_spec(name)
        if found is not None and folder / name in _places(found):
            raise UsageError(
                f"{folder / name}: would be imported in place of the package {name}; rename it, take its folder out "
                "of PYTHONPATH, or start the program in another folder"
            )


def _places(found: ModuleSpec) -> list[Path]:
    """Where an import would find the folder of a package, or a module, whose suffix is left out."""
    if found.submodule_search_locations is not None:
        return [Path(place).resolve() for place in found.submodule_search_locations]
    return [Path(found.origin).resolve().with_suffix("")] if found.origin else []


@contextmanager
def keras_at_its_defaults() -> Iterator[None]:
    """Import Keras inside of this: it does not see the user's `keras.json`, nor write one."""
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
    if hasattr(config, "_KERAS_DIR"):  # where it keeps downloads, which stays
        config._KERAS_DIR = former or str(Path("~/.keras").expanduser())
