"""Print the logs of a job's pods. Each line has the name of its pod, in the pod's colour."""

import itertools
import os
import re
import select
import threading
import time
from typing import Any

from rich.console import Console
from rich.text import Text

from mnist_job.errors import ClusterError, JobError
from mnist_job.kubernetes import pods, rayjob
from mnist_job.kubernetes.api import Api

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


_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


class Reader:
    """The reader of an output file, which may end before this program (`| head -1`)."""

    def __init__(self, file: Any) -> None:
        try:
            # A copy, because the console replaces a broken pipe by /dev/null.
            self._copy: int | None = os.dup(file.fileno())
        except (OSError, ValueError):  # not a real file, as in tests and notebooks
            self._copy = None

    def wait(self, seconds: float) -> bool:
        """Wait for some seconds. Return True at once when the reader has gone, else False."""
        if self._copy is None:
            time.sleep(seconds)
            return False
        poll = select.poll()
        poll.register(self._copy, 0)  # report only errors of the pipe
        return bool(poll.poll(seconds * 1000))


def show(api: Api, job: dict[str, Any], follow: bool, console: Console) -> None:
    """Print the logs of all pods of the job. With `follow`, continue until the job has ended, also with new pods.

    Raises JobError.
    """
    colours = itertools.cycle(COLOURS)
    logs: dict[str, _Log] = {}
    reader = Reader(console.file)
    while True:
        job = api.rayjob(job["metadata"]["name"])
        over = rayjob.State.of(job).over
        for pod in pods.found(api, job):
            if pod.metadata.name not in logs and _has_written(pod):
                log = logs[pod.metadata.name] = _Log(api, pod, follow and not over, console, next(colours))
                log.start()
                if (not follow or over) and log.is_left_before_its_end(reader):
                    return
        if not follow or over:
            break
        if reader.wait(rayjob.LOOK_AGAIN_SECONDS):
            return
    if not logs:
        raise ClusterError(f"no pod has written anything yet; `mnist-job status {rayjob.State.of(job).name}` says why")
    for log in logs.values():
        if log.component == "submitter" and log.is_left_before_its_end(
            reader
        ):  # the Ray cluster's pods stay for a while
            return


class _Log(threading.Thread):
    """A thread that prints one pod's log."""

    def __init__(self, api: Api, pod: Any, follow: bool, console: Console, colour: str) -> None:
        super().__init__(daemon=True)
        self._api, self._follow, self._console, self._colour = api, follow, console, colour
        self._name, self._container = pod.metadata.name, pod.spec.containers[0].name
        self.component = pod.metadata.labels["app.kubernetes.io/component"]

    def is_left_before_its_end(self, reader: Reader) -> bool:
        """Wait for the end of the log. Return whether the reader has gone before it."""
        while self.is_alive():
            if reader.wait(0):
                return True
            self.join(0.1)
        return False

    def run(self) -> None:
        from urllib3.exceptions import HTTPError

        try:
            for line in self._api.follow_log(self._name, self._container, self._follow):
                self._console.print(Text(f"{self._name} ", style=self._colour).append(self._text(line)))
        except (JobError, HTTPError) as error:
            self._console.print(Text(f"{self._name} (its log ends here: {error})", style=self._colour))

    def _text(self, line: str) -> Text:
        """Return a pod's line with its own colours, or without them if the console shows none."""
        if self._console.is_terminal and not self._console.no_color:
            return Text.from_ansi(line)
        return Text(_ANSI.sub("", line))


def _has_written(pod: Any) -> bool:
    statuses = pod.status.container_statuses or []
    return any(status.state.running or status.state.terminated for status in statuses)
