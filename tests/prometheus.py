"""Start a real Prometheus on this machine.

Debian builds it without Kubernetes' service discovery. So pods come from a file, with the labels that the discovery
would set.
"""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import free_port, tool
from tests.e2e.kube import wait_until

POD = "__meta_kubernetes_pod_"


class Prometheus:
    """A Prometheus with a configuration. Its series are in the folder `data` beside the configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._address = f"127.0.0.1:{free_port()}"

    @contextmanager
    def running(self) -> Iterator[None]:
        files = [f"--config.file={self._config}", f"--storage.tsdb.path={self._config.with_name('data')}"]
        command = [tool("prometheus"), *files, f"--web.listen-address={self._address}"]
        path = self._config.with_name("prometheus.log")
        with path.open("w") as log, subprocess.Popen(command, stderr=log) as process:
            try:

                def starts() -> bool:
                    assert process.poll() is None, path.read_text()
                    try:
                        return self.query("vector(1)") != []
                    except OSError:
                        return False

                wait_until(starts, "Prometheus to start")
                yield
            finally:
                process.terminate()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series."""
        result = self.api("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def api(self, path: str, **parameters: str) -> Any:
        """Return the answer of Prometheus's API."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"]


def discovered(pod: dict, address: Callable[[int], str]) -> Iterator[dict]:
    """Yield the ports of a pod for `file_sd_configs`, with these addresses and the labels of Prometheus's discovery."""
    metadata = {f"{POD}name": pod["metadata"]["name"], f"{POD}phase": pod["status"]["phase"]}
    metadata |= {"__meta_kubernetes_namespace": pod["metadata"]["namespace"]}
    metadata |= {label(name): value for name, value in pod["metadata"].get("labels", {}).items()}
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            names = {f"{POD}container_port_name": port.get("name", "")}
            names |= {f"{POD}container_port_number": str(port["containerPort"])}
            yield {"targets": [address(port["containerPort"])], "labels": metadata | names}


def label(name: str) -> str:
    return f"{POD}label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"
