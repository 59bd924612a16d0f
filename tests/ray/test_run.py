"""Test the program with a local Ray, as users start it: what it prints, what it writes, and its exit codes."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from pyarrow import fs

from mnist_job import __version__
from mnist_job.data import dataset, sources
from mnist_job.distributed import affinity
from mnist_job.evaluation.measures import Answers, measure
from mnist_job.evaluation.task import Candidate, loaded
from mnist_job.models import reference
from mnist_job.models.saved_model import probabilities
from mnist_job.phases import PHASES
from mnist_job.storage.files import File
from tests.conftest import (
    LONG,
    PAIR,
    PROGRAM,
    TINY,
    WAIT_SECONDS,
    command_line,
    descendants,
    free_port,
    job,
    start,
    tool,
    wait_for,
    workers,
)
from tests.unit.test_metrics import gateway_values, values
from tests.unit.test_tensorboard import read


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of a run on digits with two workers, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    result = job("run", "--data", "digits", "--epochs", "3", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


def outcome(folder: Path, name: str = "mnist-job") -> dict:
    return json.loads((folder / "runs" / name / "outcome.json").read_text())


def test_it_prints_the_epochs_and_the_result_and_nothing_of_ray_or_tensorflow(finished):
    folder, printed = finished
    history = outcome(folder)["training"]["history"]
    evaluation = outcome(folder)["evaluation"]
    assert printed.splitlines() == [
        "reading the data",
        f"mnist-job {__version__}: digits: 10 classes, images of 8x8: 1,149 for training, 288 for validation, "
        "360 for the test",
        "starting a local Ray",
        "training on 2 workers",
        "2 workers have started",
        *(
            f"epoch {row['epoch']}/3  loss {row['train_loss']:.4f}  validation loss {row['validation_loss']:.4f}  "
            f"validation accuracy {row['validation_accuracy']:.4f}  {row['seconds']:.1f} s"
            for row in history
        ),
        "evaluating on the test data",
        f"test accuracy {evaluation['accuracy']:.4f}, test loss {evaluation['loss']:.4f} (360 images)",
        "results in runs/mnist-job",
    ]


def test_it_leaves_the_files_of_the_design_and_nothing_else(finished):
    folder, _ = finished
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert [path.partition(".out.tfevents.")[0] for path in found] == [
        "runs",
        "runs/mnist-job",
        "runs/mnist-job/.mnist-job",
        "runs/mnist-job/history.csv",
        "runs/mnist-job/metrics.prom",
        "runs/mnist-job/model.keras",
        "runs/mnist-job/outcome.json",
        "runs/mnist-job/report.html",
        "runs/mnist-job/tensorboard",
        "runs/mnist-job/tensorboard/train",
        "runs/mnist-job/tensorboard/train/events",
        "runs/mnist-job/tensorboard/validation",
        "runs/mnist-job/tensorboard/validation/events",
    ]


def test_training_learns_and_its_history_is_whole(finished):
    folder, _ = finished
    with (folder / "runs/mnist-job/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    losses = [float(row["train_loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    accuracies = [float(row["train_accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies)
    assert 0 < accuracies[0] < accuracies[2] < 1
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-3)
    assert float(rows[2]["learning_rate"]) == pytest.approx(0.25e-3)  # (1 + cos(2/3 pi)) / 2


def test_tensorboard_shows_the_history(finished):
    folder, _ = finished
    train, validation = (read(folder / "runs/mnist-job/tensorboard" / run)[0] for run in ("train", "validation"))
    for scalars, tag, column in (
        (train, "epoch_loss", "train_loss"),
        (train, "epoch_accuracy", "train_accuracy"),
        (train, "epoch_learning_rate", "learning_rate"),
        (validation, "epoch_loss", "validation_loss"),
        (validation, "epoch_accuracy", "validation_accuracy"),
    ):
        expected = [(row["epoch"], np.float32(row[column])) for row in outcome(folder)["training"]["history"]]
        assert [(step, value) for name, step, value in scalars if name == tag] == expected
    within = {
        tag: [step for name, step, _ in train if name == tag] for tag in ("batch_loss", "batch_images_per_second")
    }
    for steps in within.values():
        assert {36, 72, 108} <= set(steps)  # the end of each epoch, and a report within it
        assert steps == sorted(steps)


def test_every_second_of_it_belongs_to_a_phase(finished):
    ended = outcome(finished[0])
    phases = ended["phases"]
    assert phases.keys() == PHASES.keys()
    until_delivery = sum(phases.values()) - phases["publish"]
    assert until_delivery == pytest.approx(ended["finished"] - ended["identity"]["started"], abs=0.1)


def test_its_metrics_are_valid_and_say_what_the_outcome_says(finished):
    folder, _ = finished
    text = (folder / "runs/mnist-job/metrics.prom").read_text()
    check = subprocess.run([tool("promtool"), "check", "metrics"], input=text, text=True, capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
    ended, found = outcome(folder), values(text)
    assert found["mnist_job_test_accuracy_ratio,dataset=digits"] == ended["evaluation"]["accuracy"]
    assert found["mnist_job_test_loss,dataset=digits"] == ended["evaluation"]["loss"]
    assert found["mnist_job_last_run_succeeded"] == 1
    assert found["mnist_job_workers"] == 2
    assert found["mnist_job_worker_restarts"] == 0


def test_the_saved_model_is_the_one_that_was_evaluated(finished):
    folder, _ = finished
    file = File(fs.LocalFileSystem(), str(folder / "runs/mnist-job/model.keras"))
    test = dataset.load_test(sources.read("digits"))[0]
    network = loaded(file, Candidate(file, "model"), compiled=False, on_gpu=False)
    answers = Answers.collected(probabilities(network, test.inputs, "model"), test.targets, "y_test")
    again = measure(answers, test.targets)
    ended = outcome(folder)
    assert again.loss == pytest.approx(ended["evaluation"]["loss"], rel=1e-6)
    assert again.confusion == ended["evaluation"]["confusion"]
    assert file.sha256() == ended["model_sha256"]


def test_evaluate_gives_the_runs_figures_again(finished, tmp_path):
    folder, _ = finished
    saved = folder / "runs/mnist-job/model.keras"
    result = job("evaluate", "--model", saved, "--data", "digits", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    again = outcome(tmp_path, "mnist-job-evaluation")
    assert again["evaluation"] == outcome(folder)["evaluation"]
    assert again["model_sha256"] == outcome(folder)["model_sha256"]
    assert sorted(path.name for path in (tmp_path / "runs/mnist-job-evaluation").iterdir()) == [
        ".mnist-job",
        "metrics.prom",
        "outcome.json",
        "report.html",
    ]


def test_the_driver_does_without_tensorflow(tmp_path):
    """This import takes the longest time of the start, and only workers and the evaluation need it."""
    script = (
        "import sys; from mnist_job.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('tensorflow', 'keras') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script, "run", *TINY]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS)
    assert result.stdout.splitlines()[-1] == "0 []"


def test_a_dry_run_checks_everything_and_leaves_nothing(tmp_path):
    result = job("run", *TINY, "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing was trained" in result.stdout
    assert list(tmp_path.iterdir()) == []


# --- every ending has its exit code -----------------------------------------------------------------------------------


def ends(result: subprocess.CompletedProcess[str], code: int, sentence: str, folder: Path) -> None:
    """Check that the program ended with this code and one line with this text, and left no new files."""
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert sentence in result.stderr
    assert not (folder / "runs").exists()


def test_exit_code_2_for_a_wrong_setting(tmp_path):
    ends(job("run", "--epochs", "none", cwd=tmp_path), 2, "--epochs: none:", tmp_path)


def test_exit_code_2_for_a_missing_model(tmp_path):
    ends(job("evaluate", "--model", "none.keras", *TINY[:2], cwd=tmp_path), 2, "--model none.keras", tmp_path)


def test_exit_code_2_for_a_cluster_that_is_none_is_told_once(tmp_path):
    flags = ("--kubernetes-result", "result", "--kubernetes-rayjob", "job")
    result = job("run", *TINY, *flags, cwd=tmp_path, HOME=str(tmp_path), KUBECONFIG=str(tmp_path / "none"))
    ends(result, 2, "--kubernetes-result, --kubernetes-rayjob: this is not a pod", tmp_path)


def test_exit_code_3_for_bad_data(tmp_path, npz, arrays):
    result = job("run", "--data", npz(y_train=arrays["y_train"][:50]), cwd=tmp_path)
    ends(result, 3, "x_train holds 100 images, y_train 50 labels", tmp_path)


def test_exit_code_4_for_a_cluster_that_is_too_small(tmp_path):
    result = job("run", *TINY, "--workers", "20", cwd=tmp_path)
    ends(result, 4, "the workers need 20 x 1 CPU", tmp_path)


def test_exit_code_4_for_gpus_that_are_not_there(tmp_path):
    ends(job("run", *TINY, "--use-gpu", cwd=tmp_path), 4, "0 GPUs", tmp_path)


def test_exit_code_4_for_a_cluster_that_does_not_answer(tmp_path):
    ends(job("run", *TINY, "--address", "127.0.0.1:1", cwd=tmp_path), 4, "--address 127.0.0.1:1", tmp_path)


def test_exit_code_6_for_a_model_that_gives_no_finite_value(tmp_path, pushgateway):
    network = reference.build((8, 8), 10, 16, ())
    network.set_weights([weights * np.nan for weights in network.get_weights()])
    network.save(tmp_path / "broken.keras")
    result = job("evaluate", "--model", "broken.keras", *TINY[:2], "--pushgateway-url", pushgateway, cwd=tmp_path)
    ends(result, 6, "not finite", tmp_path)
    assert set(gateway_values(pushgateway)) == {
        "mnist_job_last_run_succeeded",
        "mnist_job_last_completion_timestamp_seconds",
    }


def test_exit_code_7_below_the_wanted_accuracy_and_recall(finished, tmp_path, pushgateway):
    """The message contains both gates."""
    saved = finished[0] / "runs/mnist-job/model.keras"
    flags = ("--data", "digits", "--min-accuracy", "1", "--min-recall", "1", "--pushgateway-url", pushgateway)
    result = job("evaluate", "--model", saved, *flags, cwd=tmp_path)
    ended = outcome(tmp_path, "mnist-job-evaluation")
    worst = min(ended["evaluation"]["recall"])
    assert (result.returncode, result.stderr) == (
        7,
        f"mnist-job: test accuracy {ended['evaluation']['accuracy']:.4f} is below --min-accuracy 1, and the recall of "
        f"class {ended['evaluation']['recall'].index(worst)}, {worst:.4f}, is below --min-recall 1\n",
    )
    assert (ended["exit_code"], ended["reason"]) == (7, result.stderr.removeprefix("mnist-job: ").strip())
    assert gateway_values(pushgateway)["mnist_job_last_run_succeeded"] == 0


def test_exit_code_3_for_data_that_were_replaced_after_they_were_checked(tmp_path, npz, arrays):
    """They are replaced while Ray starts, before any worker has read them."""
    path = npz()
    process = start("run", "--data", path, "--workers", "1", "--batch-size", "8", cwd=tmp_path)
    wait_for(process, "starting a local Ray")
    npz(x_train=arrays["x_train"][::-1])
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (3, 1), stderr
    assert stderr.startswith(f"mnist-job: node {socket.gethostname()}: {path}: is not the data set that was checked: ")


def test_exit_code_8_where_the_metrics_cannot_be_pushed_and_the_files_are_there(finished, tmp_path):
    saved = finished[0] / "runs/mnist-job/model.keras"
    flags = ("--data", "digits", "--pushgateway-url", f"http://127.0.0.1:{free_port()}", "--delivery-timeout", "1")
    result = job("evaluate", "--model", saved, *flags, cwd=tmp_path)
    assert result.returncode == 8
    assert "could not be pushed within 1 s" in result.stderr
    assert outcome(tmp_path, "mnist-job-evaluation")["exit_code"] == 8
    assert (tmp_path / "runs/mnist-job-evaluation/metrics.prom").exists()


# --- what happens to a run in the middle ------------------------------------------------------------------------------


def test_exit_code_130_when_interrupted_and_nothing_is_left(tmp_path, pushgateway):
    process = start("run", *LONG, *PAIR, "--pushgateway-url", pushgateway, cwd=tmp_path)
    wait_for(process, "epoch ")
    started = descendants(process)
    (temporary,) = {Path(found) for part in started for found in re.findall(r"/tmp/mnist-job-\w+", command_line(part))}
    assert temporary.exists()
    assert len(workers(process)) == 2
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stderr) == (
        130,
        "mnist-job: interrupted; nothing was published, and the same command resumes from the last checkpoint\n",
    )
    _, alive = psutil.wait_procs(started, timeout=WAIT_SECONDS)
    assert alive == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".mnist-job"]
    assert not temporary.exists()
    assert gateway_values(pushgateway)["mnist_job_last_run_succeeded"] == 0


def test_exit_code_5_when_workers_are_lost_more_often_than_allowed(tmp_path):
    process = start("run", *LONG, "--max-failures", "0", cwd=tmp_path)
    wait_for(process, "epoch ")
    started = descendants(process)
    workers(process)[0].kill()
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, len(stderr.splitlines())) == (5, 1), stderr
    assert stderr.startswith("mnist-job: training failed: ")
    _, alive = psutil.wait_procs(started, timeout=WAIT_SECONDS)
    assert alive == []
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".mnist-job"]


def test_a_worker_that_stops_answering_counts_as_lost(tmp_path):
    """The worker is stopped, not killed. So it does not answer, and the other one waits for it in a collective."""
    process = start("run", *LONG, *PAIR, "--max-failures", "0", "--worker-timeout", "15", cwd=tmp_path)
    wait_for(process, "epoch ")
    workers(process)[0].suspend()
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    told = r"mnist-job: training failed: worker [01] on node \S+ did not answer for 15 seconds \(--worker-timeout\)\n"
    assert process.returncode == 5
    assert re.fullmatch(told, stderr), stderr


@pytest.mark.alone  # it would have the CPUs
@pytest.mark.skipif(
    Path("/proc/self/ns/pid").stat().st_ino != affinity.HOST, reason="this is a container, where no CPU is claimed"
)
def test_each_worker_of_a_local_ray_keeps_to_a_cpu_of_its_own(tmp_path):
    process = start("run", *LONG, *PAIR, cwd=tmp_path)
    wait_for(process, "2 workers have started")
    allowed = []
    for worker in workers(process):
        threads = [os.sched_getaffinity(thread.id) for thread in worker.threads()]
        allowed.append(min(threads, key=len))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_SECONDS)
    assert [len(cpus) for cpus in allowed] == [1, 1]
    assert allowed[0] != allowed[1]


@pytest.mark.full
def test_verbose_shows_what_is_hidden_otherwise(tmp_path):
    result = job("run", *TINY, "--verbose", "--min-accuracy", "1", cwd=tmp_path)
    assert result.returncode == 7
    assert "MultiWorkerMirroredStrategy" in result.stdout + result.stderr
    assert "the first worker importing TensorFlow" in result.stdout  # in the table of times
    assert "Traceback" in result.stderr


def test_a_terminal_shows_a_live_bar(tmp_path):
    """`script` gives the program a terminal."""
    command = f"{PROGRAM} run {' '.join(TINY)}"
    shown = subprocess.run(
        [tool("script"), "-qec", command, "/dev/null"],
        cwd=tmp_path,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert shown.returncode == 0
    assert "training on 1 worker" in shown.stdout
    assert "epoch 1/1  step 36/36  loss " in shown.stdout
    assert "images/s" in shown.stdout
    assert "━" in shown.stdout
    assert "\x1b[" in shown.stdout
    assert "epoch 1/1  loss" in shown.stdout
