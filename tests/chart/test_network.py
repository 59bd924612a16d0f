"""Test which connections the NetworkPolicies allow, as Kubernetes interprets them."""

import re

import pytest
import yaml

from mnist_job.config.training import DATA_SETS
from tests.chart.rendering import NAMESPACE, RELEASE, Manifests, notes, render

PUSHGATEWAY = {"metrics": {"pushgateway": {"deploy": {"enabled": True}}}}
ELSEWHERE = "elsewhere"
STRANGER = (NAMESPACE, {"app.kubernetes.io/component": "worker"})  # a pod of another release
OPERATOR = (ELSEWHERE, {"app.kubernetes.io/component": "kuberay-operator"})
PROMETHEUS = (ELSEWHERE, {"app.kubernetes.io/name": "prometheus"})
INTERNET = (None, {})  # not a pod


def pod(component: str) -> tuple[str, dict[str, str]]:
    return NAMESPACE, {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": component}


def selects(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def is_peer(peer: dict, namespace: str | None, labels: dict) -> bool:
    if namespace is None:
        return False
    by_namespace = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}})
    return selects(by_namespace, {"kubernetes.io/metadata.name": namespace}) and selects(
        peer.get("podSelector", {}), labels
    )


def allows(manifests: Manifests, direction: str, at: tuple, other: tuple, port: int, protocol: str) -> bool:
    """Return whether a pod of this namespace may connect with the other. A pod without a policy may do everything."""
    policies = [policy["spec"] for policy in manifests.of("NetworkPolicy")]
    policies = [spec for spec in policies if selects(spec["podSelector"], at[1])]
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in policies)
    peers = "from" if direction == "ingress" else "to"
    rules = [rule for spec in policies for rule in spec.get(direction, [])]
    return not policies or any(
        (peers not in rule or any(is_peer(peer, *other) for peer in rule[peers]))
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for rule in rules
    )


def reaches(manifests: Manifests, source: tuple, target: tuple, port: int, protocol: str = "TCP") -> bool:
    out = source[0] != NAMESPACE or allows(manifests, "egress", source, target, port, protocol)
    into = target[0] != NAMESPACE or allows(manifests, "ingress", target, source, port, protocol)
    return out and into


@pytest.mark.parametrize(
    ("source", "target", "ports", "expected"),
    [
        (pod("worker"), pod("head"), [6379, 8265, 10002, 40000], True),
        (pod("head"), pod("worker"), [10002, 40000, 52365], True),
        (pod("worker"), pod("worker"), [40000], True),
        (pod("submitter"), pod("head"), [8265], True),
        (pod("submitter"), pod("head"), [6379, 10001], False),
        (pod("submitter"), pod("worker"), [8265, 40000], False),
        (OPERATOR, pod("head"), [8265], True),
        (OPERATOR, pod("head"), [6379, 10001, 8080], False),
        (OPERATOR, pod("worker"), [8265, 52365], False),
        (PROMETHEUS, pod("head"), [8000, 8080, 44217, 44227], True),
        (PROMETHEUS, pod("head"), [8265, 6379], False),
        (PROMETHEUS, pod("worker"), [8080], True),
        (PROMETHEUS, pod("worker"), [8000, 40000], False),
        (STRANGER, pod("head"), [6379, 8265, 10001, 8000, 8080], False),
        (STRANGER, pod("worker"), [8080, 40000], False),
        (pod("head"), pod("pushgateway"), [9091], True),
        (PROMETHEUS, pod("pushgateway"), [9091], True),
        (pod("worker"), pod("pushgateway"), [9091], False),
        (STRANGER, pod("pushgateway"), [9091], False),
        (pod("pushgateway"), INTERNET, [443, 80], False),
        (pod("head"), INTERNET, [6443, 443], True),  # the API server may have any address
        (pod("head"), INTERNET, [80], False),
        (pod("worker"), INTERNET, [6443, 443, 80], False),
        (pod("submitter"), INTERNET, [6443, 443, 80], False),
        (pod("test"), INTERNET, [53, 443], False),
        (pod("head"), (ELSEWHERE, {}), [6379, 8265], False),
    ],
)
def test_with_data_that_need_no_network(source, target, ports, expected):
    manifests = render(PUSHGATEWAY | {"settings": {"data": "digits"}})
    assert {port: reaches(manifests, source, target, port) for port in ports} == dict.fromkeys(ports, expected)


@pytest.mark.parametrize("component", ["head", "worker", "submitter"])
@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_names_are_resolved(component, protocol):
    assert reaches(render(), pod(component), (ELSEWHERE, {}), 53, protocol)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *(({"settings": {"data": name}}, name != "digits") for name in DATA_SETS),
        ({"settings": {"data": "https://example.com/x.npz"}}, True),
        ({"settings": {"data": "digits"}, "storage": {"uri": "s3://bucket"}}, True),
        ({"settings": {"data": "/storage/x.npz"}}, False),
        ({"settings": {"data": "file:///storage/x.npz"}}, False),
    ],
)
def test_workers_reach_the_internet_only_for_remote_data(values, expected):
    assert reaches(render(values), pod("worker"), INTERNET, 443) is expected


