"""The connections of the page and of the commands' socket: how many there are, and how long one may be silent.

Whoever only connects, sends a request a byte at a time or leaves a reply unread takes a descriptor and memory that
collection needs. So there are few, and the one that has been silent for longest makes room for the next.
"""

from __future__ import annotations

import resource
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import structlog
from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

log = structlog.get_logger()

MOST: Final = 64
LIMIT_S: Final = 10.0
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NAME: Final = "ddslogd"  # in replies that the application does not see, aiohttp names itself and Python's version else
_SHARE: Final = 8  # one descriptor in so many, at the most, is for connections
_ENOUGH: Final = 65_536  # descriptors; more only costs memory of the kernel
_FULL: Final = "\r\n".join(
    (
        "HTTP/1.1 503 Service Unavailable",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
        "Retry-After: 1",
        "Content-Length: 0",
        "Connection: close",
        "\r\n",
    )
).encode()


def raise_descriptor_limit() -> None:
    """Raise the limit of open files as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a sandbox of the service manager's may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """Return how many connections there may be, so that most descriptors stay for collection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // _SHARE))


class Gate:
    """Makes the protocol of each connection, and bounds their number: to be given to ``create_server``."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, *, most: int, limit_s: float) -> None:
        """Prepare.

        Args:
            server: Of the application.
            loop: That it runs on.
            most: Connections at a time.
            limit_s: For the head of a request, and for silence between requests.
        """
        self.limit_s = limit_s
        self._server = server
        self._loop = loop
        self._most = most
        self._open: set[Connection] = set()

    @property
    def number(self) -> int:
        """Return how many connections there are."""
        return len(self._open)

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self._server, gate=self, loop=self._loop)

    def admit(self, connection: Connection) -> bool:
        """Return whether there is room for a connection; the one that has been silent for longest makes some."""
        if len(self._open) >= self._most:
            silent = [one for one in self._open if not one.busy]
            if not silent:
                return False
            oldest = min(silent, key=lambda one: one.silent_since)
            self._open.discard(oldest)
            oldest.abort()
        self._open.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)


class Connection(web.RequestHandler):
    """One connection, which is closed when it is silent for too long.

    Attributes:
        busy: Whether a request is being answered.
        silent_since: By the loop's clock: when it was made, or its last request was answered.
    """

    def __init__(self, server: web.Server, *, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as AppRunner hands it on
            keepalive_timeout=gate.limit_s,
            lingering_time=gate.limit_s,
        )
        self.busy = False
        self.silent_since = loop.time()
        self._gate = gate
        self._clock = loop
        self._admitted = False
        # aiohttp forgets its own where it closes politely, which waits for what is left to be sent: for ever, perhaps.
        self._wire: asyncio.WriteTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, where there is room."""
        self._wire = cast("asyncio.WriteTransport", transport)
        self._admitted = self._gate.admit(self)
        if self._admitted:
            super().connection_made(transport)
            self._wait()
        else:
            self._wire.write(_FULL)
            self._wire.close()

    def data_received(self, data: bytes) -> None:
        """Read on, where there was room."""
        if self._admitted:
            super().data_received(data)

    def eof_received(self) -> None:
        """End what was begun."""
        if self._admitted:
            super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room."""
        self._wire = None
        self._gate.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._admitted:
            super().connection_lost(exc)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Count as busy meanwhile."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
            self._wait()

    def abort(self) -> None:
        """Close at once, also where something is left to be sent."""
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes what was sent
    ) -> web.StreamResponse:
        """Return what is answered where the application had no say: to what is no HTTP, and where there is a bug."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("web.bug", path=request.path, exc_info=exc)
            if request.writer.output_size > 0:
                raise ConnectionError("the reply was sent in part") from exc
        else:
            log.debug("web.refused", status=status)
        text = f"{status}: {HTTPStatus(status).phrase}\n"
        response = web.Response(status=status, text=text, headers={**HEADERS, "Server": _NAME})
        response.force_close()
        return response

    def _wait(self) -> None:
        """Begin to wait for a request."""
        self.silent_since = self._clock.time()
        if self._timer is not None:
            self._timer.cancel()
        if self._wire is not None:
            self._timer = self._clock.call_later(self._gate.limit_s, self._expired)

    def _expired(self) -> None:
        if not self.busy:
            self.abort()
