"""Why an account cannot be reached: the same words in the first cycle, in later ones, in events and in the status."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.huaweicloud.http import Http, new_session
from ddslogd.model.errors import Unreachable
from ddslogd.monitoring import freshness
from ddslogd.scheduling.clock import Skew
from support.certificates import certificate, secure
from support.testbed import CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed


@asynccontextmanager
async def refusing_proxy() -> AsyncIterator[str]:
    """Run a proxy that wants a password which it never gets; give its address."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def reason(url: str, clock: ManualClock, *, ca_file: Path | None = None, proxy: str | None = None) -> str:
    """Return why a call got no reply."""
    async with new_session(ca_file=ca_file, proxy=proxy, connect_timeout_s=5, read_timeout_s=5) as session:
        with pytest.raises(Unreachable) as caught:
            await Http(session, clock=clock, skew=Skew()).call("GET", url, headers={}, body=b"")
    return str(caught.value)


@pytest.mark.parametrize(
    ("days", "host", "trusted", "expected"),
    [
        (-1, "localhost", True, "has expired"),
        (200, "elsewhere.example", True, "is for another name"),
        (200, "localhost", False, "is not trusted: self-signed certificate (set ca_file"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_named(
    sandbox: Sandbox, clock: ManualClock, tmp_path: Path, days: int, host: str, *, trusted: bool, expected: str
) -> None:
    pem, other = certificate(tmp_path, days=days, host=host), tmp_path / "other.pem"
    other.write_text(CERTIFICATE)
    async with secure(pem, int(sandbox.endpoint.rpartition(":")[2])) as port:
        said = await reason(f"https://localhost:{port}/?secret=1", clock, ca_file=pem if trusted else other)

    assert f"localhost gave no reply: its TLS certificate {expected}" in said
    assert "secret" not in said


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_password_is_named(clock: ManualClock, scheme: str) -> None:
    async with refusing_proxy() as proxy:
        said = await reason(f"{scheme}://dds.example.com/v3/x", clock, proxy=proxy)

    assert "the proxy wants a user and a password" in said


async def test_later_cycles_events_and_the_status_say_why_an_account_is_unreachable(bed: Bed) -> None:
    """Once nobody answers, most calls are not made any more; the reason is that of the last one that was."""
    async with refusing_proxy() as proxy:
        bed.set("calls_per_minute: 12000", f"calls_per_minute: 12000\n    proxy: {proxy}")
        with structlog.testing.capture_logs() as events:
            async with bed.open() as service:
                reports = [await bed.collect() for _ in range(3)]
                seen = await service.observer.status()

    (told,) = [event["reason"] for event in events if event["event"] == "account.unreachable"]
    (cloud,), (instance,) = seen.clouds, seen.instances
    words = [*(report.error for report in reports), told, cloud.silence, instance.why, freshness.one_line(seen)]
    assert ["the proxy wants a user and a password" in each for each in words] == [True] * len(words)
    assert instance.turn.startswith("yours: ")
