"""What the sandbox served: requests, calls by kind, bytes. Every reply passes here and gets its Date and its id."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from aiohttp import web

from ddslogd.sandbox.error_responses import Refused
from ddslogd.sandbox.obs.object_store import http_date

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ddslogd.sandbox.clock import CloudClock

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REMEMBERED = 10_000
_ID_HEADERS = {
    "object": "x-obs-request-id",
    "login": "X-IAM-Trace-Id",
    "token": "X-IAM-Trace-Id",
    "projects": "X-IAM-Trace-Id",
}


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request as it came.

    Attributes:
        kind: login, token, projects, instances, errorlog-download, slowlog-download, object,
            metadata-token, securitykey, other.
        path: Without the query.
        headers: As sent, secrets included: it is a sandbox.
        status: Of the reply; 0 where none was begun.
        range: The Range header; empty where there was none.
        body: As it came; empty where there was none.
        sent: Bytes of the reply's body; 0 where their number was not known before.
    """

    kind: str
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    status: int = 0
    range: str = ""
    body: bytes = field(default=b"", repr=False)
    sent: int = 0


_SERVERS = {"object": "objects", "login": "iam", "token": "iam", "projects": "iam"}  # all others: dds
_RECORD = web.RequestKey("record", RequestRecord)


class Journal:
    """Keeps count.

    Args:
        clock: Whose time the Date header shows.
    """

    def __init__(self, clock: CloudClock) -> None:
        self.calls: Counter[str] = Counter()
        self.requests: deque[RequestRecord] = deque(maxlen=_REMEMBERED)
        self.bytes_sent = 0
        self._clock = clock
        self._served = 0

    def sent(self, size: int) -> None:
        """Count bytes of an object's body that have gone to a socket."""
        self.bytes_sent += size

    def watch(self, kind: str, handler: Handler) -> Handler:
        """Return a handler that is counted as ``kind``, and whose refusals become replies."""

        async def watched(request: web.Request) -> web.StreamResponse:
            record = RequestRecord(
                kind=kind,
                method=request.method,
                path=request.path,
                headers=request.headers,
                range=request.headers.get("Range", ""),
            )
            request[_RECORD] = record
            self.calls[kind] += 1
            self.requests.append(record)
            try:
                record.body = await request.read()
                return await handler(request)
            except Refused as refused:
                return refused.reply

        return watched

    async def stamp(self, request: web.Request, reply: web.StreamResponse) -> None:
        """Put on a reply what every reply has, just before it goes."""
        self._served += 1
        record = request.get(_RECORD)
        kind = record.kind if record else "other"
        server = _SERVERS.get(kind, "dds")
        age = self._clock.faults.cached_for.get(server)
        reply.headers["Date"] = http_date(self._clock.shown(by=server) - (age or timedelta(0)))
        if age is not None:
            reply.headers["Age"] = str(round(age.total_seconds()))
        reply.headers[_ID_HEADERS.get(kind, "X-Request-Id")] = f"{self._served:032x}"
        if record:
            record.status = reply.status
            record.sent = reply.content_length or 0
