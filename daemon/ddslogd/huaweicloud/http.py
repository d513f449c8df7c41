"""One HTTP exchange with the cloud's API: bounded, never redirected, its failures ours and free of secrets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ddslogd import __version__
from ddslogd.huaweicloud import error_codes, response_limits
from ddslogd.huaweicloud.auth import iam_protocol
from ddslogd.huaweicloud.connection import Oversize, connector
from ddslogd.model.errors import Complaint, ConfigError, Oversized, Unavailable, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime
    from types import SimpleNamespace

    from aiohttp.abc import AbstractResolver

    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock, Skew

REQUEST_TIMEOUT_S = 60.0  # silence on the connection; the vendor's client waits 120
READ_BUFFER = 64 * 1024  # bytes that wait in a connection, twice that at the most; more gains nothing, measured
# At the same time, of an account: what 100 calls a second need that take a third of one. A burst of the budget would
# take a socket for each, of 1,024 that a process has, and answers that come together keep the loop from all else.
MOST_CALLS = 32
LONGEST_KEEPALIVE_S = 75.0
# Of the read time-out: aiohttp 3.14 arms it once more at the end of a body, so that a connection which lies in the pool
# for as long comes back with an expired one, and the next request on it fails at once.
KEEPALIVE_SHARE = 0.8
_ERROR = 400  # statuses from here on are refusals
USER_AGENT = f"ddslogd/{__version__} aiohttp/{aiohttp.__version__}"
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
_EXCESS = "see endpoint, and the proxy on the way; if they are right, open a ticket with the cloud"
_PROXY_REFUSES = "the proxy wants a user and a password, or refuses those in `proxy` (HTTP 407)"
# A proxy that cannot be reached is none of these: it may be on its way up.
_OPERATORS = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientHttpProxyError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply.

    Attributes:
        headers: Looked up in any case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """Return the id by which the vendor's support finds this call."""
        return error_codes.request_id_of(self.headers)


