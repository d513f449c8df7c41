"""The object store: links that look signed and end, ranges, ETags that are MD5s, and what can go wrong with a body."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from aiohttp import web

from fuzz.objects import md5

if TYPE_CHECKING:
    from fuzz.cloud import Clocks, Faults
    from fuzz.objects import Exported

LINK_LIFE = 8  # seconds
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Endless(web.StreamResponse):
    """A body that is neither counted nor chunked."""

    _length_check = False


class ObjectStore:
    """Holds one bucket."""

    def __init__(self, clocks: Clocks, faults: Faults) -> None:
        self._clocks = clocks
        self._faults = faults
        self._objects: dict[str, Exported] = {}

    def put(self, key: str, made: Exported) -> None:
        """Write an object, over what had the key before."""
        self._objects[key] = made

    def link(self, endpoint: str, key: str) -> str:
        """Return a link that is good for a while."""
        expires = int(self._clocks.store_now().timestamp()) + LINK_LIFE
        return (
            f"{endpoint}/bucket/{key}?AWSAccessKeyId=FUZZ&Expires={expires}&Signature={_signature(key, str(expires))}"
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for an object."""
        if self._faults.hits("store reset", "all"):
            return _hang_up(request)
        if self._faults.hits("store 503", "all"):
            return _refusal(503, "SlowDown")
        key, expires = request.match_info["key"], request.query.get("Expires", "")
        if request.query.get("Signature") != _signature(key, expires):
            return _refusal(403, "SignatureDoesNotMatch")
        if self._clocks.store_now().timestamp() >= int(expires):
            return _refusal(403, "AccessDenied", "Request has expired")
        made = self._objects.get(key)
        if made is None:
            return _refusal(404, "NoSuchKey")
        try:
            return await self._send(request, made)
        except ConnectionError:  # the daemon was killed meanwhile
            return _hang_up(request)

    async def _send(self, request: web.Request, made: Exported) -> web.StreamResponse:
        gzipped = self._faults.hits("store gzip", "all"), self._faults.hits("store gzip object", "all")
        data = made.gzipped if any(gzipped) else made.data
        headers = {"Content-Type": "application/octet-stream"} | ({"Content-Encoding": "gzip"} if gzipped[0] else {})
        if self._faults.hits("store bare", "all") or self._faults.hits("store bare torn", "all"):
            return await self._send_bare(request, data, headers)
        etag = f'"{md5(data)}"'
        if request.headers.get("If-Match", etag) != etag:
            return _refusal(412, "PreconditionFailed")
        response = web.StreamResponse(headers=headers | {"ETag": etag, "Accept-Ranges": "bytes"})
        found = _RANGE.fullmatch(request.headers.get("Range", ""))
        if found is not None:
            start, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            if start >= len(data):
                return _refusal(416, "InvalidRange")
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data = data[start : end + 1]
        response.content_length = len(data)
        await response.prepare(request)
        if self._faults.hits("store torn", "all") and len(data) > 1:
            await response.write(data[: len(data) // 2])
            return _hang_up(request, response)
        await response.write(data)
        await response.write_eof()
        return response

    async def _send_bare(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        """Send a body whose end is the connection's, without a length or an ETag; perhaps too early."""
        torn = self._faults.hits("store bare torn", "all")
        response = _Endless(headers=headers)
        response.force_close()
        await response.prepare(request)
        await response.write(data[: len(data) // 2] if torn else data)
        await response.write_eof()
        return response


def _signature(key: str, expires: str) -> str:
    return hashlib.sha256(f"secret of the fuzz {key} {expires}".encode()).hexdigest()


def _hang_up(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=500)


def _refusal(status: int, code: str, message: str = "no") -> web.Response:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
