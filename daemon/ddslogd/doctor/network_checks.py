"""Whether a service can be reached: its name, its certificate, its clock. Every wait ends by itself."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ddslogd.doctor.check_result import CheckResult, fail, ok, warn
from ddslogd.huaweicloud.http import NETWORK_ERRORS, network_reason, trust
from ddslogd.huaweicloud.single_call import PATIENCE_S
from ddslogd.model.errors import CloudError, ConfigError
from ddslogd.scheduling.clock import date_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from ddslogd.huaweicloud.http import Http

AREA: Final = "network"
CERTIFICATE_LEFT: Final = timedelta(days=21)
SKEW_NOTED: Final = timedelta(seconds=60)
SKEW_REFUSED: Final = timedelta(minutes=15)  # a signature that is further off is refused. OTC apig-faq-0009


async def reached(  # what its checks go by, each by its name
    service: str, endpoint: str, http: Http, *, ca_file: Path | None, proxy: str | None, now: datetime, signs: bool
) -> AsyncIterator[CheckResult]:
    """Look at one service, step by step; what a failed step leaves open is not looked at.

    Args:
        service: What it is called: DDS, IAM.
        endpoint: Its base URL.
        http: For the one request that shows its clock, and whatever is learned from it later.
        ca_file: What its certificate is judged by; None for the host's own authorities.
        proxy: On the way; it resolves the name, then, and hides the certificate.
        now: By our clock.
        signs: Whether calls are signed: a signature tells the time.
    """
    parts = urlsplit(endpoint)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    if proxy is None:
        try:
            addresses = await _addresses(host, port)
        except OSError as exc:
            said = "no answer within 10 s" if isinstance(exc, TimeoutError) else exc.strerror or "no such name"
            todo = "see /etc/resolv.conf and the firewall; check the endpoint for a typing error"
            yield fail(AREA, f"{service}: the name {host} cannot be resolved: {said}", todo)
            return
        yield ok(AREA, f"{service}: {host} is {addresses[0]}{_more(addresses)}")
        if secure:
            finding = await _certificate(service, host, port, addresses, ca_file=ca_file, now=now)
            yield finding
            if finding.level == "fail":
                return
    async for finding in _greeting(service, endpoint, http, now=now, signs=signs):
        yield finding


def _more(addresses: list[str]) -> str:
    return f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""


async def _addresses(host: str, port: int) -> list[str]:
    """Resolve a name in a thread that nobody waits for: the resolver knows no limit of time.

    Raises:
        OSError: It cannot be resolved; TimeoutError: not in time.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: OSError | None) -> None:
        if not found.done():
            found.set_exception(error) if error else found.set_result(addresses)

    def resolve() -> None:
        addresses, error = [], None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        except (OSError, UnicodeError) as exc:
            error = exc if isinstance(exc, OSError) else OSError(0, "it is no name")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, addresses, error)

    threading.Thread(target=resolve, name=f"resolve {host}", daemon=True).start()
    async with asyncio.timeout(PATIENCE_S):
        return await found


async def _certificate(
    service: str, host: str, port: int, addresses: list[str], *, ca_file: Path | None, now: datetime
) -> CheckResult:
    """Shake hands, and look how long the certificate lasts."""
    try:
        context = trust(ca_file)
        writer = await _connected(host, port, addresses, context)
    except ConfigError as exc:
        return fail(AREA, f"{service}: {exc}", "correct ca_file")
    except ssl.SSLCertVerificationError as exc:
        todo = "set ca_file to the authority that signed it, or install ca-certificates; never switch this check off"
        if "expired" in exc.verify_message:
            todo = "whoever runs the service (or the proxy on the way) has to renew it; see this host's clock too"
        return fail(AREA, f"{service}: the certificate of {host} is not trusted: {exc.verify_message}", todo)
    except NETWORK_ERRORS as exc:
        todo = "open the firewall for it, or set proxy"
        return fail(AREA, f"{service}: no connection to {host}, port {port}: {network_reason(exc)}", todo)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return _lasting(service, host, certificate, now)


async def _connected(host: str, port: int, addresses: list[str], context: ssl.SSLContext) -> asyncio.StreamWriter:
    """Connect to the first address that answers, as cycles do: a name may have one of IPv6 where no route is."""
    for number, address in enumerate(addresses, start=1):
        try:
            async with asyncio.timeout(PATIENCE_S / len(addresses)):
                return (await asyncio.open_connection(address, port, ssl=context, server_hostname=host))[1]
        except ssl.SSLError:
            raise
        except OSError:
            if number == len(addresses):
                raise
    raise OSError(0, "it has no address")


def _lasting(service: str, host: str, certificate: Mapping[str, object], now: datetime) -> CheckResult:
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    text = f"{service}: the certificate of {host} is trusted, and ends in {(end - now).days} days, on {end:%Y-%m-%d}"
    if end - now < CERTIFICATE_LEFT:
        return warn(AREA, text, "whoever runs the service has to renew it")
    return ok(AREA, text)


async def _greeting(
    service: str, endpoint: str, http: Http, *, now: datetime, signs: bool
) -> AsyncIterator[CheckResult]:
    """Ask for nothing in particular: any answer will do, and shows its clock."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reply = await http.call("GET", f"{endpoint}/", headers={}, body=b"")
    except (CloudError, TimeoutError) as exc:
        todo = "open the firewall or the proxy for it"
        yield fail(AREA, f"{service}: {exc if isinstance(exc, CloudError) else 'no answer within 10 s'}", todo)
        return
    yield ok(AREA, f"{service}: {endpoint} answers (HTTP {reply.status})")
    # A cache's clock says nothing of the service's. RFC 9111, 5.1
    theirs = None if "Age" in reply.headers else date_of(reply.headers.get("Date", ""))
    if theirs is None:
        yield warn("clock", f"{service}: its answer has no readable Date of its own: the clocks are not compared")
        return
    yield _skewed(service, theirs - now, signs=signs)


def _skewed(service: str, skew: timedelta, *, signs: bool) -> CheckResult:
    seconds = round(skew.total_seconds())
    off = f"{abs(seconds)} s {'behind' if seconds > 0 else 'ahead of'} {service}'s"
    if signs and abs(skew) > SKEW_REFUSED:
        return fail("clock", f"this host's clock is {off}: signatures are refused", "set the clock: NTP (chrony)")
    if abs(skew) > SKEW_NOTED:
        return warn("clock", f"this host's clock is {off}", "set the clock: NTP (chrony)")
    return ok("clock", f"this host's clock and {service}'s agree, to {abs(seconds)} s")
