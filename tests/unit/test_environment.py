"""Test what of the environment is set, removed or refused. tests/ray has a run in the worst of all environments."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources
from mnist_job.errors import DataError, UsageError
from mnist_job.system import environment
from tests.conftest import PROGRAM
from tests.proxy import Proxy


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Restore this process's variables and sys.path after each test."""
    before, path = dict(os.environ), list(sys.path)
    yield
    sys.path[:] = path
    sys.path_importer_cache.clear()  # it remembers which folder "." was
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KERAS_BACKEND", "jax"),
        ("KERAS_MAX_EPOCHS", "1"),
        ("TF_XLA_FLAGS", "--tf_xla_auto_jit=2"),
        ("TF_ENABLE_ONEDNN_OPTS", "0"),
        ("TF_USE_LEGACY_KERAS", "1"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
        ("PYTHONWARNINGS", "error"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONINSPECT", "1"),
        ("RAY_TRAIN_V2_ENABLED", "0"),
        ("grpc_proxy", "http://proxy:3128"),
    ],
)
def test_what_changes_a_result_is_pinned_or_dropped(name, value):
    os.environ[name] = value
    environment.pin()
    assert os.environ.get(name) == environment.PINNED.get(name)


@pytest.mark.parametrize(
    "name",
    [
        *("http_proxy", "HTTPS_PROXY", "no_proxy", "KERAS_HOME", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "TF_CONFIG"),
        *(
            "RAY_ADDRESS",
            "RAY_AUTH_TOKEN",
            "CUDA_VISIBLE_DEVICES",
            "AWS_PROFILE",
            "MNIST_JOB_EPOCHS",
            "OMP_NUM_THREADS",
        ),
    ],
)
def test_variables_about_places_are_kept(name):
    os.environ[name] = "value"
    environment.pin()
    assert os.environ[name] == "value"


SAYS_WHERE = ("http_proxy", "KERAS_HOME", "PYTHONPATH", "TF_CONFIG", "RAY_ADDRESS", "AWS_PROFILE", "MNIST_JOB_SEED")
VALUES = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12)
CHANGES = st.builds(
    str.__add__, st.sampled_from(["KERAS_", "TF_", "XLA_", "PYTHON"]), st.from_regex(r"\A[A-Z_]{4,16}\Z")
)


@given(
    stays=st.dictionaries(st.sampled_from(SAYS_WHERE), VALUES),
    stray=st.dictionaries(CHANGES | st.sampled_from(sorted(environment.PINNED)), VALUES),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # `surroundings` restores everything at the end
def test_in_any_environment_the_same_is_computed_at_the_same_places(stays, stray):
    """For all other variables that a user sets, the variables of a run are the same as in a clean shell."""
    assume(not stray.keys() & environment._KEPT)
    pinned = []
    for variables in (stays, stays | stray):
        os.environ.clear()
        os.environ.update(variables)
        environment.pin()
        pinned.append(dict(os.environ))
    assert pinned[0] == pinned[1] == stays | environment.PINNED


@pytest.mark.parametrize("name", ["keras.py", "numpy.py", "ray.py", "tensorflow.py", "keras/__init__.py"])
@pytest.mark.parametrize("entry", ["", ".", "{folder}"])
def test_a_file_that_would_stand_in_for_a_package_is_refused(tmp_path, monkeypatch, name, entry):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [PROGRAM])
    environment.prepare()  # nothing is imported from this folder, so it may contain anything
    sys.path.insert(0, entry.format(folder=tmp_path))
    package = name.partition("/")[0].removesuffix(".py")
    with pytest.raises(UsageError, match=f"{tmp_path}/{package}: would be imported instead of the package {package}"):
        environment.prepare()


def test_data_and_folders_may_have_a_packages_name(tmp_path, monkeypatch):
    """Python prefers any installed package to a folder without Python files."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "numpy.npz").touch()
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, "")
    environment.prepare()


KERAS = """
from mnist_job.system import environment
environment.pin()
with environment.importing_keras():
    import keras
from keras.src.backend.config import keras_home
print(keras.backend.backend(), keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format())
print(keras.config.dtype_policy().name, keras_home())
"""


def test_keras_has_its_defaults_whatever_its_file_says(tmp_path):
    written = {"floatx": "float16", "epsilon": 0.5, "backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(written))
    surroundings = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-W", "ignore", "-c", KERAS]
    printed = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["tensorflow", "float32", "1e-07", "channels_last", "float32", str(tmp_path)]
    assert json.loads((tmp_path / "keras.json").read_text()) == written


def test_a_download_goes_through_the_proxy(tmp_path):
    with Proxy() as proxy:
        os.environ.update({"https_proxy": proxy.url, "KERAS_HOME": str(tmp_path)})
        environment.pin()
        with pytest.raises(DataError, match="cannot be downloaded"):
            dataset.check(JobConfig(), sources.read("mnist"))
    assert proxy.requests == ["CONNECT storage.googleapis.com:443 HTTP/1.0"]
