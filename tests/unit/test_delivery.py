"""Test that every place is tried, and every failure reported."""

import pytest

from mnist_job.config.settings import JobConfig
from mnist_job.errors import DeliveryError, UsageError
from mnist_job.pipeline import delivery
from tests.conftest import free_port
from tests.unit.test_metrics import outcome


def test_every_place_is_tried_and_every_failure_told(tmp_path):
    config = JobConfig(
        metrics_textfile=str(tmp_path / "none" / "job.prom"), pushgateway_url=f"http://127.0.0.1:{free_port()}"
    )
    with pytest.raises(DeliveryError) as failure:
        delivery.deliver(outcome(), config, timeout=0.2)
    assert "--metrics-textfile" in str(failure.value)
    assert "--pushgateway-url" in str(failure.value)


def test_an_exporter_on_a_ray_that_ends_with_the_job_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"--exporter-port 8000: a local Ray ends with the job"):
        delivery.check(JobConfig(exporter_port=8000))
