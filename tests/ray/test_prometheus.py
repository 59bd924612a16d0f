"""ops/prometheus.yaml on a standing Ray cluster: what a real Prometheus finds there is what the dashboard asks for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.conftest import TINY, TOKEN, Head, free_port, job, ray_head
from tests.e2e.kube import wait_until
from tests.prometheus import Prometheus
from tests.unit.test_dashboard import LIVE, QUERIES, filled

OPS = Path(__file__).parents[2] / "ops"
PROGRESS = 'namespace_job:mnist_job_live_progress_ratio:max{job="nightly"}'  # by one of the rules
# A training under way as Ray's metrics show it, until its input ends.
TRAINING = """
import json, sys
import ray
from ray.util.metrics import Gauge

ray.init(sys.argv[1], log_to_driver=False)
for name, value in json.loads(sys.argv[2]).items():
    Gauge(name, "", ("name",)).set(value, {"name": "nightly"})
sys.stdin.read()
"""


def config(folder: Path, head: Head, exporter: int, pushgateway: str) -> Path:
    """ops/prometheus.yaml with this cluster's addresses, and a second in place of each interval."""
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
def training(head: Head) -> Iterator[None]:
    command = [sys.executable, "-c", TRAINING, head.address, json.dumps(LIVE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | TOKEN) as process:
        try:
            yield
        finally:
            process.communicate()
    assert process.returncode == 0


def test_every_query_of_the_dashboard_finds_something(pushgateway, tmp_path):
    exporter = free_port()
    with ray_head(tmp_path, "--num-cpus=2") as head:
        places = ("--exporter-port", exporter, "--pushgateway-url", pushgateway)
        result = job("run", *TINY, "--name", "nightly", "--address", head.address, *places, cwd=tmp_path, **TOKEN)
        assert (result.returncode, result.stderr) == (0, "")
        prometheus = Prometheus(config(tmp_path, head, exporter, pushgateway))
        queries = [PROGRESS, *(filled(query) for query in QUERIES if "gpu" not in query)]  # there is none here
        with prometheus.running(), training(head):
            while missing := [query for query in queries if not prometheus.query(query)]:
                wait_until(lambda query=missing[0]: prometheus.query(query), missing[0], 60)
            found = prometheus.query('mnist_job_last_success_timestamp_seconds{job="nightly"}')
            ((_, progress),) = prometheus.query(PROGRESS)
            down = prometheus.query("up == 0")
    assert (len(found), progress, down) == (2, LIVE["mnist_job_live_progress_ratio"], [])
