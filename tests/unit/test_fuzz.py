"""Test thousands of broken files and settings. Each must raise its own error, or none."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from mnist_job.config import sources
from mnist_job.config.settings import EvaluateConfig, JobConfig
from mnist_job.data import dataset
from mnist_job.errors import DataError, UsageError

# The same examples each time, so that a failure in CI can be repeated here. `--hypothesis-seed` tries others.
many = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FIELDS = sorted(JobConfig.model_fields.keys() | EvaluateConfig.model_fields.keys())
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["0", "-1", "1e999", "nan", "1:2", "2:1", "9" * 400, "mnist", "http://", "a:b@c", "x.prom", "\x00"]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(FIELDS) | st.text(max_size=12)


def loaded_or_refused(kind, flags, environment, file) -> None:
    """Check that the settings are within their limits, or that there is an error without a traceback."""
    try:
        config = sources.load(kind, flags, environment, file)
    except UsageError as error:
        assert str(error).strip()
        assert "Traceback" not in str(error)
    else:
        kind.model_validate(config.model_dump())
        config.config_hash()


@many
@given(content=st.dictionaries(names, anything, max_size=6), kind=st.sampled_from([JobConfig, EvaluateConfig]))
def test_settings_from_a_file(tmp_path, content, kind):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    loaded_or_refused(kind, {}, {}, str(file))


@many
@given(content=st.binary(max_size=80) | st.text(alphabet="[]{}:,-&*!|>'\"%@` \n\tab1\x00", max_size=60).map(str.encode))
def test_a_file_that_may_not_even_be_yaml(tmp_path, content):
    (tmp_path / "job.yaml").write_bytes(content)
    loaded_or_refused(JobConfig, {}, {}, str(tmp_path / "job.yaml"))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@many
@given(
    flags=st.dictionaries(st.sampled_from(sorted(JobConfig.model_fields)), texts, max_size=4),
    environment=st.dictionaries(names.map(lambda name: f"MNIST_JOB_{name.upper()}"), texts, max_size=4),
)
def test_settings_from_flags_and_variables(flags, environment):
    loaded_or_refused(JobConfig, flags, environment, None)


@pytest.fixture(scope="module")
def intact() -> bytes:
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x_train=random.integers(0, 256, (20, 3, 3), dtype=np.uint8),
        y_train=np.arange(20) % 2,
        x_test=random.integers(0, 256, (6, 3, 3), dtype=np.uint8),
        y_test=np.arange(6) % 2,
    )
    return buffer.getvalue()


def checked_or_refused(file: Path) -> None:
    try:
        summary = dataset.check(JobConfig(batch_size=4), sources.read(str(file)))
    except DataError as error:
        assert re.search(r"data\.npz", str(error)), error  # the message names the file
    else:
        assert summary.classes >= 2
        assert summary.train >= 4


@many
@given(instruction=st.data())
def test_a_damaged_npz(tmp_path, intact, instruction):
    """Return the content with bytes changed, removed or inserted, or with the end cut off."""
    content = bytearray(intact)
    for _ in range(instruction.draw(st.integers(1, 4))):
        at = instruction.draw(st.integers(0, max(len(content) - 1, 0)))
        match instruction.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change" if content:
                content[at] = instruction.draw(st.integers(0, 255))
            case "remove":
                del content[at : at + instruction.draw(st.integers(1, 50))]
            case "insert":
                content[at:at] = instruction.draw(st.binary(max_size=20))
            case "cut":
                del content[at:]
    (tmp_path / "data.npz").write_bytes(content)
    checked_or_refused(tmp_path / "data.npz")


dtypes = st.sampled_from(["u1", "i1", "<i4", ">i8", "<f4", "<f8", "f2", "?", "c8", "S3", "U2", "O", "V4", "M8[s]"])
shapes = st.lists(st.integers(0, 21), max_size=5).map(tuple)


@st.composite
def arrays(draw) -> bytes:
    """Return an .npy file of any dtype and shape, or bytes that only look like one."""
    dtype, shape = np.dtype(draw(dtypes)), draw(shapes)
    header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": draw(st.booleans()), "shape": shape}
    stream = io.BytesIO()
    if draw(st.integers(0, 9)):
        npy_format.write_array_header_1_0(stream, header)
    else:
        text = draw(st.text("{}()[]'\":,0123456789 descrfortan_hpu<\n", max_size=60)).encode()
        stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    stream.write(draw(st.binary(min_size=min(size, 4000), max_size=min(size, 4000))))
    return stream.getvalue()


@many
@given(
    members=st.fixed_dictionaries({}, optional={name: arrays() for name in ("x_train", "y_train", "x_test", "y_test")})
)
def test_an_npz_of_arbitrary_arrays(tmp_path, intact, members):
    """Replace some arrays of an intact file."""
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(io.BytesIO(intact)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, members.get(name.removesuffix(".npy"), source.read(name)))
    checked_or_refused(path)
