"""Test the output of a run for scripts and log collectors: one JSON document, and lines that are JSON objects."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROGRAM, TINY, WAIT_SECONDS, job


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict, list[dict]]:
    """Return the folder of a run, its document and its lines."""
    folder = tmp_path_factory.mktemp("output")
    result = job("run", *TINY, "-o", "json", cwd=folder, MNIST_JOB_LOG_FORMAT="json")
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout), [json.loads(line) for line in result.stderr.splitlines()]


def outcome(folder: Path, name: str = "mnist-job") -> dict:
    return json.loads((folder / "runs" / name / "outcome.json").read_text())


def test_the_document_says_what_the_outcome_says(finished):
    folder, document, _ = finished
    ended = outcome(folder)
    assert document == {
        "name": "mnist-job",
        "run": ended["identity"]["run"],
        "accuracy": ended["evaluation"]["accuracy"],
        "loss": ended["evaluation"]["loss"],
        "samples": 360,
        "results": "runs/mnist-job",
        "exit_code": 0,
        "reason": None,
    }


def test_every_line_is_an_object_and_an_epochs_holds_its_history(finished):
    folder, document, lines = finished
    assert {line["level"] for line in lines} <= {"info", "warning"}
    warnings = [line["message"] for line in lines if line["level"] == "warning"]
    assert all(message.startswith("recall 0: ") for message in warnings)  # because it trained only one epoch
    (epoch,) = (line for line in lines if "epoch" in line)
    history = outcome(folder)["training"]["history"][0]
    left_out = {name: history.pop(name) for name in ("train_metrics", "validation_metrics", "stopped_by")}
    assert left_out == {"train_metrics": {}, "validation_metrics": {}, "stopped_by": None}
    assert {name: epoch[name] for name in history} == history
    assert [line["accuracy"] for line in lines if "accuracy" in line] == [document["accuracy"]]


def test_the_same_command_again_gives_the_same_document(finished):
    folder, document, _ = finished
    again = job("run", *TINY, "-o", "json", cwd=folder)
    assert (again.returncode, json.loads(again.stdout)) == (0, document)


def test_a_model_below_the_wanted_accuracy_has_a_document_and_rays_logs_are_not_in_it(finished):
    folder, document, _ = finished
    flags = ("--model", "runs/mnist-job/model.keras", *TINY[:2], "--min-accuracy", "1", "-o", "json", "--verbose")
    result = job("evaluate", *flags, cwd=folder)
    assert result.returncode == 7
    assert json.loads(result.stdout) == document | {
        "name": "mnist-job-evaluation",
        "run": outcome(folder, "mnist-job-evaluation")["identity"]["run"],
        "results": "runs/mnist-job-evaluation",
        "exit_code": 7,
        "reason": f"test accuracy {document['accuracy']:.4f} is below --min-accuracy 1",
    }


@pytest.mark.full
def test_a_run_that_nobody_reads_runs_on(tmp_path):
    """The reader has closed the pipe, as in `mnist-job run | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [PROGRAM, "run", *TINY]
    ended = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert outcome(tmp_path)["exit_code"] == 0
