"""Test the metrics with promtool and a real Pushgateway, and which of them a failure keeps."""

import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mnist_job.config.settings import JobConfig
from mnist_job.errors import DeliveryError, UsageError
from mnist_job.evaluation.measures import Evaluation
from mnist_job.results import metrics
from mnist_job.results.outcome import Identity, Outcome, TrainingRecord
from mnist_job.training.progress import Epoch
from tests.conftest import free_port, pushgateway_command, tool

ROW = Epoch(1, 0.5, 0.4, 0.9, 1e-3, 1.5, train_accuracy=0.8)


def outcome(**changes) -> Outcome:
    identity = Identity.of(JobConfig(data="digits", name="nightly"))
    whole = {
        "identity": identity,
        "finished": identity.started + 10,
        "exit_code": 0,
        "training": TrainingRecord(2, 1, 5.0, [ROW]),
        "evaluation": Evaluation(4, 0.25, 0.75, [0.5, None, 1.0], [[1, 1, 0], [0, 0, 0], [0, 0, 2]]),
        "evaluation_seconds": 2.0,
        "model_sha256": "ab",
        "phases": {"imports": 2.5, "training": 1.5},
    }
    return Outcome(**(whole | changes))


def failed(code: int = 5) -> Outcome:
    return outcome(exit_code=code, reason="broken", training=None, evaluation=None, model_sha256=None, phases={})


