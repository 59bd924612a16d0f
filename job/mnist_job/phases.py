"""Where a run's time goes: a clock that gives every second to a phase."""

import time
from collections.abc import Mapping

PHASES = {
    "data": "reading and checking the data",
    "ray_start": "starting Ray, or connecting to it",
    "worker_start": "Ray Train, until the workers run; where some were lost, also what was lost with them",
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
"""Each phase, in the order of a run."""


class Clock:
    """Seconds by phase since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def ended(self, phase: str, measured: Mapping[str, float] | None = None) -> None:
        """Give the time since the last call to `phase`, but for what was `measured` elsewhere meanwhile.

        Where more was measured, as by a worker whose last word came late, the next phase has that less.
        """
        now = time.perf_counter()
        spent = dict(measured or {})
        spent[phase] = spent.get(phase, 0.0) + max(now - self._last - sum(spent.values()), 0.0)
        for name, seconds in spent.items():
            assert name in PHASES, name
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._last += sum(spent.values())

    def handed_over(self) -> dict[str, float]:
        """The seconds since this was last asked."""
        taken, self.seconds = self.seconds, {}
        return taken
