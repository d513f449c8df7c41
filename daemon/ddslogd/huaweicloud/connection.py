"""Connections to a cloud, bounded where aiohttp is not: the heads of a reply, and what comes that nobody asked for.

aiohttp drops interim replies (1xx) one by one, without an end. While a connection lies idle in the pool, it keeps every
reply that comes all the same: 300 MiB of them within seconds were seen.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from ddslogd.huaweicloud.response_limits import MAX_FRAMING, MAX_HEADER, MOST_HEADS, MOST_INTERIM

if TYPE_CHECKING:
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

_LONGEST_NAME = 64  # characters of a header's name in an error


class Oversize(aiohttp.ClientError):
    """What came is more than a reply may have; its text is for the operator and holds no value of a header."""


class CloudConnection(ResponseHandler):
    """One connection, as the connector makes them.

    aiohttp calls ``set_response_params`` before each request, ``feed_data`` with each head, and ``data_received`` with
    whatever comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None  # of the reply that is waited for; None while none is
        self._body: StreamReader | None = None  # of the last reply
        self._came = 0  # bytes of the exchange
        self._interim = 0
        self._most = MAX_HEADER
        self._excessive = False

    def set_response_params(self, **params: Any) -> None:
        """Begin an exchange."""
        self._head = bytearray()
        self._body = None
        self._came = self._interim = 0
        self._most = params.get("max_field_size", MAX_HEADER)
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless nothing is waited for, or it is too much."""
        if self._excessive:
            return
        if self._head is None and (self._body is None or self._body.is_eof()):
            if data:
                self._refuse("bytes came that nobody asked for")
            return
        if self._head is not None:
            self._head += data
        self._came += len(data)
        super().data_received(data)
        if self._body is not None and self._came - self._body.total_bytes > MAX_FRAMING + self._body.total_bytes:
            self._refuse("its body comes in chunks of a few bytes")
        if self._head is not None and len(self._head) > MOST_HEADS * self._most:
            self._refuse(f"the heads of the reply are longer than {MOST_HEADS * self._most} bytes")

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Hand on a reply's head, and the body that is to come."""
        if self._excessive:
            return
        message, body = data
        if message.code // 100 == 1 and message.code != 101:  # noqa: PLR2004  # RFC 9110, 15.2
            self._interim += 1
            if self._interim > MOST_INTERIM:
                self._refuse(f"more than {MOST_INTERIM} interim replies (HTTP 1xx) came in place of one")
            return  # nobody waits for one: no request of ours has "Expect: 100-continue"
        self._head, self._body = None, body
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: Any, **causes: Any) -> None:
        """End the exchange; what the parser refused for its length is named."""
        too_long = self._too_long() if isinstance(exc, HttpProcessingError) else ""
        super().set_exception(Oversize(too_long) if too_long else exc, *cause, **causes)

    def _refuse(self, reason: str) -> None:
        self._excessive = True
        self.set_exception(Oversize(reason))
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(Oversize(reason))
        if self.transport is not None:
            self.transport.abort()

    def _too_long(self) -> str:
        """Return which line of the head is too long: the parser's own words hold a header's value, not its name."""
        lines = bytes(self._head or b"").split(b"\r\n")
        line = next((line for line in lines if len(line) > self._most), None)
        if line is None:
            return ""
        name, colon, _ = line.partition(b":")
        what = f"the header {_readable(name)}" if colon else "a line"
        return f"{what} of the reply is longer than {self._most} bytes"


def _readable(name: bytes) -> str:
    """Return a header's name, as far as it is one. RFC 9110, 5.1: letters, digits and signs."""
    text = name[:_LONGEST_NAME].decode("ascii", "replace")
    return "".join(char if char.isalnum() or char in "-_" else "?" for char in text)


def connector(**options: Any) -> aiohttp.TCPConnector:
    """Return a pool of such connections; the options are those of aiohttp's."""
    made = aiohttp.TCPConnector(**options)
    # There is no other way to have connections of one's own; tests hold what they are for.
    vars(made)["_factory"] = partial(CloudConnection, loop=asyncio.get_running_loop())
    return made
