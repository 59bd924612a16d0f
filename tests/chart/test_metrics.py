"""Test the objects for Prometheus Operator and Grafana, field by field, because their kinds have no schema here."""

import json

import pytest
import yaml

from tests.chart.rendering import CHART, Manifests, render
from tests.chart.test_network import PROMETHEUS, pod, reaches, selects

MONITORED = {"metrics": {"podMonitor": {"enabled": True, "interval": "7s", "labels": {"release": "prometheus"}}}}
DEPLOYED = {"metrics": MONITORED["metrics"] | {"pushgateway": {"deploy": {"enabled": True}}}}


def scraped(manifests: Manifests, monitor: str) -> dict[tuple[str, str], dict]:
    """Return the endpoints that a PodMonitor finds, by component and port."""
    spec = manifests.named("PodMonitor", monitor)["spec"]
    return {
        (component, port["name"]): endpoint
        for component, template in manifests.pods.items()
        if selects(spec["selector"], template["metadata"]["labels"])
        for port in template["spec"]["containers"][0].get("ports", [])
        for endpoint in spec["podMetricsEndpoints"]
        if endpoint["port"] == port["name"]
    }


@pytest.mark.parametrize("mode", ["job", "cluster"])
def test_the_outcome_is_scraped_with_the_labels_it_has(mode):
    endpoints = scraped(render(DEPLOYED | {"mode": mode}), "demo-outcome")
    assert endpoints.keys() == {("head", "outcome"), ("pushgateway", "pushgateway")}
    assert all(endpoint["honorLabels"] and endpoint["interval"] == "7s" for endpoint in endpoints.values())


def test_rays_own_metrics_are_scraped_from_all_its_pods():
    manifests = render(DEPLOYED)
    endpoints = scraped(manifests, "demo-ray")
    labels = manifests.named("PodMonitor", "demo-ray")["spec"]["podTargetLabels"]
    assert labels == ["ray.io/cluster", "app.kubernetes.io/instance"]  # the dashboards select by these labels
    assert endpoints.keys() == {("worker", "metrics"), *(("head", port + "metrics") for port in ("", "as-", "dash-"))}


def test_prometheus_reaches_all_that_it_is_to_scrape():
    manifests = render(DEPLOYED)
    for monitor in ("demo-outcome", "demo-ray"):
        for component, name in scraped(manifests, monitor):
            ports = manifests.pods[component]["spec"]["containers"][0]["ports"]
            (number,) = (port["containerPort"] for port in ports if port["name"] == name)
            assert reaches(manifests, PROMETHEUS, pod(component), number), (component, name)


def test_the_port_of_the_outcome_is_one_value():
    manifests = render({"metrics": MONITORED["metrics"] | {"port": 9000}})
    assert yaml.safe_load(manifests.settings)["exporter_port"] == 9000
    assert {"name": "outcome", "containerPort": 9000} in manifests.pods["head"]["spec"]["containers"][0]["ports"]
    assert reaches(manifests, PROMETHEUS, pod("head"), 9000)


def test_the_rules_and_the_dashboard_are_those_in_the_files():
    on = {"enabled": True, "labels": {"a": "b"}}
    manifests = render({"metrics": {"prometheusRule": on, "dashboard": on}})
    rule = manifests.named("PrometheusRule", "demo")
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    dashboard = manifests.named("ConfigMap", "demo-dashboard")
    (text,) = dashboard["data"].values()
    assert json.loads(text) == json.loads((CHART / "files/dashboard.json").read_text())
    assert dashboard["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "a": "b"}.items()
    assert rule["metadata"]["labels"]["a"] == "b"


def test_nothing_of_prometheus_operator_by_default():
    assert {manifest["kind"] for manifest in render()}.isdisjoint({"PodMonitor", "PrometheusRule", "Deployment"})


def test_the_service_of_the_pushgateway_selects_its_pods():
    manifests = render(DEPLOYED)
    (service,) = manifests.of("Service")
    assert selects({"matchLabels": service["spec"]["selector"]}, manifests.pods["pushgateway"]["metadata"]["labels"])
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == ("demo-pushgateway", 9091)
