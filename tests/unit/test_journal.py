"""Test the actor that holds the journal, without Ray: thousands of reports do not fill its memory."""

import asyncio

from mnist_job.distributed.journal import _Entries
from mnist_job.training.progress import End, Epoch, Progress

EPOCH = Epoch(1, 0.5, 0.4, 0.9, 1e-3, 1.5)


def progress(step: int) -> Progress:
    return Progress(1, step, 10, 0.5, 1000.0, 2.0)


def test_a_later_report_takes_the_place_of_one_that_nobody_has_read():
    async def taken() -> list[list]:
        entries = _Entries()
        for entry in (progress(1), progress(2), EPOCH, progress(3), progress(4)):
            await entries.write(entry)
        first = await entries.take()
        for entry in (progress(5), End()):
            await entries.write(entry)
        return [first, await entries.take()]

    assert asyncio.run(taken()) == [[progress(2), EPOCH, progress(4)], [progress(5), End()]]


def test_a_reader_waits_for_what_is_written():
    async def taken() -> list:
        entries = _Entries()
        waiting = asyncio.create_task(entries.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        await entries.write(End())
        return await waiting

    assert asyncio.run(taken()) == [End()]
