"""An object on its way to a client: what range, which headers, and how the bytes go wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aiohttp import web

from ddslogd.sandbox.error_responses import store_refusal
from ddslogd.sandbox.faults import take
from ddslogd.sandbox.obs.object_store import http_date
from ddslogd.sandbox.obs.range_header import Unsatisfiable, asked_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.sandbox.faults import Faults
    from ddslogd.sandbox.obs.object_store import ObjectStore, StoredObject

# One byte more than aiohttp lets pass without waiting for the socket: each chunk is counted when it has gone.
CHUNK = 64 * 1024 + 1
_PACED_CHUNKS_PER_SECOND = 20
_MESSAGES = {416: "The requested range cannot be satisfied.", 403: "Access Denied", 404: "The key does not exist."}


class _Stream(web.StreamResponse):
    """A reply whose length nobody checks, so that it may promise more than it holds, or nothing."""

    _length_check = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """What goes out: ``data[start:end]``, told as a part of the object or as the whole."""

    data: bytes
    start: int
    end: int
    partial: bool


class Delivery:
    """Serves ``GET /{bucket}/{key}``.

    Args:
        store: What it serves from.
        faults: What goes wrong.
        sent: Is told of each piece of body that has gone to a socket, in bytes.
    """

    def __init__(self, store: ObjectStore, faults: Faults, sent: Callable[[int], None]) -> None:
        self._store = store
        self._faults = faults
        self._sent = sent

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for an object."""
        if self._faults.drop_objects > 0:
            self._faults.drop_objects -= 1
            await hang_up(request)
        if status := take(self._faults.object_errors):
            wait = self._faults.retry_after if status in {429, 503} else 0
            headers = {"Retry-After": str(wait)} if wait else None
            code = take(self._faults.object_codes) or ""
            raise store_refusal(status, _MESSAGES.get(status, "Please try again."), code=code, headers=headers)
        if location := take(self._faults.redirect):
            moved = {"Location": location}
            raise store_refusal(307, "Please use the other address.", code="TemporaryRedirect", headers=moved)
        held = self._store.admit(request)
        if self._faults.refuse_range and "Range" in request.headers:
            status = self._faults.refuse_range
            raise store_refusal(status, _MESSAGES.get(status, "Please try again."))
        if page := take(self._faults.page_instead):
            return web.Response(body=page[1], headers={"Content-Type": page[0]})
        if self._faults.emptied > 0:
            self._faults.emptied -= 1
            held = replace(held, data=b"")
        if self._faults.encoding == "gzip" or self._faults.packed:
            held = held.gzipped
        self._check_match(request, held)
        body = self._body(request, held)
        if self._faults.packed_on_the_way and not body.partial:
            data = held.gzipped.data
            body = _Body(data=data, start=0, end=len(data), partial=False)
        return await self._send(request, held, body)

    def _check_match(self, request: web.Request, held: StoredObject) -> None:
        """Refuse where If-Match names another object; If-Range is not looked at, as in the stores that were tried."""
        wanted = request.headers.get("If-Match")
        etag = held.etag(self._faults.etag).strip('"')
        if wanted is None or wanted.strip() == "*" or etag in [tag.strip(' "') for tag in wanted.split(",")]:
            return
        raise store_refusal(412, "At least one of the preconditions did not hold.", more={"Condition": "If-Match"})

    def _body(self, request: web.Request, held: StoredObject) -> _Body:
        """Choose the bytes to send."""
        total = len(held.data)
        whole = _Body(data=held.data, start=0, end=total, partial=False)
        try:
            asked = asked_range(request.headers.get("Range"), total)
        except Unsatisfiable:
            raise store_refusal(416, _MESSAGES[416], headers={"Content-Range": f"bytes */{total}"}) from None
        if asked is not None and not self._faults.ignore_range:
            start, end = asked[0], min(total, asked[1] + (take(self._faults.range_surplus) or 0))
            shifted = min(max(0, start + (take(self._faults.shift_range) or 0)), end - 1)
            whole = replace(whole, start=shifted, end=end, partial=True)
        return self._corrupted(whole)

    def _corrupted(self, body: _Body) -> _Body:
        offset = take(self._faults.corrupt)
        if offset is None or not 0 <= offset < len(body.data):
            return body
        data = bytearray(body.data)
        data[offset] ^= 0xFF
        return replace(body, data=bytes(data))

    async def _send(self, request: web.Request, held: StoredObject, body: _Body) -> web.StreamResponse:
        reply = _Stream(status=206 if body.partial else 200, headers=self._headers(held, body))
        cut, stall = take(self._faults.cut_after), take(self._faults.stall_after)
        if self._faults.no_length:
            reply.force_close()
        if self._in_chunks(body):
            reply.enable_chunked_encoding()
        await reply.prepare(request)
        if request.transport is not None:
            # No room next to the kernel's own: what is counted has gone.
            request.transport.set_write_buffer_limits(high=0)
        stops = [stop for stop in (cut, stall) if stop is not None]
        await self._write(reply, memoryview(body.data)[body.start : body.end][: min(stops, default=None)])
        if cut is not None and cut == min(stops):
            await hang_up(request)
        elif stall is not None:
            await asyncio.Event().wait()
        if after := take(self._faults.after_object):
            after()
        return reply

    async def _write(self, reply: web.StreamResponse, data: memoryview) -> None:
        """Write, at the pace there is, and count."""
        pace = take(self._faults.paces) or self._faults.bytes_per_second
        chunk = CHUNK if pace is None else max(1, min(CHUNK, int(pace / _PACED_CHUNKS_PER_SECOND)))
        for at in range(0, len(data), chunk):
            piece = data[at : at + chunk]
            if pace is not None:
                await asyncio.sleep(len(piece) / pace)
            await reply.write(piece)
            self._sent(len(piece))

    def _in_chunks(self, body: _Body) -> bool:
        return self._faults.chunked or (self._faults.packed_on_the_way and not body.partial)

    def _headers(self, held: StoredObject, body: _Body) -> dict[str, str]:
        headers = {
            "Content-Type": "binary/octet-stream",
            "Accept-Ranges": "bytes",
            "Last-Modified": http_date(held.modified),
            "Cache-Control": "no-cache,no-store",
            "x-obs-id-2": "sandbox",
        }
        kind = take(self._faults.etags) or self._faults.etag
        if etag := held.etag(kind):
            headers["ETag"] = etag
        if kind == "encrypted":
            headers["x-obs-server-side-encryption"] = "kms"
        if self._faults.encoding:
            headers["Content-Encoding"] = self._faults.encoding
        if self._faults.packed_on_the_way and not body.partial:
            headers["Content-Encoding"] = "gzip"
        if body.partial:
            true = f"bytes {body.start}-{body.end - 1}/{len(body.data)}"
            headers["Content-Range"] = take(self._faults.content_range) or true
        if not self._faults.no_length and not self._in_chunks(body):
            headers["Content-Length"] = str(body.end - body.start)
        return headers


async def hang_up(request: web.Request) -> None:
    """Close the connection and wait for the end that brings: the handler is cancelled with its connection."""
    if request.transport is not None:
        request.transport.close()
    await asyncio.Event().wait()
