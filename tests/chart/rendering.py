"""Render the chart with Helm's own engine."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

CHART = Path(__file__).parents[2] / "charts/mnist-job"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "demo", "team"

Manifest = dict[str, Any]


class Manifests(list[Manifest]):
    """The objects of a release."""

    def of(self, kind: str) -> "Manifests":
        return Manifests(manifest for manifest in self if manifest["kind"] == kind)

    def named(self, kind: str, name: str) -> Manifest:
        (found,) = (manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name)
        return found

    @property
    def ray(self) -> Manifest:
        """Return the RayJob or the RayCluster."""
        (found,) = self.of("RayJob") + self.of("RayCluster")
        return found

    @property
    def cluster(self) -> Manifest:
        """Return the spec of the Ray cluster, from the RayJob or the RayCluster."""
        spec = self.ray["spec"]
        return spec.get("rayClusterSpec", spec)

    @property
    def pods(self) -> dict[str, Manifest]:
        """Return the template of each pod, by its component."""
        templates = [self.cluster["headGroupSpec"]["template"]]
        templates += [group["template"] for group in self.cluster["workerGroupSpecs"]]
        templates += [job["spec"]["submitterPodTemplate"] for job in self.of("RayJob")]
        templates += [deployment["spec"]["template"] for deployment in self.of("Deployment")]
        templates += [{"metadata": pod["metadata"], "spec": pod["spec"]} for pod in self.of("Pod")]
        return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in templates}

    @property
    def settings(self) -> str:
        """Return the settings file that the program reads."""
        settings: str = self.named("ConfigMap", self.ray["metadata"]["name"])["data"]["settings.yaml"]
        return settings


@functools.cache
def chart() -> Chart:
    return Chart.load(CHART)


def documents(rendered: dict[str, str]) -> Iterable[Manifest]:
    for path, text in rendered.items():
        if path.endswith(".yaml"):
            yield from filter(None, yaml.load_all(text, Loader=yaml.CSafeLoader))


def render(values: Manifest | None = None, *, name: str = RELEASE, of: Chart | None = None) -> Manifests:
    return Manifests(documents((of or chart()).render(values or {}, name=name, namespace=NAMESPACE)))


def notes(values: Manifest | None = None) -> str:
    return chart().render(values or {}, name=RELEASE, namespace=NAMESPACE)["mnist-job/templates/NOTES.txt"]
