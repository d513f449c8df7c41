"""One exchange with the cloud: its failures are ours, in words that hold no address and no secret."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import aiohttp
import pytest

from ddslogd.cloud.http import Http, network_reason, new_session, trust
from ddslogd.errors import ConfigError, Unavailable
from ddslogd.pacing import Skew

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ManualClock
    from ddslogd.sandbox import Sandbox


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (TimeoutError(), "time-out"),
        (aiohttp.ServerTimeoutError("https://x/?secret"), "time-out"),
        (aiohttp.ServerDisconnectedError(), "the connection was closed"),
        (aiohttp.ClientPayloadError("https://x/?secret"), "ClientPayloadError"),
        (aiohttp.InvalidURL("https://x/?secret"), "InvalidUrlClientError"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (OSError(), "OSError"),
    ],
)
def test_what_broke_is_said_without_what_the_library_quotes(exc: Exception, expected: str) -> None:
    said = network_reason(exc)

    assert said == expected or ("secret" not in said and expected.startswith("Invalid"))


async def test_a_refused_connection_is_said_in_the_systems_words(sandbox: Sandbox, clock: ManualClock) -> None:
    endpoint = sandbox.endpoint
    await sandbox.stop()
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=Skew())

        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 gave no reply: .*refused"):
            await http.call("GET", f"{endpoint}/v3/x?secret=1", headers={}, body=b"")


async def test_a_plain_server_where_tls_is_expected_is_said(sandbox: Sandbox, clock: ManualClock) -> None:
    endpoint = sandbox.endpoint.replace("http:", "https:")
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=Skew())

        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 gave no reply: "):
            await http.call("GET", f"{endpoint}/v3/x?secret=1", headers={}, body=b"")


async def test_every_reply_tells_the_servers_clock(sandbox: Sandbox, clock: ManualClock) -> None:
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=Skew())
        before = clock.now()
        clock.forward(hours=1)
        sandbox.faults.skew = before - clock.now()

        await http.call("GET", f"{sandbox.endpoint}/v3/x", headers={}, body=b"")

        assert abs((http.now() - before).total_seconds()) <= 1


def test_a_ca_file_that_is_not_there_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem: ca_file cannot be used: No such file"):
        trust(tmp_path / "none.pem")


def test_a_ca_file_without_a_certificate_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing here\n")

    with pytest.raises(ConfigError, match=r"empty\.pem: ca_file cannot be used"):
        trust(tmp_path / "empty.pem")