class Http:
    """Calls one server of a cloud and learns its clock on the way.

    ``str()`` and ``repr()`` of aiohttp's errors show URLs and headers: they end here and are never logged.
    """

    def __init__(  # what bounds and cleans its replies, each by its name
        self,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        skew: Skew,
        redactor: Redactor | None = None,
        max_body: int = response_limits.MAX_BODY,
        max_header: int = response_limits.MAX_HEADER,
        limit_s: float = response_limits.EXCHANGE_LIMIT_S,
    ) -> None:
        """Prepare.

        Args:
            session: One that ``new_session`` made.
            clock: Of this host.
            skew: How far the server's clock is from it.
            redactor: Cleans what the server says before anybody reads it: it may echo what it was sent. None where
                secrets are what it is asked for.
            max_body: Bytes that the body of a reply may have.
            max_header: Bytes that one header of a reply may have.
            limit_s: Seconds that one exchange may take, from its connection on.
        """
        self._session = session
        self._clock = clock
        self._skew = skew
        self._redactor = redactor
        self._max_body = max_body
        self._max_header = max_header
        self._limit_s = limit_s
        self._large = asyncio.Semaphore(response_limits.MOST_LARGE_BODIES)

    def now(self) -> datetime:
        """Return the time by the server's clock."""
        return self._skew.now(self._clock)

    def _observe(self, headers: Mapping[str, str]) -> None:
        date, age = headers.get("Date", ""), headers.get("Age")
        self._skew.observe(date, self._clock.now(), age=age, steady_s=self._clock.monotonic())

    async def call(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send one request and read the whole reply, whatever its status.

        Raises:
            Unavailable: No reply came, or not all of it.
            Unreachable: The same, and waiting alone does not help.
            Oversized: Its header or its body is larger than a reply may be.
        """
        async with self.exchange(method, url, headers=headers, body=body) as reply:
            return reply

    @asynccontextmanager
    async def exchange(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Reply]:
        """Do as ``call``; while the block lasts, the reply counts among the large ones where it is one."""
        async with AsyncExitStack() as room:
            yield await self._exchanged(method, URL(url, encoded=True), headers, body, room)

    async def _exchanged(
        self, method: str, target: URL, headers: Mapping[str, str], body: bytes, room: AsyncExitStack
    ) -> Reply:
        limit = _Limit(self._limit_s)
        try:
            async with (
                limit.timeout,
                self._session.request(
                    method,
                    target,
                    headers=headers,
                    data=body or None,
                    allow_redirects=False,
                    max_field_size=self._max_header,
                    trace_request_ctx=limit,
                ) as response,
            ):
                self._observe(response.headers)
                content = await self._read(response, room)
                reply = Reply(status=response.status, headers=response.headers.copy(), body=bytes(content))
        except Oversize as exc:
            raise Oversized(f"{target.host} sent what no reply may be: {exc}: {_EXCESS}") from None
        except NETWORK_ERRORS as exc:
            kind = Unreachable if isinstance(exc, _OPERATORS) else Unavailable
            reason = f"it is not whole after {self._limit_s:g} s" if limit.timeout.expired() else network_reason(exc)
            raise kind(f"{target.host} gave no reply: {reason}") from None
        if reply.status == 407:  # noqa: PLR2004  # RFC 9110, 15.5.8: where there is no TLS, it looks like a reply
            raise Unreachable(f"{target.host} gave no reply: {_PROXY_REFUSES}")
        return reply if self._redactor is None else await _cleaned(reply, self._redactor)

    async def _read(self, response: aiohttp.ClientResponse, room: AsyncExitStack) -> bytearray:
        """Return the body; one that is large waits until few others are held.

        Raises:
            Oversize: It is larger than it may be, or says that it will be.
        """
        content, is_large = bytearray(), False
        if (response.content_length or 0) > self._max_body:
            raise Oversize(f"its body is longer than {self._max_body} bytes")
        while chunk := await response.content.read(READ_BUFFER):
            content += chunk
            if len(content) > self._max_body:
                raise Oversize(f"its body is longer than {self._max_body} bytes")
            if len(content) > response_limits.SMALL_BODY and not is_large:
                await room.enter_async_context(self._large)
                is_large = True
        return content


async def _cleaned(reply: Reply, redactor: Redactor) -> Reply:
    """Return a reply without secrets, but for the token that it may hold in its header."""
    headers = CIMultiDict(
        (name, value if name.lower() == iam_protocol.SUBJECT_TOKEN.lower() else redactor.clean_known(value))
        for name, value in reply.headers.items()
    )
    if reply.status >= _ERROR:
        body = redactor.clean_error(reply.body)
    elif len(reply.body) > response_limits.SMALL_BODY:  # a few milliseconds for each secret
        body = await asyncio.to_thread(redactor.clean_reply, reply.body)
    else:
        body = redactor.clean_reply(reply.body)
    return replace(reply, headers=headers, body=body)


class _Limit:
    """The time that one exchange may take; to wait for a connection of the pool takes none of it."""

    def __init__(self, seconds: float) -> None:
        self.timeout = asyncio.timeout(seconds)
        self._seconds = seconds

    def stop(self) -> None:
        self.timeout.reschedule(None)

    def start(self) -> None:
        self.timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)


def _tracing() -> aiohttp.TraceConfig:
    """Return what tells an exchange's limit that it waits for a connection, and that it has one."""

    async def stop(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        if isinstance(context.trace_request_ctx, _Limit):
            context.trace_request_ctx.stop()

    async def start(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        if isinstance(context.trace_request_ctx, _Limit):
            context.trace_request_ctx.start()

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_queued_start.append(stop)
    tracing.on_connection_queued_end.append(start)
    return tracing


def network_reason(exc: BaseException) -> str:
    """Return what broke in words that hold no URL, header or address."""
    match exc:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return _distrust(getattr(exc, "certificate_error", exc))
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved (see the host's resolver and firewall)"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
        case aiohttp.ClientHttpProxyError(status=407):  # RFC 9110, 15.5.8
            return _PROXY_REFUSES
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refused the connection (HTTP {exc.status})"
        case aiohttp.ClientConnectorError():
            return _system_words(exc.os_error)
        case TimeoutError():
            return "time-out"
        case OSError():
            return _system_words(exc)
        case _:
            return _library_words(exc)


def _library_words(exc: BaseException) -> str:
    match exc:
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed"
        case Oversize():
            return str(exc)
        case aiohttp.ClientResponseError():
            return "what came is no reply of HTTP"
        case _:
            return type(exc).__name__


def _distrust(exc: Exception) -> str:
    """Return why a certificate is not trusted; OpenSSL's own words may hold the name that was asked for, no more."""
    match getattr(exc, "verify_code", 0):  # X509_V_ERR_… of OpenSSL's x509_vfy.h
        case 10:
            return "its TLS certificate has expired (whoever runs it has to renew it; see this host's clock too)"
        case 9:
            return "its TLS certificate is not valid yet (see this host's clock)"
        case 62 | 64:
            return "its TLS certificate is for another name (see the endpoint's name, and what answers in its place)"
        case _:
            words = getattr(exc, "verify_message", "") or "no reason given"
            return f"its TLS certificate is not trusted: {words} (set ca_file if it is signed by a CA of your own)"


def _system_words(exc: OSError) -> str:
    """Return it as the system does: asyncio puts addresses into its own words, and TLS has numbers of its own."""
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or 'no reason given'})"
    return os.strerror(exc.errno) if exc.errno else type(exc).__name__


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return what certificates are judged by: the host's own authorities, or those in the file instead. Blocks.

    Everybody who trusts the same ones shares it, and nobody changes it: each takes 40 ms of the loop and 0.8 MiB.

    Raises:
        ConfigError: The file cannot be read, or holds no certificate.
    """
    try:
        return _trust(ca_file, _content(ca_file) if ca_file else _last_changes())
    except (OSError, ssl.SSLError) as exc:  # an SSLError is an OSError too; both are named for the reader
        text = f"ca_file cannot be used: {exc.strerror or 'it holds no certificate'}"
        raise ConfigError(str(ca_file), [Complaint(line=0, column=0, path="", text=text)]) from None


@lru_cache(maxsize=8)  # those of one cloud ask one after the other; what was renewed is not kept for long
def _trust(ca_file: Path | None, _: bytes | tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.keylog_filename = None  # type: ignore[assignment]  # else it is what SSLKEYLOGFILE says: tokens would be readable
    return context


def _content(ca_file: Path) -> bytes:
    return hashlib.sha256(ca_file.read_bytes()).digest()


def _last_changes() -> tuple[int, ...]:
    """Return when the host's own authorities changed: a file, or a directory that has an entry for each."""
    paths = ssl.get_default_verify_paths()
    told: list[int] = []
    for place in filter(None, (paths.cafile, paths.capath)):
        with suppress(FileNotFoundError):
            found = Path(place).stat()
            told += (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return tuple(told)


def new_session(
    *,
    ca_file: Path | None,
    proxy: str | None,
    connect_timeout_s: float,
    read_timeout_s: float,
    most_connections: int = MOST_CALLS,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """Open a session: no cookies, nothing from the environment, no body decompressed, one pool of connections.

    Who finds all connections taken waits for one, without a limit of time; with ``most_connections`` 0 nobody does.
    ``resolver`` looks names up; None for the host's own.

    Raises:
        ConfigError: The file of trusted certificates cannot be used.
    """
    return aiohttp.ClientSession(
        connector=connector(
            ssl=trust(ca_file),
            limit=most_connections,
            resolver=resolver,
            keepalive_timeout=min(LONGEST_KEEPALIVE_S, KEEPALIVE_SHARE * read_timeout_s),
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        trace_configs=[_tracing()] if most_connections else [],
        max_field_size=response_limits.MAX_HEADER,
        trust_env=False,
        auto_decompress=False,
        read_bufsize=READ_BUFFER,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )
