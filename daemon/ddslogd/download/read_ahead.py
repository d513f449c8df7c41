"""A body read as it comes, a little ahead of the disk.

aiohttp drops what it has buffered once a connection breaks: whoever reads only between two writes loses bytes that had
arrived, and fetches them twice. Here reading never waits for the disk, until a batch waits to be taken.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.http import NETWORK_ERRORS
from ddslogd.model.errors import TooSlow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp

    from ddslogd.download.throughput import Throughput

SMALL = 64 * 1024  # bytes of a body that comes sooner than a task for it would


class Intake:
    """What has come of one body.

    Attributes:
        error: What broke the connection, or why it was given up; None while it holds, and after a regular end.
    """

    def __init__(
        self, batch: int, throughput: Throughput | None = None, *, watch: Callable[[int], None] | None = None
    ) -> None:
        """Prepare; a batch has that many bytes or a little more, and as many wait at the most."""
        self._batch = batch
        self._throughput = throughput
        self._watch = watch
        self.error: BaseException | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._ready = asyncio.Event()  # a batch is full, or there is no more
        self._room = asyncio.Event()

    async def batch(self) -> list[bytes]:
        """Return the next chunks, about a batch; none at the end or where the connection broke."""
        await self._ready.wait()
        chunks, self._chunks, self._size = self._chunks, [], 0
        if not self._ended:
            self._ready.clear()
        self._room.set()
        return chunks

    async def read(self, content: aiohttp.StreamReader) -> None:
        """Take the body in, until its end or its break."""
        try:
            while chunk := await content.readany():
                self._chunks.append(chunk)
                self._size += len(chunk)
                if self._watch is not None:  # now, not once it is written: a body of less than a batch would show none
                    self._watch(len(chunk))
                if self._size >= self._batch:
                    self._room.clear()
                    self._ready.set()
                    await self._room.wait()
                    if self._throughput is not None:
                        self._throughput.restart()
                if self._throughput is not None:
                    self._throughput.took(len(chunk))
        except (*NETWORK_ERRORS, TooSlow) as exc:
            self.error = exc
        finally:
            self._ended = True
            self._ready.set()


@asynccontextmanager
async def reading(
    content: aiohttp.StreamReader,
    *,
    size: int | None,
    batch: int,
    throughput: Throughput | None = None,
    watch: Callable[[int], None] | None = None,
) -> AsyncIterator[Intake]:
    """Read a body in a task of its own, which ends with the block; a small one before the block.

    Args:
        content: The body.
        size: Its bytes, as far as is known.
        batch: Bytes that are gathered before they are written.
        throughput: May give it up; None where nothing does.
        watch: Is called with the size of each chunk that comes.
    """
    intake = Intake(batch, throughput, watch=watch)
    if size is not None and size <= SMALL:
        await intake.read(content)
        yield intake
        return
    task = asyncio.create_task(intake.read(content), name="intake")
    try:
        yield intake
    finally:
        task.cancel()
        await asyncio.wait([task])  # not the task itself: a cancellation of ours must not pass for its
