"""A body that is read ahead of the disk."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp

from ddslogd.download.read_ahead import Intake, reading
from ddslogd.download.slots import GATHERED, LARGEST, SMALLEST, Slots

BATCH = 512 * 1024


class Body:
    """A stream as aiohttp gives it: chunks that were made before, then an end or an error."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks = list(chunks)
        self._error = error
        self.taken = 0

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        if self._chunks:
            self.taken += 1
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        return b""


async def batches(body: Body) -> tuple[list[bytes], Intake]:
    found = []
    async with reading(body, size=None, batch=BATCH) as intake:  # type: ignore[arg-type]  # it has the one method that is used
        while chunks := await intake.batch():
            found.append(b"".join(chunks))
    return found, intake


async def test_small_chunks_come_in_one_batch() -> None:
    found, intake = await batches(Body(b"a", b"b", b"c"))

    assert (found, intake.error) == ([b"abc"], None)


async def test_a_large_body_comes_in_batches() -> None:
    chunk = bytes(BATCH // 4)

    found, _ = await batches(Body(*[chunk] * 10))

    assert [len(batch) for batch in found] == [BATCH, BATCH, BATCH // 2]


async def test_what_came_before_the_connection_broke_is_given() -> None:
    found, intake = await batches(Body(b"a", b"b", error=aiohttp.ClientPayloadError("cut")))

    assert (found, type(intake.error)) == ([b"ab"], aiohttp.ClientPayloadError)


async def test_who_watches_hears_of_each_chunk_as_it_comes() -> None:
    """Not only once a batch is full: nobody takes one here."""
    heard: list[int] = []
    intake = Intake(BATCH, watch=heard.append)

    await intake.read(Body(b"a", b"bc", error=aiohttp.ClientPayloadError("cut")))  # type: ignore[arg-type]  # as above

    assert heard == [1, 2]


async def test_an_empty_body_has_no_batch() -> None:
    assert (await batches(Body()))[0] == []


async def test_reading_stops_while_a_batch_waits_to_be_taken() -> None:
    """Memory does not grow with the file where the disk is slow."""
    body = Body(*[bytes(BATCH)] * 50)
    async with reading(body, size=None, batch=BATCH) as intake:  # type: ignore[arg-type]  # as above
        for _ in range(200):
            await asyncio.sleep(0)
        taken = body.taken
        await intake.batch()

    assert taken == 1


async def test_reading_ends_with_the_block() -> None:
    async with reading(Body(*[bytes(BATCH)] * 50), size=None, batch=BATCH):  # type: ignore[arg-type]  # as above
        pass

    assert [task for task in asyncio.all_tasks() if task.get_name() == "intake"] == []


async def test_a_cancellation_at_the_end_of_the_block_is_not_swallowed() -> None:
    """Else a download would go on after SIGTERM."""
    left = asyncio.Event()

    async def transfer() -> None:
        async with reading(Body(*[bytes(BATCH)] * 50), size=None, batch=BATCH):  # type: ignore[arg-type]  # as above
            left.set()
        await asyncio.sleep(0)
        await asyncio.Event().wait()

    task = asyncio.create_task(transfer())
    await left.wait()
    task.cancel()
    await asyncio.wait([task], timeout=1)

    assert task.cancelled()


async def test_the_fewer_bodies_are_read_the_larger_are_the_batches() -> None:
    """All together gather no more than 4 MiB, as long as batches are worth their way to a thread."""
    slots, sizes = Slots(64), []

    async with AsyncExitStack() as stack:
        for _ in range(64):
            await stack.enter_async_context(slots)
            sizes.append(slots.batch)

    assert (sizes[:4], sizes[15], sizes[31:]) == ([LARGEST] * 4, GATHERED // 16, [SMALLEST] * 33)
    assert slots.batch == LARGEST


async def test_no_more_bodies_are_read_than_there_are_slots() -> None:
    slots = Slots(1)
    async with slots:
        second = asyncio.create_task(slots.__aenter__())
        await asyncio.sleep(0)
        waited = not second.done()
    await second

    assert waited
