"""One HTTP exchange with the cloud's API: bounded, never redirected, its failures ours and free of secrets."""

from __future__ import annotations

import hashlib
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ddslogd import __version__
from ddslogd.cloud import wire
from ddslogd.errors import Complaint, ConfigError, Rejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ddslogd.pacing import Clock, Skew

MAX_BODY = 16 * 1024 * 1024  # bytes of a reply; a row is some 700, so this is 20,000 nodes
REQUEST_TIMEOUT_S = 60.0  # silence on the connection; the vendor's client waits 120
READ_BUFFER = 64 * 1024  # bytes that wait in a connection, twice that at the most; more gains nothing, measured
# At the same time, of an account: what 100 calls a second need that take a third of one. A burst of the budget would
# take a socket for each, of 1,024 that a process has, and answers that come together keep the loop from all else.
MOST_CALLS = 32
USER_AGENT = f"ddslogd/{__version__} aiohttp/{aiohttp.__version__}"
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


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
        """Give the id by which the vendor's support finds this call."""
        return wire.request_id_of(self.headers)


class Http:
    """Calls one cloud and learns its clock on the way.

    ``str()`` and ``repr()`` of aiohttp's errors show URLs and headers: they end here and are never logged.
    """

    def __init__(self, session: aiohttp.ClientSession, *, clock: Clock, skew: Skew) -> None:
        self._session = session
        self._clock = clock
        self._skew = skew

    def now(self) -> datetime:
        """Give the time by the cloud's clock."""
        return self._clock.now() + self._skew.offset

    async def call(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send one request and read the whole reply, whatever its status.

        Raises:
            Unavailable: No reply came, or not all of it.
            Rejected: The reply is larger than ``MAX_BODY``.
        """
        target = URL(url, encoded=True)
        try:
            async with self._session.request(
                method, target, headers=headers, data=body or None, allow_redirects=False
            ) as response:
                self._skew.observe(response.headers.get("Date", ""), self._clock.now())
                content = await response.content.read(MAX_BODY + 1)
                while len(content) <= MAX_BODY and (more := await response.content.read(MAX_BODY)):
                    content += more
                reply = Reply(status=response.status, headers=response.headers.copy(), body=content)
        except NETWORK_ERRORS as exc:
            raise Unavailable(f"{target.host} gave no reply: {network_reason(exc)}") from None
        if len(reply.body) > MAX_BODY:
            raise Rejected(
                f"{target.host} sent more than {MAX_BODY} bytes; report this to ddslogd", status=reply.status
            )
        return reply


def network_reason(exc: BaseException) -> str:
    """Say what broke in words that hold no URL, header or address."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return "its TLS certificate is not trusted (set ca_file if it is signed by a CA of your own)"
        case aiohttp.ClientConnectorDNSError():
            return "its name cannot be resolved (see the host's resolver and firewall)"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refused the connection (HTTP {exc.status})"
        case aiohttp.ClientConnectorError():
            return _system_words(exc.os_error)
        case TimeoutError():
            return "time-out"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed"
        case OSError():
            return _system_words(exc)
        case _:
            return type(exc).__name__


def _system_words(exc: OSError) -> str:
    """Say it as the system does: asyncio puts addresses into its own words, and TLS has numbers of its own."""
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or 'no reason given'})"
    return os.strerror(exc.errno) if exc.errno else type(exc).__name__


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Give what certificates are judged by: the host's own authorities, or those in the file instead. Blocks.

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
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)


def _content(ca_file: Path) -> bytes:
    return hashlib.sha256(ca_file.read_bytes()).digest()


def _last_changes() -> tuple[int, ...]:
    """Tell when the host's own authorities changed: a file, or a directory that has an entry for each."""
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
) -> aiohttp.ClientSession:
    """Open a session: no cookies, nothing from the environment, no body decompressed, one pool of connections.

    Who finds all connections taken waits for one, without a limit of time.

    Raises:
        ConfigError: The file of trusted certificates cannot be used.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust(ca_file), limit=most_connections, keepalive_timeout=75),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        trust_env=False,
        auto_decompress=False,
        read_bufsize=READ_BUFFER,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )
