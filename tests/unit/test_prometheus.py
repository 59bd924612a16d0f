"""Test the configurations of a Prometheus without the operator: promtool accepts them, and they find all targets."""

import json
from pathlib import Path

import yaml

from tests.chart.rendering import render
from tests.e2e.kube import wait_until
from tests.prometheus import Prometheus, discovered
from tests.unit.test_alerts import promtool

OPS = Path(__file__).parents[2] / "ops"
OTHERS = [  # other pods of the cluster: name, component and port name; the last two must not be scraped
    ("kuberay-operator", "kuberay-operator", "http"),
    ("kube-state-metrics", "metrics", "http"),
    ("web", "server", "http"),
    ("kube-state-metrics", "metrics", "telemetry"),
]


def test_promtool_finds_no_fault_without_kubernetes():
    promtool("check", "config", OPS / "prometheus.yaml")


def on_kubernetes(folder: Path) -> Path:
    """Write the configuration for Kubernetes, but with a file of the chart's pods, running and pending, in it."""
    config = yaml.safe_load((OPS / "prometheus-kubernetes.yaml").read_text())
    config["rule_files"] = [str(OPS / file) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["file_sd_configs"] = [{"files": [str(folder / "pods.json")]}]
    targets: list[dict] = []
    for component, template in render({"metrics": {"pushgateway": {"deploy": {"enabled": True}}}}).pods.items():
        for phase in ("Running", "Pending"):
            labels = {"ray.io/cluster": "demo-x"} | template["metadata"]["labels"]  # the first is KubeRay's
            metadata = {"name": f"{component}-{phase}", "namespace": "team", "labels": labels}
            pod = {"metadata": metadata, "spec": template["spec"], "status": {"phase": phase}}
            targets += discovered(pod, "127.0.0.1:{}".format)
    for number, (name, component, port) in enumerate(OTHERS, start=1):
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component}
        container = {"name": name, "ports": [{"name": port, "containerPort": number}]}
        metadata = {"name": name, "namespace": "system", "labels": labels}
        pod = {"metadata": metadata, "spec": {"containers": [container]}, "status": {"phase": "Running"}}
        targets += discovered(pod, "127.0.0.1:{}".format)
    (folder / "pods.json").write_text(json.dumps(targets))
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_on_kubernetes_it_finds_what_the_pod_monitors_select(tmp_path):
    path = on_kubernetes(tmp_path)
    promtool("check", "config", path)
    prometheus = Prometheus(path)

    def active() -> list[dict]:
        found: list[dict] = prometheus.api("targets", state="active")["activeTargets"]
        return found if len(found) >= 8 else []

    with prometheus.running():
        targets = wait_until(active, "eight targets", 60)
    found = [target["labels"] for target in targets]
    for labels in found:
        labels["port"] = labels.pop("instance").split(":")[1]
    ray = {"job": "ray", "namespace": "team", "app_kubernetes_io_instance": "demo", "ray_io_cluster": "demo-x"}
    expected = [
        {"job": "mnist-job", "namespace": "team", "pod": "head-Running", "port": "8000"},
        {"job": "mnist-job", "namespace": "team", "pod": "pushgateway-Running", "port": "9091"},
        *({**ray, "pod": "head-Running", "port": port} for port in ("8080", "44217", "44227")),
        {**ray, "pod": "worker-Running", "port": "8080"},
        *({"job": "kubernetes", "port": port} for port in ("1", "2")),
    ]
    assert sorted(map(sorted, map(dict.items, found))) == sorted(map(sorted, map(dict.items, expected)))
