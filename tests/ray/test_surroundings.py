"""Test that a run computes the same for all variables, files of Keras, files in the current folder, and proxies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PAIR, PARTS, TINY, job
from tests.proxy import Proxy

RUN = ("run", *TINY, *PAIR)
STRAY = {
    "KERAS_BACKEND": "jax",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "1",
    "OMP_NUM_THREADS": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "XLA_FLAGS": "--no_such_flag",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


def loss(folder: Path) -> float:
    return json.loads((folder / "runs/mnist-job/outcome.json").read_text())["evaluation"]["loss"]


@pytest.mark.full
def test_a_run_in_the_worst_surroundings_ends_with_the_same_digits(tmp_path):
    """Also, workers connect to each other directly, and not through a proxy."""
    clean, stray = tmp_path / "clean", tmp_path / "stray"
    for folder in (clean, stray, stray / "tensorflow", tmp_path / "keras"):
        folder.mkdir()
    assert job(*RUN, cwd=clean).returncode == 0
    for file in ("keras.py", "numpy.py", "ray.py", "tensorflow/__init__.py", *(f"{part}.py" for part in PARTS)):
        (stray / file).write_text("raise SystemExit('imported from the current folder')")
    settings = {"floatx": "float16", "epsilon": 0.5, "backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras/keras.json").write_text(json.dumps(settings))
    with Proxy() as proxy:
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTPS_PROXY"), proxy.url)
        surroundings = os.environ | STRAY | proxies | {"KERAS_HOME": str(tmp_path / "keras"), "HOME": "/dev/null/home"}
        command = [sys.executable, "-m", "mnist_job", *RUN]
        result = subprocess.run(command, cwd=stray, env=surroundings, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "all workers restart" not in result.stdout
    assert loss(stray) == pytest.approx(loss(clean), abs=1e-7)
    assert proxy.requests == []
    assert [path.name for path in (tmp_path / "keras").iterdir()] == ["keras.json"]


def test_a_python_that_ray_cannot_be_imported_by_is_named_at_once(tmp_path):
    result = job(*RUN, cwd=tmp_path, PYTHONOPTIMIZE="2")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("mnist-job: PYTHONOPTIMIZE=2, or python -OO: Ray cannot be imported")


def test_a_file_that_all_processes_would_import_is_named_at_once(tmp_path):
    (tmp_path / "numpy.py").touch()
    result = job(*RUN, cwd=tmp_path, PYTHONPATH=os.pathsep + os.environ.get("PYTHONPATH", ""))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"mnist-job: {tmp_path}/numpy: would be imported instead of the package numpy")
