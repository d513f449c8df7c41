"""A TCP proxy whose line can be cut, or hold bytes back one way or both."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TcpProxy:
    """Forwards what comes to a port on loopback.

    Attributes:
        port: Of its own.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = {"there": asyncio.Event(), "back": asyncio.Event()}
        self._is_cut = False
        self.port = 0
        self.restore()

    def cut(self) -> None:
        """End all connections, and refuse others."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def hold(self, *ways: str) -> None:
        """Let bytes pass no more, ``there``, ``back`` or both; no end of a connection sees any sign of it."""
        for way in ways:
            self._flows[way].clear()

    def restore(self) -> None:
        """Let all pass again; what was held back too."""
        self._is_cut = False
        for flow in self._flows.values():
            flow.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TcpProxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="connection of a proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            if not self._is_cut:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(back)
                ways = (("there", reader, back), ("back", there, writer))
                await asyncio.gather(*(self._forward(*way) for way in ways))
        writer.transport.abort()

    async def _forward(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                await self._flows[way].wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
