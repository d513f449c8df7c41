"""One exchange with the cloud: its failures are ours, in words that hold no address and no secret."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from ddslogd.huaweicloud.http import READ_BUFFER, Http, network_reason, new_session, trust
from ddslogd.model.errors import ConfigError, Unavailable
from ddslogd.scheduling.clock import Skew
from support.testbed import CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ddslogd.huaweicloud.http import Reply
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock


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


@pytest.fixture
async def large_page() -> AsyncIterator[str]:
    """A server whose page is a little more than a connection keeps before it stops to read; its address."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=bytes(2 * READ_BUFFER + 1000))

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """A server; who asks it for ``/moved`` is sent elsewhere."""
    asked: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers.get("Authorization", "")))
        return web.Response(status=307 if request.path == "/moved" else 200, headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Listener(f"http://127.0.0.1:{runner.addresses[0][1]}", asked)
    await runner.cleanup()


class Listener(NamedTuple):
    """A server, and what it was asked: the request's target as it was sent, and who it says it is from."""

    address: str
    asked: list[tuple[str, str]]


async def call(url: str, clock: ManualClock) -> Reply:
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        return await Http(session, clock=clock, skew=Skew()).call("POST", url, headers={}, body=b"{}")


async def test_no_redirect_is_followed(listener: Listener, clock: ManualClock) -> None:
    """A token would go along to wherever it leads."""
    reply = await call(f"{listener.address}/moved", clock)

    assert (reply.status, listener.asked) == (307, [("/moved", "")])


async def test_the_environments_proxy_is_not_used(
    listener: Listener, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a proxy the whole address would be sent."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, listener.address)

    await call(f"{listener.address}/v3/x", clock)

    assert listener.asked == [("/v3/x", "")]


async def test_no_name_and_password_come_from_a_netrc_file(
    listener: Listener, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / "netrc").chmod(0o600)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    await call(f"{listener.address}/v3/x", clock)

    assert listener.asked == [("/v3/x", "")]


async def test_a_connection_that_lay_in_the_pool_for_longer_than_the_read_time_out_fails_no_request(
    large_page: str,
) -> None:
    """aiohttp arms the time-out once more where the end of a body is read after it has come.

    The pause is longer than the time-out by far, so that a slow machine makes no difference.
    """
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=0.5) as session:

        async def page() -> int:
            async with session.get(large_page) as response:
                while not response.content.is_eof() and response.content.total_bytes <= 2 * READ_BUFFER:
                    await asyncio.sleep(0)
                return len(await response.read())

        sizes = await asyncio.gather(*(page() for _ in range(8)))
        await asyncio.sleep(1)
        sizes += await asyncio.gather(*(page() for _ in range(8)))

    assert sizes == [2 * READ_BUFFER + 1000] * 16


async def test_a_connection_is_used_again_within_its_time(sandbox: Sandbox, clock: ManualClock) -> None:
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=60) as session:
        http = Http(session, clock=clock, skew=Skew())
        for _ in range(3):
            await http.call("GET", f"{sandbox.endpoint}/v3/x", headers={}, body=b"")

        pooled = [len(connections) for connections in session.connector._conns.values()]  # type: ignore[union-attr]

    assert pooled == [1]


def test_a_ca_file_that_is_not_there_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem: ca_file cannot be used: No such file"):
        trust(tmp_path / "none.pem")


def test_a_ca_file_without_a_certificate_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing here\n")

    with pytest.raises(ConfigError, match=r"empty\.pem: ca_file cannot be used"):
        trust(tmp_path / "empty.pem")


def test_who_trusts_the_same_authorities_shares_them(tmp_path: Path) -> None:
    """Each would take 0.8 MiB, of each cloud twice."""
    file = tmp_path / "ca.pem"
    file.write_text(CERTIFICATE)

    assert (trust(None) is trust(None), trust(file) is trust(file), trust(file) is trust(None)) == (True, True, False)


def test_authorities_that_were_renewed_under_the_same_name_count(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(CERTIFICATE)
    before = trust(file)
    file.write_text(CERTIFICATE + "\n")

    assert trust(file) is not before


def test_authorities_that_the_host_was_given_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a file of their own, as in some systems, or as one entry more in a directory, as in others."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    (tmp_path / "certs").mkdir()
    seen = [trust(None)]
    for change in (give_file, give_other_file_of_the_same_age, give_entry):
        change(tmp_path)
        seen.append(trust(None))

    assert len(set(seen)) == 4


def give_file(directory: Path) -> None:
    (directory / "ca.pem").write_text(CERTIFICATE)


def give_other_file_of_the_same_age(directory: Path) -> None:
    """Some systems let all their files be of the same moment."""
    other, was = directory / "other.pem", (directory / "ca.pem").stat()
    other.write_text(CERTIFICATE)
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.rename(directory / "ca.pem")


def give_entry(directory: Path) -> None:
    os.utime(directory / "certs", (1, 1))
