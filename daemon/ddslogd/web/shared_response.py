"""Replies that are made once for all who ask for the same, and sent in pieces, so that nobody's slowness takes memory.

A body is kept while it is sent. Where those that are being sent grow too many, the oldest one's readers are cut off:
whoever asks again gets a new one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ddslogd.huaweicloud.single_flight import Shared
from ddslogd.web.connections import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

MOST_HELD: Final = 32 * 1024**2  # bytes of all bodies that are being sent; one that is larger goes alone
PIECE: Final = 64 * 1024  # bytes
_AT_ONCE: Final = 2  # are being made; they take threads that others need


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """What is sent.

    Attributes:
        kind: The content type.
    """

    data: bytes
    kind: str
    status: int = 200


class Replies:
    """Makes and sends them."""

    def __init__(self, *, kept_s: float, most_held: int = MOST_HELD, limit_s: float = LIMIT_S) -> None:
        """Prepare.

        Args:
            kept_s: So long one that was made will do for others.
            most_held: Bytes of bodies that are being sent.
            limit_s: For a piece of one.
        """
        self._kept_s = kept_s
        self._most_held = most_held
        self._limit_s = limit_s
        self._kept: dict[Hashable, tuple[Body, float]] = {}
        self._making: dict[Hashable, Shared[Body]] = {}
        self._readers: dict[Body, set[asyncio.Transport]] = {}  # oldest first
        self._few = asyncio.Semaphore(_AT_ONCE)

    @property
    def held(self) -> int:
        """Return the bytes of all bodies that are being sent."""
        return sum(len(one.data) for one in self._readers)

    async def send(
        self, request: web.Request, key: Hashable, make: Callable[[], Coroutine[Any, Any, Body]]
    ) -> web.StreamResponse:
        """Send a reply.

        Args:
            request: That it is for.
            key: The same for requests that one reply will do for.
            make: Makes the body.
        """
        body = await self._body(key, make)
        response = web.StreamResponse(status=body.status, headers={"Content-Type": body.kind})
        response.content_length = len(body.data)
        try:
            await response.prepare(request)
            if request.method != "HEAD" and request.transport is not None:
                await self._send(response, body, request.transport)
        except ConnectionError:  # nobody is there any more, which aiohttp finds out by itself
            pass
        return response

    async def _send(self, response: web.StreamResponse, body: Body, transport: asyncio.Transport) -> None:
        self._hold(body, transport)
        view = memoryview(body.data)
        try:
            for start in range(0, len(view), PIECE):
                async with asyncio.timeout(self._limit_s):
                    await response.write(view[start : start + PIECE])
        except TimeoutError:
            transport.abort()
        finally:
            self._release(body, transport)

    def _hold(self, body: Body, transport: asyncio.Transport) -> None:
        self._readers.setdefault(body, set()).add(transport)
        while self.held > self._most_held and (oldest := next(iter(self._readers))) is not body:
            for reader in self._readers.pop(oldest):
                reader.abort()

    def _release(self, body: Body, transport: asyncio.Transport) -> None:
        readers = self._readers.get(body, set())
        readers.discard(transport)
        if not readers:
            self._readers.pop(body, None)

    async def _body(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Body]]) -> Body:
        kept = self._kept.get(key)
        if kept is not None and monotonic() - kept[1] < self._kept_s:
            return kept[0]
        making = self._making.setdefault(key, Shared(partial(self._made, key, make), name="reply"))
        try:
            return await making()
        finally:
            if making.idle and self._making.get(key) is making:
                del self._making[key]

    async def _made(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Body]]) -> Body:
        async with self._few:
            body = await make()
        now = monotonic()
        for old in [one for one, (_, made_at) in self._kept.items() if now - made_at >= self._kept_s]:
            del self._kept[old]
        if self._kept_s:
            self._kept[key] = (body, now)
            asyncio.get_running_loop().call_later(self._kept_s, self._forget, key, body)
        return body

    def _forget(self, key: Hashable, body: Body) -> None:
        if (kept := self._kept.get(key)) is not None and kept[0] is body:
            del self._kept[key]