PROXY = [{"name": "https_proxy", "value": "http://proxy.example.com:3128"}]
DIGITS = {"data": "digits"}


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({"settings": {"data": "http://example.com/x.npz"}}, {80}),
        ({"settings": {"data": "https://example.com:8443/x.npz"}}, {8443}),
        ({"settings": DIGITS, "storage": {"uri": "s3://b/x?endpoint_override=minio:9000"}}, {9000}),
        ({"settings": DIGITS, "storage": {"uri": "s3://b/x?endpoint_override=http%3A%2F%2Fminio%3a9000&x=y"}}, {9000}),
        ({"settings": DIGITS, "storage": {"uri": "s3://b/x?scheme=http&endpoint_override=minio"}}, {80}),
        (
            {"settings": {"data": "s3://b/x.npz?endpoint_override=minio:9000"}, "storage": {"uri": "gs://b"}},
            {443, 9000},
        ),
        ({"settings": {"data": "hdfs://name/x.npz"}}, {8020}),
        ({"settings": {"data": "mnist"}, "env": PROXY}, {443, 3128}),
        ({"settings": DIGITS, "env": [{"name": "HTTP_PROXY", "value": "proxy:8080"}]}, {8080}),
        ({"settings": DIGITS, "env": [{"name": "ALL_PROXY", "value": "socks5://proxy/"}]}, {1080}),
        ({"settings": DIGITS, "env": [{"name": "AWS_ENDPOINT_URL_S3", "value": "http://minio:9000/"}]}, {9000}),
        ({"settings": DIGITS, "env": [{"name": "AWS_REGION", "value": "a:9000"}]}, set()),
    ],
)
def test_the_ports_of_proxies_and_endpoints_are_open(values, ports):
    tried = {80, 443, 1080, 3128, 8020, 8080, 8443, 9000}
    manifests = render(values)
    assert {port for port in tried if reaches(manifests, pod("worker"), INTERNET, port)} == ports
    assert not reaches(manifests, pod("submitter"), INTERNET, 3128)


def variables(values: dict, component: str) -> dict[str, str]:
    """Return the environment variables of a pod, with references replaced as Kubernetes does it."""
    found = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    for entry in render(values).pods[component]["spec"]["containers"][0].get("env", []):
        text = entry.get("value", "from elsewhere")
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], text)
    return found


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ([], []),
        ([{"name": "NO_PROXY", "value": "a.example.com"}], ["a.example.com"]),
        (
            [{"name": "no_proxy", "value": "a.example.com,b"}, {"name": "NO_PROXY", "value": "c"}],
            ["a.example.com", "b", "c"],
        ),
        ([{"name": "NO_PROXY", "valueFrom": {"secretKeyRef": {"name": "p", "key": "n"}}}], ["from elsewhere"]),
    ],
)
@pytest.mark.parametrize("component", ["head", "worker"])
def test_what_is_inside_the_cluster_is_not_asked_for_through_a_proxy(component, own, kept):
    found = variables(PUSHGATEWAY | {"env": PROXY + own}, component)
    assert found["https_proxy"] == "http://proxy.example.com:3128"
    inside = ["localhost", "127.0.0.1", ".svc", ".cluster.local", "10.0.0.1", f"{RELEASE}-pushgateway"]
    assert sorted(found["no_proxy"].split(",")) == sorted(kept + inside)


def test_without_a_proxy_there_is_no_exception_to_it():
    assert "no_proxy" not in variables({}, "head")
    assert "no_proxy" not in variables({"env": PROXY}, "submitter")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"env": [{"name": "HTTPS_PROXY", "valueFrom": {"secretKeyRef": {"name": "p", "key": "u"}}}]}, "HTTPS_PROXY"),
        ({"storage": {"uri": "s3://b", "credentialsSecret": "s3-secret"}}, "if Secret s3-secret names one"),
        ({"storage": {"uri": "hdfs://name/runs"}}, "HDFS's data nodes"),
        ({"env": PROXY}, None),
        ({"storage": {"uri": "s3://b?endpoint_override=minio:9000"}}, None),
    ],
)
def test_the_notes_name_the_ports_that_the_values_do_not(values, told):
    for mode in ("job", "cluster"):
        text = notes(values | {"mode": mode})
        assert ("networkPolicy.extraEgress" in text) is (told is not None)
        assert told is None or told in text
        assert "extraEgress" not in notes(values | {"networkPolicy": {"enabled": False}})


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://push:9091", 9091), ("https://push", 443), ("http://push/a:1", 80), ("http://[::1]:9092/x", 9092)],
)
def test_the_head_reaches_the_pushgateway_of_a_url(url, port):
    manifests = render({"metrics": {"pushgateway": {"url": url}}, "settings": {"data": "digits"}, "mode": "cluster"})
    ports = [80, 443, 9091, 9092]
    assert [each for each in ports if reaches(manifests, pod("head"), INTERNET, each)] == [port]


def test_what_an_operator_of_a_cluster_adds():
    own = yaml.safe_load("""
      networkPolicy:
        prometheus: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}
        extraIngress: [{from: [{podSelector: {}}], ports: [{port: 10001, protocol: TCP}]}]
        extraEgress: [{ports: [{port: 9000, protocol: TCP}]}]
    """)
    manifests = render(own)
    assert not reaches(manifests, PROMETHEUS, pod("head"), 8080)
    assert reaches(manifests, ("monitoring", PROMETHEUS[1]), pod("head"), 8080)
    assert reaches(manifests, STRANGER, pod("head"), 10001)
    assert reaches(manifests, pod("worker"), INTERNET, 9000)


def test_no_policy_where_none_is_wanted():
    assert render({"networkPolicy": {"enabled": False}}).of("NetworkPolicy") == []