def values(text: str) -> dict[str, float]:
    """Return a dictionary from metric name and labels to the value."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        name + "".join(f",{k}={v}" for k, v in sorted(labels.items()) if k not in ("job", "instance")): value
        for name, labels, value, *_ in samples
    }


def test_every_metric_of_the_design_is_there_and_promtool_finds_no_fault():
    ended = outcome()
    text = metrics.text(ended)
    check = subprocess.run([tool("promtool"), "check", "metrics"], input=text, text=True, capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
    found = values(text)
    info = next(name for name in found if name.startswith("mnist_job_info,"))
    assert f"run={ended.identity.run}" in info
    assert f"config_hash={ended.identity.config_hash}" in info
    del found[info]
    assert found == {
        "mnist_job_test_accuracy_ratio,dataset=digits": 0.75,
        "mnist_job_test_loss,dataset=digits": 0.25,
        "mnist_job_test_samples,dataset=digits": 4,
        "mnist_job_test_worst_class_recall_ratio,dataset=digits": 0.5,
        "mnist_job_test_class_recall_ratio,class=0,dataset=digits": 0.5,
        "mnist_job_test_class_recall_ratio,class=2,dataset=digits": 1,
        "mnist_job_validation_accuracy_ratio,dataset=digits": 0.9,
        "mnist_job_validation_loss,dataset=digits": 0.4,
        "mnist_job_train_loss,dataset=digits": 0.5,
        "mnist_job_trained_epochs": 1,
        "mnist_job_kept_epoch": 1,
        "mnist_job_training_duration_seconds": 5,
        "mnist_job_evaluation_duration_seconds": 2,
        "mnist_job_duration_seconds": 10,
        "mnist_job_phase_duration_seconds,phase=imports": 2.5,
        "mnist_job_phase_duration_seconds,phase=training": 1.5,
        "mnist_job_workers": 2,
        "mnist_job_worker_restarts": 1,
        "mnist_job_last_success_timestamp_seconds": ended.finished,
        "mnist_job_last_completion_timestamp_seconds": ended.finished,
        "mnist_job_last_run_succeeded": 1,
    }


def test_they_are_those_of_the_kept_epoch():
    rows = [replace(ROW, epoch=epoch, validation_loss=0.1 * epoch) for epoch in (1, 2, 3)]
    found = values(metrics.text(outcome(training=TrainingRecord(2, 1, 5.0, rows, 2, "it was enough"))))
    assert (found["mnist_job_kept_epoch"], found["mnist_job_trained_epochs"]) == (2, 3)
    assert found["mnist_job_validation_loss,dataset=digits"] == 0.2


def gateway_values(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = values(answer.read().decode())
    return {name: value for name, value in found.items() if name.startswith("mnist_job")}


def test_a_pushgateway_keeps_the_last_success_when_a_run_fails(pushgateway):
    success, failure = outcome(), failed()
    metrics.push(success, pushgateway, timeout=20)
    before = gateway_values(pushgateway)
    assert before == values(metrics.text(success))
    metrics.push(failure, pushgateway, timeout=20)
    assert gateway_values(pushgateway) == before | {
        "mnist_job_last_run_succeeded": 0,
        "mnist_job_last_completion_timestamp_seconds": failure.finished,
    }


def test_a_success_replaces_all_of_the_last_one(pushgateway):
    metrics.push(outcome(), pushgateway, timeout=20)
    metrics.push(outcome(training=None), pushgateway, timeout=20)
    assert "mnist_job_workers" not in gateway_values(pushgateway)


def test_the_grouping_key_is_the_jobs_name_alone(pushgateway):
    metrics.push(outcome(), pushgateway, timeout=20)
    metrics.push(outcome(), pushgateway, timeout=20)
    with urllib.request.urlopen(f"{pushgateway}/metrics") as answer:
        assert answer.read().decode().count('mnist_job_workers{instance="",job="nightly"}') == 1


def test_a_pushgateway_that_starts_late_is_waited_for(tmp_path):
    """Nothing listens yet at the first attempts."""
    port = free_port()
    command = pushgateway_command(f"127.0.0.1:{port}")
    with (tmp_path / "log").open("w") as log:
        started: list[subprocess.Popen[bytes]] = []
        later = threading.Timer(1, lambda: started.append(subprocess.Popen(command, stderr=log)))
        later.start()
        try:
            metrics.push(outcome(), f"http://127.0.0.1:{port}", timeout=60)
            assert gateway_values(f"http://127.0.0.1:{port}")["mnist_job_workers"] == 2
        finally:
            later.join()
            started[0].terminate()
            started[0].wait()


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_pushgateway_that_never_answers_is_given_up(silent):
    with pytest.raises(DeliveryError, match=r"could not be pushed within 0\.5 s"):
        metrics.push(outcome(), silent, timeout=0.5)


def test_the_textfile_keeps_the_last_success_when_a_run_fails(tmp_path):
    path = tmp_path / "job.prom"
    success, failure = outcome(), failed()
    metrics.write_textfile(success, str(path))
    assert values(path.read_text()) == values(metrics.text(success))
    metrics.write_textfile(failure, str(path))
    assert values(path.read_text()) == values(metrics.text(success)) | {
        "mnist_job_last_run_succeeded": 0,
        "mnist_job_last_completion_timestamp_seconds": failure.finished,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_run_that_fails_leaves_its_status(tmp_path):
    metrics.write_textfile(failed(), str(tmp_path / "job.prom"))
    assert set(values((tmp_path / "job.prom").read_text())) == {
        "mnist_job_last_run_succeeded",
        "mnist_job_last_completion_timestamp_seconds",
    }


def test_a_textfile_without_a_folder_is_refused_beforehand(tmp_path):
    with pytest.raises(UsageError, match="--metrics-textfile"):
        metrics.check_textfile(str(tmp_path / "none" / "job.prom"))


FOREIGN = ["node_load1 1\n", "# my notes\nmnist_job_workers 2\n", "mnist_job_workers 2\nmine 1\n", b"\xff\xfe"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_textfile_that_holds_other_metrics_is_refused_beforehand_and_never_replaced(tmp_path, content):
    path = tmp_path / "job.prom"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    refusal = "holds more than this program's metrics, and would be replaced; move it, or give another path"
    with pytest.raises(UsageError, match=f"job.prom: {refusal}"):
        metrics.check_textfile(str(path))
    for ended in (outcome(), failed()):
        with pytest.raises(DeliveryError, match=refusal):
            metrics.write_textfile(ended, str(path))
    assert path.read_bytes() == content


def test_a_textfile_that_is_a_link_is_refused_and_stays_one(tmp_path):
    (tmp_path / "job.prom").symlink_to(tmp_path / "mine")
    (tmp_path / "folder.prom").mkdir()
    for name in ("job.prom", "folder.prom"):
        with pytest.raises(UsageError, match="is not a file"):
            metrics.check_textfile(str(tmp_path / name))
        with pytest.raises(DeliveryError, match="is not a file"):
            metrics.write_textfile(outcome(), str(tmp_path / name))
    assert (tmp_path / "job.prom").is_symlink()


@pytest.mark.parametrize("before", [outcome(), failed()])
def test_a_textfile_that_this_program_wrote_is_taken(tmp_path, before):
    path = tmp_path / "job.prom"
    path.touch()
    for _ in range(2):
        metrics.check_textfile(str(path))
        metrics.write_textfile(before, str(path))


def test_what_is_not_known_of_the_training_is_absent():
    found = values(metrics.text(outcome(training=TrainingRecord(None, None, None, [ROW]), evaluation_seconds=None)))
    unknown = ("workers", "worker_restarts", "training_duration_seconds", "evaluation_duration_seconds")
    assert not {f"mnist_job_{name}" for name in unknown} & set(found)
    assert found["mnist_job_train_loss,dataset=digits"] == 0.5


@pytest.mark.parametrize("classes", [metrics.MOST_CLASSES, metrics.MOST_CLASSES + 1])
def test_beyond_a_thousand_classes_there_is_no_series_of_each(classes):
    recall = [1.0] * classes
    recall[7] = 0.25
    many = Evaluation(classes, 0.1, 0.9, recall, [], confusion_pairs=[[0, 0, classes]])
    found = values(metrics.text(outcome(evaluation=many)))
    series = [name for name in found if name.startswith("mnist_job_test_class_recall_ratio,")]
    assert len(series) == (classes if classes <= metrics.MOST_CLASSES else 0)
    assert found["mnist_job_test_worst_class_recall_ratio,dataset=digits"] == 0.25
