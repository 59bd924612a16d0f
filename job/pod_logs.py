"""What the pods of a job write, line by line, told apart by the pod's name and by colour."""

import itertools
import threading
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from job import rayjob, waiting
from job.errors import ClusterError, JobError
from job.kubernetes_api import Api

COLOURS = (
    "cyan",
    "green",
    "yellow",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_green",
    "bright_yellow",
    "bright_magenta",
)


def show(api: Api, job: dict[str, Any], follow: bool, console: Console) -> None:
    """Print the logs of all its pods; with `follow` until it is over, also of pods that come later. Raises JobError."""
    colours = itertools.cycle(COLOURS)
    readers: dict[str, _Reader] = {}
    while True:
        job = api.rayjob(job["metadata"]["name"])
        over = rayjob.State.of(job).over
        for pod in waiting.found(api, job):
            if pod.metadata.name not in readers and _has_written(pod):
                reader = readers[pod.metadata.name] = _Reader(api, pod, follow and not over, console, next(colours))
                reader.start()
                if not follow or over:
                    reader.join()
        if not follow or over:
            break
        time.sleep(rayjob.LOOK_AGAIN_SECONDS)
    if not readers:
        raise ClusterError(f"no pod has written anything yet; `mnist-job status {rayjob.State.of(job).name}` says why")
    for reader in readers.values():
        if reader.component == "submitter":  # the Ray cluster's pods stay for a while
            reader.join()


class _Reader(threading.Thread):
    """Prints one pod's log."""

    def __init__(self, api: Api, pod: Any, follow: bool, console: Console, colour: str) -> None:
        super().__init__(daemon=True)
        self._api, self._follow, self._console, self._colour = api, follow, console, colour
        self._name, self._container = pod.metadata.name, pod.spec.containers[0].name
        self.component = pod.metadata.labels["app.kubernetes.io/component"]

    def run(self) -> None:
        from urllib3.exceptions import HTTPError

        try:
            for line in self._api.follow_log(self._name, self._container, self._follow):
                self._console.print(Text(f"{self._name} ", style=self._colour).append(Text(line, style="default")))
        except (JobError, HTTPError) as error:
            self._console.print(Text(f"{self._name} (its log ends here: {error})", style=self._colour))


def _has_written(pod: Any) -> bool:
    statuses = pod.status.container_statuses or []
    return any(status.state.running or status.state.terminated for status in statuses)
