"""A real Prometheus on this machine that finds pods as the Prometheus operator would make it, from PodMonitors.

Pod addresses need not be reachable from here: every scrape goes through the API server, by `kubectl proxy`.
"""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.conftest import free_port, tool
from tests.e2e.kube import Namespace, serving, wait_until

POD = "__meta_kubernetes_pod_"


class Prometheus:
    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> dict:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}") as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series."""
        return [(found["metric"], float(found["value"][1])) for found in self.get("query", query=expression)["result"]]

    def value(self, expression: str) -> float:
        """The one value of an expression, as soon as there is one."""
        ((_, value),) = wait_until(lambda: self.query(expression), expression)
        return value


@contextmanager
def scraping(namespace: Namespace, folder: Path) -> Iterator[Prometheus]:
    """Prometheus for the PodMonitors of a namespace."""
    with serving("proxy", "--port=0") as api:
        jobs = [job for monitor in namespace.list("podmonitors.monitoring.coreos.com") for job in scrapes(monitor, api)]
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": jobs}))
        address = f"127.0.0.1:{free_port()}"
        command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        with (
            (folder / "prometheus.log").open("w") as log,
            subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log) as process,
        ):
            try:
                prometheus = Prometheus(address)
                wait_until(lambda: answers(prometheus), "Prometheus to start")
                yield prometheus
            finally:
                process.terminate()


def answers(prometheus: Prometheus) -> bool:
    try:
        prometheus.query("1")
    except OSError:
        return False
    return True


def scrapes(monitor: dict, api: str) -> Iterator[dict]:
    """The scrape configuration of each endpoint of a PodMonitor: the part of the operator's that these tests need."""
    metadata, spec = monitor["metadata"], monitor["spec"]
    assert set(spec["selector"]) == {"matchLabels"}, spec["selector"]
    assert "namespaceSelector" not in spec, spec["namespaceSelector"]
    discovery = {"api_server": f"http://{api}", "role": "pod", "namespaces": {"names": [metadata["namespace"]]}}
    selected = [
        {"source_labels": [f"{POD}label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"], "regex": value, "action": "keep"}
        for name, value in spec["selector"]["matchLabels"].items()
    ]
    for endpoint in spec["podMetricsEndpoints"]:
        path = endpoint.get("path", "/metrics")
        yield {
            "job_name": f"{metadata['namespace']}/{metadata['name']}/{endpoint['port']}",
            "honor_labels": endpoint.get("honorLabels", False),
            "scrape_interval": endpoint.get("interval", "15s"),
            "scrape_timeout": endpoint.get("scrapeTimeout", "5s"),
            "kubernetes_sd_configs": [discovery],
            "relabel_configs": [
                {"source_labels": [f"{POD}phase"], "regex": "Failed|Succeeded", "action": "drop"},
                *selected,
                {"source_labels": [f"{POD}container_port_name"], "regex": endpoint["port"], "action": "keep"},
                {"source_labels": [f"{POD}name"], "target_label": "pod"},
                *map(snake, endpoint.get("relabelings", [])),
                {
                    "source_labels": ["__meta_kubernetes_namespace", f"{POD}name", f"{POD}container_port_number"],
                    "regex": "(.+);(.+);(.+)",
                    "replacement": f"/api/v1/namespaces/$1/pods/$2:$3/proxy{path}",
                    "target_label": "__metrics_path__",
                },
                {"replacement": api, "target_label": "__address__"},
            ],
            "metric_relabel_configs": [snake(rule) for rule in endpoint.get("metricRelabelings", [])],
        }


def snake(rule: dict) -> dict:
    """A relabeling as Prometheus itself spells it."""
    return {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value for name, value in rule.items()}
