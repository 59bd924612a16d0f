"""Start a real Prometheus on this machine for PodMonitors and PrometheusRules, with the configuration of the operator.

This machine need not reach the addresses of pods: every scrape goes through the API server, by `kubectl proxy`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.e2e.kube import Namespace, serving, wait_until
from tests.prometheus import POD, Prometheus, discovered, label


class Monitored(Prometheus):
    def __init__(self, namespace: Namespace, folder: Path, api: str) -> None:
        super().__init__(folder / "prometheus.yml")
        self._namespace, self._proxy = namespace, api
        self._targets = folder / "targets.json"
        monitors = namespace.list("podmonitors.monitoring.coreos.com")
        assert monitors, "no PodMonitor"
        jobs = [job for monitor in monitors for job in self._jobs(monitor)]
        rules = namespace.list("prometheusrules.monitoring.coreos.com")
        groups = [group for rule in rules for group in rule["spec"]["groups"]]
        (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
        config = {"global": {"evaluation_interval": "5s"}, "rule_files": ["rules.yml"], "scrape_configs": jobs}
        self._config.write_text(yaml.safe_dump(config))
        self._discover()

    def value(self, expression: str) -> float:
        """Return the value of an expression, as soon as it has exactly one."""

        def find() -> list[tuple[dict[str, str], float]]:
            self._discover()
            return self.query(expression)

        ((_, value),) = wait_until(find, expression)
        return value

    def _discover(self) -> None:
        """Write a file with the ports of all pods, with the labels that Prometheus's discovery of pods would set."""
        pods = self._namespace.list("pods")
        targets = [target for pod in pods for target in discovered(pod, lambda port: self._proxy)]
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(targets))
        fresh.rename(self._targets)

    def _jobs(self, monitor: dict) -> Iterator[dict]:
        """Yield the scrape configuration of each endpoint of a PodMonitor, with the features that are used here."""
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
                    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
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
def scraping(namespace: Namespace, folder: Path) -> Iterator[Monitored]:
    """Run a Prometheus for the PodMonitors and PrometheusRules that are now in a namespace."""
    with serving("proxy", "--port=0") as api:
        prometheus = Monitored(namespace, folder, api)
        with prometheus.running():
            yield prometheus


def keep(source: str, *values: str) -> dict:
    return {"source_labels": [source], "regex": "|".join(map(re.escape, values)), "action": "keep"}


def selected(selector: dict) -> Iterator[dict]:
    for name, value in selector.get("matchLabels", {}).items():
        yield keep(label(name), value)
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        yield keep(label(expression["key"]), *expression["values"])


def snake(rule: dict) -> dict:
    """Return a relabeling with the names of Prometheus's own configuration."""
    return {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value for name, value in rule.items()}
