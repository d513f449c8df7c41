"""One exchange with the cloud: its failures are ours, in words that hold no address and no secret."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import aiohttp
import pytest

from conftest import CERTIFICATE
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
