"""Test ops/prometheus.yaml on a permanent Ray cluster: a real Prometheus finds all series that the dashboard uses."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY, TOKEN, WAIT_SECONDS, Head, free_port, job, ray_head, start, wait_for
from tests.e2e.kube import wait_until
from tests.prometheus import Prometheus
from tests.unit.test_dashboard import QUERIES, filled

OPS = Path(__file__).parents[2] / "ops"
PROGRESS = 'namespace_job:mnist_job_live_progress_ratio:max{job="nightly"}'  # a rule records it
# Few lines per second, because the test does not read them.
ENDLESS = ("run", "--data", "digits", "--epochs", "100000", "--batch-size", "1", "--workers", "1", "--force")


def config(folder: Path, head: Head, exporter: int, pushgateway: str) -> Path:
    """Write ops/prometheus.yaml with the addresses of this cluster, and with intervals of one second."""
    found = yaml.safe_load((OPS / "prometheus.yaml").read_text())
    found["global"] = dict.fromkeys(found["global"], "1s")
    found["rule_files"] = [str(OPS / file) for file in found["rule_files"]]
    outcome, pushed, ray = found["scrape_configs"]
    outcome["static_configs"][0]["targets"] = [f"127.0.0.1:{exporter}"]
    pushed["static_configs"][0]["targets"] = [pushgateway.removeprefix("http://")]
    (discovery,) = ray["file_sd_configs"]
    discovery["files"] = [file.replace("/tmp/ray", str(head.folder)) for file in discovery["files"]]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


@contextmanager
def training(head: Head, folder: Path) -> Iterator[None]:
    """Run a training that does not end by itself, until the end of this context."""
    process = start(*ENDLESS, "--name", "nightly", "--address", head.address, cwd=folder, **TOKEN)
    try:
        wait_for(process, "epoch ")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130


@pytest.mark.full
def test_every_query_of_the_dashboard_finds_something(pushgateway, tmp_path):
    exporter = free_port()
    with ray_head(tmp_path, "--num-cpus=2") as head:
        places = ("--exporter-port", exporter, "--pushgateway-url", pushgateway)
        result = job("run", *TINY, "--name", "nightly", "--address", head.address, *places, cwd=tmp_path, **TOKEN)
        assert (result.returncode, result.stderr) == (0, "")
        prometheus = Prometheus(config(tmp_path, head, exporter, pushgateway))
        queries = [PROGRESS, *(filled(query) for query in QUERIES if "gpu" not in query)]  # this machine has none
        with prometheus.running(), training(head, tmp_path):
            while missing := [query for query in queries if not prometheus.query(query)]:
                wait_until(lambda query=missing[0]: prometheus.query(query), missing[0], 60)
            found = prometheus.query('mnist_job_last_success_timestamp_seconds{job="nightly"}')
            # For some seconds, Ray also exports the former driver's progress, which is 1.
            wait_until(lambda: prometheus.query(f"{PROGRESS} < 1"), "the progress of the training", 60)
            down = prometheus.query("up == 0")
    assert (len(found), down) == (2, [])
