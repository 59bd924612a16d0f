"""A real Prometheus on this machine that scrapes what PodMonitors select, as the Prometheus operator would make it.

Pod addresses need not be reachable from here: every scrape goes through the API server, by `kubectl proxy`. Pods come
from a file with the labels that Prometheus's own discovery gives them: Debian builds it without that for Kubernetes.
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
    def __init__(self, namespace: Namespace, folder: Path, api: str) -> None:
        self._namespace, self._api = namespace, api
        self._targets = folder / "targets.json"
        self._config, self._log = folder / "prometheus.yml", folder / "prometheus.log"
        self._address = f"127.0.0.1:{free_port()}"
        monitors = namespace.list("podmonitors.monitoring.coreos.com")
        assert monitors, "no PodMonitor"
        jobs = [job for monitor in monitors for job in self._jobs(monitor)]
        self._config.write_text(yaml.safe_dump({"scrape_configs": jobs}))
        self._discover()

    @contextmanager
    def running(self) -> Iterator[None]:
        files = [f"--config.file={self._config}", f"--storage.tsdb.path={self._config.with_name('data')}"]
        command = [tool("prometheus"), *files, f"--web.listen-address={self._address}"]
        with self._log.open("w") as log, subprocess.Popen(command, stderr=log) as process:
            try:

                def starts() -> bool:
                    assert process.poll() is None, self._log.read_text()
                    try:
                        return self.query("vector(1)") != []
                    except OSError:
                        return False

                wait_until(starts, "Prometheus to start")
                yield
            finally:
                process.terminate()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{query}") as answer:
            result = json.load(answer)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def value(self, expression: str) -> float:
        """The one value of an expression, as soon as there is one."""

        def find() -> list[tuple[dict[str, str], float]]:
            self._discover()
            return self.query(expression)

        ((_, value),) = wait_until(find, expression)
        return value

    def _discover(self) -> None:
        """Write down the ports of all pods, with the labels that Prometheus's discovery of pods gives them."""
        targets = []
        for pod in self._namespace.list("pods"):
            metadata = {f"{POD}name": pod["metadata"]["name"], f"{POD}phase": pod["status"]["phase"]}
            metadata |= {label(name): value for name, value in pod["metadata"].get("labels", {}).items()}
            for container in pod["spec"]["containers"]:
                for port in container.get("ports", []):
                    names = {f"{POD}container_port_name": port.get("name", "")}
                    names |= {f"{POD}container_port_number": str(port["containerPort"])}
                    targets.append({"targets": [self._api], "labels": metadata | names})
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(targets))
        fresh.rename(self._targets)

    def _jobs(self, monitor: dict) -> Iterator[dict]:
        """The scrape configuration of each endpoint of a PodMonitor: the part of the operator's that is used here."""
        spec = monitor["spec"]
        assert "namespaceSelector" not in spec, spec["namespaceSelector"]
        for endpoint in spec["podMetricsEndpoints"]:
            path = f"/api/v1/namespaces/{self._namespace.name}/pods/$1:$2/proxy{endpoint.get('path', '/metrics')}"
            name_and_port = [f"{POD}name", f"{POD}container_port_number"]
            yield {
                "job_name": f"{monitor['metadata']['name']}/{endpoint['port']}",
                "honor_labels": endpoint.get("honorLabels", False),
                "scrape_interval": endpoint["interval"],
                "scrape_timeout": endpoint["interval"],
                "file_sd_configs": [{"files": [str(self._targets)]}],
                "relabel_configs": [
                    *selected(spec["selector"]),
                    keep(f"{POD}container_port_name", endpoint["port"]),
                    keep(f"{POD}phase", "Running"),
                    {"source_labels": [f"{POD}name"], "target_label": "pod"},
                    *map(snake, endpoint.get("relabelings", [])),
                    {
                        "source_labels": name_and_port,
                        "regex": "(.+);(.+)",
                        "replacement": path,
                        "target_label": "__metrics_path__",
                    },
                ],
                "metric_relabel_configs": [snake(rule) for rule in endpoint.get("metricRelabelings", [])],
            }


@contextmanager
def scraping(namespace: Namespace, folder: Path) -> Iterator[Prometheus]:
    """Prometheus for the PodMonitors of a namespace."""
    with serving("proxy", "--port=0") as api:
        prometheus = Prometheus(namespace, folder, api)
        with prometheus.running():
            yield prometheus


def label(name: str) -> str:
    return f"{POD}label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"


def keep(source: str, *values: str) -> dict:
    return {"source_labels": [source], "regex": "|".join(map(re.escape, values)), "action": "keep"}


def selected(selector: dict) -> Iterator[dict]:
    for name, value in selector.get("matchLabels", {}).items():
        yield keep(label(name), value)
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        yield keep(label(expression["key"]), *expression["values"])


def snake(rule: dict) -> dict:
    """A relabeling as Prometheus itself spells it."""
    return {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value for name, value in rule.items()}
