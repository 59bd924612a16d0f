"""Test the figures of `make benchmark`, and its tables."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.models import source
from mnist_job.phases import PHASES
from ops.benchmark import measure, rows, steps, tables

OUTCOME = {
    "phases": {
        "data": 1.0,
        "ray_start": 2.0,
        "worker_start": 3.0,
        "imports": 4.0,
        "setup": 1.0,
        "tracing": 1.5,
        "training": 2.5,
        "validation": 0.5,
        "checkpoint": 0.25,
        "worker_stop": 1.0,
        "evaluate": 0.5,
        "publish": 0.1,
    },
    "training": {"workers": 2, "history": [{"seconds": 1.5}, {"seconds": 1.5}]},
    "evaluation": {"accuracy": 0.98, "loss": 0.07},
}


def test_training_counts_tracing_validation_and_checkpoints_as_the_others_fit_does():
    said = rows.of_outcome(OUTCOME)
    assert said["training"] == 1.5 + 2.5 + 0.5 + 0.25  # the epochs alone took 3 seconds
    assert (said["accuracy"], said["loss"]) == (0.98, 0.07)


def test_every_phase_between_setup_and_the_end_of_the_workers_is_counted():
    """A new phase of the loop must be a part of the figure."""
    names = list(PHASES)
    assert list(rows.COUNTED) == names[names.index("setup") + 1 : names.index("worker_stop")]


def result(row: str, repetition: int, **figures: float) -> dict:
    return {"row": row, "repetition": repetition, "wall": 1.0, "cpu": 1.0, "peak": 2**30, "training": 1.0, **figures}


def lines(table: str, start: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith(f"| {start}")]


def test_a_ratio_is_taken_within_a_repetition():
    slow_then_fast = [
        result("job-1", 0, wall=20.0),
        result("notebook", 0, wall=40.0),
        result("job-1", 1, wall=10.0),
        result("notebook", 1, wall=20.0),
    ]
    (line,) = lines(tables.tables([slow_then_fast]), "this job, 1 worker / ")
    assert line.split(" | ")[1] == "0.50", "the machine's mood cancels out"


def test_figures_of_several_machines_are_the_median_of_their_medians_and_the_range_over_all():
    def machine(*walls: float) -> list[dict]:
        return [result("job-1", number, wall=wall) for number, wall in enumerate(walls)]

    (line,) = lines(tables.tables([machine(1, 2, 9), machine(4), machine(6, 8)]), "this job, 1 worker |")
    assert line.split(" | ")[1] == "4.0 (1.0..9.0)"


def test_what_was_not_measured_is_left_out_of_the_tables():
    text = tables.tables([[result("torch-2", 0), result("job-2", 0, accuracy=0.98, phases={"evaluate": 0.4})]])
    assert len(lines(text, "this job, 2 workers / Ray's TorchTrainer, 2 workers")) == 1
    assert "notebook" not in text
    assert "bare all-reduce" not in text
    assert "| the evaluate task, s | 0.40 |" in text


def test_a_row_of_fewer_epochs_is_compared_by_what_can_be_compared():
    text = tables.tables([[result("job-2", 0, training=2.0), result("ray-keras-2", 0, training=8.0)]])
    (line,) = lines(text, "this job, 2 workers / ")
    assert line.endswith("epochs |  | 0.25 |  | 1.00 |"), line


def test_rows_of_other_epochs_have_a_table_of_their_own():
    text = tables.tables([[result("job-1", 0), result("cnn-fit", 0, training=4.0), result("cnn-2", 0, training=3.0)]])
    whole, of_the_cnn, ratios = text.split("\n\n")
    assert "training of 10 epochs" in whole
    assert "training of 6 epochs" in of_the_cnn
    assert len(lines(of_the_cnn, "")) == 4
    (line,) = lines(ratios, "this job: a user's CNN, 2 workers")
    assert line.split(" | ")[2] == "0.75"


def test_the_users_cnn_of_the_jobs_rows_is_found_and_has_its_weights(tmp_path):
    settings = JobConfig(**dict(zip(("model", "epochs"), rows.CNN[1::2], strict=True)))
    assert settings.epochs == next(row.epochs for row in rows.ROWS if row.name == "cnn-fit")
    network = source.read(settings.model, {}, None, ())
    with network.code.importable(tmp_path):
        assert 100_000 < network.build(source.Shapes((28, 28), 10, 255, 0)).count_params() < 130_000


def test_every_row_that_is_compared_is_one_that_is_measured():
    assert {*tables.BESIDE, *(other for others in tables.BESIDE.values() for other in others)} == {*rows.NAMES}


@pytest.mark.parametrize("row", [row for row in rows.ROWS if row.module], ids=lambda row: row.name)
def test_a_rows_module_takes_the_arguments_that_the_row_gives(row: rows.Row):
    """The module is parsed and not imported, because its libraries are only in the benchmark's environment."""
    source = Path(rows.__file__).with_name(f"{row.module[0]}.py").read_text()
    mains = [one.args for one in ast.parse(source).body if isinstance(one, ast.FunctionDef) and one.name == "main"]
    for arguments in mains:
        names = [argument.arg for argument in arguments.args if argument.arg != "folder"]
        assert len(names) - len(arguments.defaults) <= 1 + len(row.module[1:]) <= len(names)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_is_measured(tmp_path, processes):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (200, 28, 28), np.uint8), np.arange(200) % 10
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (row,) = steps.measured(str(tmp_path / "data.npz"), [steps.Host()] * processes, ["32:8,4"])
    assert (row["workers"], row["batch"], row["hidden"], row["parameters"]) == (processes, 32, [8, 4], 6366)
    assert row["step"] > 0
    assert ("all_reduce" in row) == (processes == 2)


def test_the_benchmarks_own_lock_has_the_versions_that_the_tests_run_with():
    root = Path(rows.__file__).parents[2]
    text = (root / "requirements-benchmark.lock").read_text()
    own, tested = (
        set(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock, re.MULTILINE))
        for lock in (text, (root / "requirements-dev.lock").read_text())
    )
    shared = {name for name, _ in own} & {name for name, _ in tested}
    assert {"keras", "numpy", "ray"} <= shared
    assert {pin for pin in own if pin[0] in shared} <= tested
    assert not shared & {"jax", "torch"}, "only `make benchmark` installs these"


FAMILY = """
import mmap, os, sys
shared = mmap.mmap(-1, 64 << 20)
shared.write(b"x" * (64 << 20))
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
child = os.fork()
assert sum(mapped[::4096]) == 0
assert set(shared[::4096]) == {ord("x")}
own = bytearray(b"x" * (64 << 20))
os.write(1, b"ready\\n")  # one write: a line of `print` may be two, and another process's between them
sys.stdin.read()
if child:
    os.waitpid(child, 0)
"""


def test_a_look_at_memory_adds_what_each_process_owns_and_counts_what_they_share_once(tmp_path):
    library = tmp_path / "library"
    library.write_bytes(bytes(256 << 20))
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(library)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        watch = measure.Watch(process.pid)
        assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
        watch.look()
        process.stdin.close()
        process.wait()
    watch.look()
    held = (64 + 64 + 64) << 20  # the memory of each process, and shared memory once; the mapped file does not count
    assert held <= watch.peak < held + (60 << 20)


def test_a_process_is_looked_at_from_its_first_moment():
    cost = measure.run([sys.executable, "-c", "print('said')"])
    assert cost.stdout == "said\n"
    assert cost.peak > 0
    assert cost.wall > 0
