"""Messages from the workers to the driver while they run.

Ray Train returns metrics only at the end of a run, and a worker's exception only after the retries. So the workers
write their entries into a small actor, and the driver reads them from it at once.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_job.distributed import cluster
from mnist_job.training.progress import End, Entry, Progress


class Journal:
    """A queue of entries with one reader. Any process of the cluster may write to it."""

    def __init__(self) -> None:
        # On the driver's node: a worker's node may be lost during the run.
        here = NodeAffinitySchedulingStrategy(cluster.this_node(), soft=False)
        entries: Any = ray.remote(num_cpus=0)(_Entries)
        self._entries = entries.options(scheduling_strategy=here).remote()

    def write(self, entry: Entry) -> None:
        """Add an entry. Does not wait: it may be called from Ray Train's event loop."""
        self._entries.write.remote(entry)

    def read(self) -> Iterator[Entry]:
        """Yield each entry as it comes, up to End. Of several unread Progress in a row, yield only the last.

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
        """Return the unread entries. Wait for one if there is none."""
        async with self._grown:
            await self._grown.wait_for(lambda: self._unread)
            taken, self._unread = self._unread, []
            return taken
