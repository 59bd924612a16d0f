"""Test a release from its first run to its end, where all traffic is denied that the chart does not allow."""

import json
import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mnist_job.results.live import GAUGES
from tests.e2e.kube import Release, run
from tests.e2e.network import api_server, reached
from tests.e2e.prometheus import scraping

VALUES = {
    "metrics": {
        "podMonitor": {"enabled": True, "interval": "5s"},
        "pushgateway": {"deploy": {"enabled": True}},
    },
    "storage": {"persistentVolumeClaim": {"keep": True}},
}
EPOCHS = 80  # half a minute: Ray's metrics are about 10 s old, and Prometheus scrapes every 5 s
ANOTHER_SEED = VALUES | {"settings": {"seed": 1, "batch_size": 4, "epochs": EPOCHS}}
OUT_OF_REACH = VALUES | {"settings": {"seed": 1, "min_accuracy": 1.0}}


@pytest.fixture(scope="module")
def story(release, denying_namespace, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """Yield a release after its first run, and the objects that existed before it."""
    if "E2E_PUSHGATEWAY_IMAGE" in os.environ:
        repository, tag = os.environ["E2E_PUSHGATEWAY_IMAGE"].rsplit(":", 1)
        VALUES["metrics"]["pushgateway"]["deploy"]["image"] = {"repository": repository, "tag": tag}
    before = denying_namespace.resources()
    mnist_job: Release = release("mnist-job", denying_namespace)
    notes = mnist_job.install(VALUES)
    rayjob = mnist_job.finished()
    with scraping(denying_namespace, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield SimpleNamespace(
            release=mnist_job,
            before=before,
            notes=notes,
            first=rayjob,
            first_result=mnist_job.result(),
            prometheus=prometheus,
        )


def pushed(release: Release, name: str) -> dict[str, float]:
    """Return the values of a metric in the Pushgateway, by `job`."""
    families = text_string_to_metric_families(
        release.namespace.raw(f"services/{release.name}-pushgateway:9091/proxy/metrics")
    )
    return {s.labels["job"]: s.value for family in families for s in family.samples if s.name == name}


def test_the_first_run_succeeds(story):
    status = story.first["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("SUCCEEDED", "Complete"), status.get("message")
    result = story.first_result
    assert (result["succeeded"], result["exit-code"], result["rayjob"]) == (
        "true",
        "0",
        story.first["metadata"]["name"],
    )
    assert float(result["accuracy"]) > 0.6


def test_the_namespace_lets_nothing_through_but_what_the_chart_allows(story, image):
    namespace = story.release.namespace
    stranger = namespace.start("stranger", image)
    assert reached(namespace, stranger, {api_server()}) == set()
    namespace.kubectl("delete", "pod", stranger)


def test_everybody_tells_the_same_accuracy(story):
    """Prometheus was started after the job had ended. So these metrics come from the exporter, which still runs."""
    accuracy = float(story.first_result["accuracy"])
    name = "mnist_job_test_accuracy_ratio"
    head = story.release.head()
    assert story.prometheus.value(f'{name}{{job="mnist-job", pod="{head}"}}') == accuracy
    assert story.prometheus.value(f'{name}{{job="mnist-job", pod!="{head}"}}') == accuracy  # from the Pushgateway
    assert pushed(story.release, name) == {"mnist-job": accuracy}
    (event,) = story.release.events(story.first["metadata"]["name"])
    assert (event["type"], event["reason"]) == ("Normal", "Succeeded")
    assert f"{accuracy:.4f}" in event["message"]


def test_prometheus_reaches_all_that_the_pod_monitors_select(story):
    """These are the exporter and three ports of Ray on the head, one port of Ray on each worker, and a Pushgateway."""
    assert story.prometheus.value("count(up == 1) == 4 + 2 + 1")
    assert story.prometheus.query("up == 0") == []


def helm_test(story: SimpleNamespace) -> subprocess.CompletedProcess[str]:
    """Run `helm test` with the command from the notes, because Helm 3 and 4 show the log in different ways."""
    (command,) = (line for line in story.notes.splitlines() if line.strip().startswith("helm test"))
    return run(*command.split(), check=False)


def test_helm_test_tells_the_result(story):
    done = helm_test(story)
    assert done.returncode == 0, done.stdout + done.stderr
    assert story.first_result["accuracy"] in done.stdout + done.stderr


def test_the_same_values_again_change_nothing(story):
    pods = {pod["metadata"]["uid"] for pod in story.release.pods()}
    story.release.install(VALUES)
    rayjob = story.release.rayjob()
    for field in ("name", "uid", "generation"):
        assert rayjob["metadata"][field] == story.first["metadata"][field]
    assert {pod["metadata"]["uid"] for pod in story.release.pods()} == pods


def test_values_that_change_no_result_do_not_run_it_again(story):
    story.release.install(VALUES | {"podLabels": {"team": "vision"}, "labels": {"team": "vision"}})
    rayjob = story.release.rayjob()
    assert rayjob["metadata"]["uid"] == story.first["metadata"]["uid"]
    assert rayjob["status"]["jobId"] == story.first["status"]["jobId"]
    assert rayjob["status"]["jobDeploymentStatus"] == "Complete"
    assert story.release.result() == story.first_result


def live_metrics(story: SimpleNamespace) -> dict[str, float]:
    """Return Prometheus's metrics of the run in progress, as soon as all of them are there."""
    cluster = story.release.rayjob()["status"]["rayClusterName"]
    series = f'{{__name__=~"ray_mnist_job_live_.+", name="mnist-job", pod=~"{cluster}-.+"}}'
    story.prometheus.value(f"count({series}) == {len(GAUGES)}")
    return {labels["__name__"]: value for labels, value in story.prometheus.query(series)}


@pytest.fixture(scope="module")
def second(story) -> SimpleNamespace:
    """Run the same release with another seed, after its first run."""
    story.release.install(ANOTHER_SEED)
    story.release.runs()
    live = live_metrics(story)
    while_it_runs = story.release.result()
    rayjob = story.release.finished()
    return SimpleNamespace(live=live, while_it_runs=while_it_runs, rayjob=rayjob, result=story.release.result())


def test_another_seed_is_another_run(story, second):
    assert second.rayjob["status"]["jobStatus"] == "SUCCEEDED", second.rayjob["status"]
    assert second.rayjob["metadata"]["name"] != story.first["metadata"]["name"]
    assert second.result["rayjob"] == second.rayjob["metadata"]["name"]
    for key in ("run", "config-hash", "model-sha256"):
        assert second.result[key] != story.first_result[key]


def test_prometheus_sees_how_far_the_second_run_is(second):
    assert second.live.keys() == {f"ray_{name}" for name in GAUGES}
    assert 0 < second.live["ray_mnist_job_live_progress_ratio"] < 1
    assert 1 <= second.live["ray_mnist_job_live_epoch"] <= EPOCHS


def test_the_first_result_stays_readable_while_the_second_run_goes_on(story, second):
    assert second.while_it_runs == story.first_result


@pytest.fixture(scope="module")
def failed(story, second) -> SimpleNamespace:
    """Run the same release with a required accuracy that no run reaches."""
    name = "mnist_job_last_success_timestamp_seconds"
    before = pushed(story.release, name)
    story.release.install(OUT_OF_REACH)
    rayjob = story.release.finished()
    return SimpleNamespace(
        rayjob=rayjob, result=story.release.result(), pushed_before=before, pushed_after=pushed(story.release, name)
    )


def test_a_run_below_the_accuracy_asked_for_fails(story, failed):
    status = failed.rayjob["status"]
    assert (status["jobStatus"], status["jobDeploymentStatus"]) == ("FAILED", "Failed")
    assert (failed.result["succeeded"], failed.result["exit-code"]) == ("false", "7")
    assert "--min-accuracy" in failed.result["reason"]
    (event,) = story.release.events(failed.rayjob["metadata"]["name"])
    assert (event["type"], event["reason"]) == ("Warning", "QualityError")
    assert event["message"].endswith(f"exit code 7: {failed.result['reason']}")


def test_a_failure_is_in_the_metrics(story, failed):
    head = story.release.head()
    assert story.prometheus.value(f'mnist_job_last_run_succeeded{{pod="{head}"}}') == 0
    assert pushed(story.release, "mnist_job_last_run_succeeded") == {"mnist-job": 0}


def test_a_failure_leaves_the_last_success_alone(story, second, failed):
    success = {key: value for key, value in second.result.items() if key != "last-success"}
    assert json.loads(failed.result["last-success"]) == success
    assert failed.pushed_after == failed.pushed_before


def test_helm_test_tells_the_failure(story, failed):
    done = helm_test(story)
    assert done.returncode != 0
    assert failed.result["reason"] in done.stdout + done.stderr


def test_nothing_stays_but_the_claim_that_was_to_be_kept(story, failed):
    story.release.uninstall()
    story.release.gone(but=story.before | {"persistentvolumeclaim/mnist-job"})
