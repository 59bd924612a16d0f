"""What the workers tell the driver while they run.

Ray Train hands metrics over when a run has ended, and a worker's exception only after it was retried. So workers write
into a small actor, and the driver reads it as it fills.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_job.distributed import cluster
from mnist_job.training.progress import End, Entry, Progress


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
