"""A server that keeps to no rule but the test's: what it sends is bytes, not replies."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request.

    Attributes:
        target: Path and query.
        head: All of it, as it came.
    """

    method: str
    target: str
    head: bytes
    body: bytes


@dataclass(slots=True)
class Hostile:
    """A running one.

    Attributes:
        endpoint: Its origin.
        asked: All requests that came whole.
        lost: Connections that the other side has ended.
    """

    endpoint: str
    asked: list[Asked] = field(default_factory=list)
    lost: int = 0


@asynccontextmanager
async def hostile(answer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[Hostile]:
    """Listen on loopback, and let ``answer`` write what it likes to each request; it ends with the connection."""
    found = Hostile("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                asked = await _request(reader)
                found.asked.append(asked)
                await answer(asked, writer)
                await writer.drain()
        found.lost += 1
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    found.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return Asked(method=method, target=target, head=head, body=await reader.readexactly(length))


def reply(body: object, *, status: int = 200, headers: str = "") -> bytes:
    """Return a regular reply; what is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(content)}\r\n\r\n".encode() + content


def failed_rows(number: int, size: int) -> bytes:
    """Return an export of so many failed files in about so many bytes, whose names are all slashes: the worst rows."""
    name = "a/" * ((size // number - 90) // 4)
    rows = [{"node_name": f"{one}/{name}", "status": "FAILED", "file_name": f"{one}/{name}"} for one in range(number)]
    return json.dumps({"list": rows, "status": "FAILED"}).encode()


def listed_page(start: int, *, instances: int = 100, nodes: int = 3) -> dict[str, object]:
    """Return a page of a list that does not end."""
    group = {"type": "replica", "nodes": [{"id": f"{one:032x}no02", "name": f"n{one}"} for one in range(nodes)]}
    found = [
        {"id": f"{one:032x}in02", "name": f"i{one}", "mode": "ReplicaSet", "status": "normal", "groups": [group]}
        for one in range(start, start + instances)
    ]
    return {"instances": found, "total_count": 10**9}
