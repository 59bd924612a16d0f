"""The phases of a run, and a clock that assigns every second to one of them."""

import time
from collections.abc import Mapping

PHASES = {
    "data": "reading and checking the data",
    "ray_start": "starting Ray, or connecting to it",
    "worker_start": "Ray Train, until the workers run; after a restart, also the work that was lost",
    "imports": "the first worker importing TensorFlow",
    "setup": "TensorFlow's cluster, the data on the device, the model, the checkpoint",
    "tracing": "TensorFlow's graphs of the epoch",
    "training": "the epochs' training",
    "validation": "the epochs' validation",
    "checkpoint": "saving the epochs",
    "worker_stop": "Ray Train ending the workers",
    "evaluate": "the evaluate task",
    "publish": "delivering the result and writing its files",
}
"""The phases in the order of a run, each with a description."""


class Clock:
    """The seconds of each phase since this object was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def ended(self, phase: str, measured: Mapping[str, float] | None = None) -> None:
        """Assign the time since the last call to `phase`, except the seconds that were `measured` elsewhere.

        If more was `measured` than has passed, because a worker's report came late, the next phase gets that much less.
        """
        now = time.perf_counter()
        spent = dict(measured or {})
        spent[phase] = spent.get(phase, 0.0) + max(now - self._last - sum(spent.values()), 0.0)
        for name, seconds in spent.items():
            assert name in PHASES, name
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._last += sum(spent.values())

    def handed_over(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call of this method."""
        taken, self.seconds = self.seconds, {}
        return taken
