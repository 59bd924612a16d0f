"""What the workers tell the driver while they run.

Ray Train hands metrics over when a run has ended, and a worker's exception only after it was retried. So workers write
into a small actor, and the driver reads it as it fills.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from mnist_job.distributed import cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Epoch:
    """A line of the history. Losses are means over all images; the learning rate is that of the epoch's first step.

    Training is measured while the weights change, each batch before its update. (`train_accuracy` is None in histories
    of before it was measured.)
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None = field(default=None, kw_only=True)
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


class Progress(NamedTuple):
    """How far training is, within an epoch: after `step` of its `steps`, counted from 1 like `epoch`.

    `train_loss` is the mean over the images of this epoch that the first worker has had: its part of each batch.
    `images_per_second` is all workers' in this epoch. `remaining_seconds` lead to the end of training.
    """

    epoch: int
    step: int
    steps: int
    train_loss: float
    images_per_second: float
    remaining_seconds: float


class Start(NamedTuple):
    """So many workers begin to train, after passing over checkpoints that were damaged.

    `node` is the first one's, `phases` are the seconds that it has spent until now.
    """

    workers: int
    damaged: list[str]
    node: str
    phases: dict[str, float]


class Spent(NamedTuple):
    """The seconds, by phase, that the first worker has spent since its last entry of this kind, or its start."""

    phases: dict[str, float]


class Restart(NamedTuple):
    """Workers were lost; all start again from the last checkpoint, if failures are left."""

    reason: str


class End(NamedTuple):
    """Ray Train has returned."""


News = Start | Progress | Epoch | Restart
"""What is shown of a run in progress."""

Entry = News | Spent | End


class Journal:
    """Entries in the order of their writing, for one reader. Any process of the cluster may write."""

    def __init__(self) -> None:
        # Beside the driver, with which alone it may be lost: a worker's node may go.
        here = NodeAffinitySchedulingStrategy(cluster.this_node(), soft=False)
        entries: Any = ray.remote(num_cpus=0)(_Entries)
        self._entries = entries.options(scheduling_strategy=here).remote()

    def write(self, entry: Entry) -> None:
        """Add an entry. Does not wait: it may be called from Ray Train's event loop."""
        self._entries.write.remote(entry)

    def read(self) -> Iterator[Entry]:
        """Each entry as it comes, up to End, but only the last of several Progress in a row.

        Raises ray.exceptions.RayError if the cluster goes away.
        """
        while True:
            for entry in ray.get(self._entries.take.remote()):
                yield entry
                if isinstance(entry, End):
                    return


class _Entries:
    def __init__(self) -> None:
        self._unread: list[Entry] = []
        self._grown = asyncio.Condition()

    async def write(self, entry: Entry) -> None:
        async with self._grown:
            if isinstance(entry, Progress) and self._unread and isinstance(self._unread[-1], Progress):
                self._unread.pop()
            self._unread.append(entry)
            self._grown.notify_all()

    async def take(self) -> list[Entry]:
        """The entries that have not been taken; waits for one if there is none."""
        async with self._grown:
            await self._grown.wait_for(lambda: self._unread)
            taken, self._unread = self._unread, []
            return taken
