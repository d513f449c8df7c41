"""Where the names of links lead: judged at the connection, too, for a name can resolve to anything."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from aiohttp.abc import AbstractResolver

from ddslogd.config import loader
from ddslogd.config import settings as config_settings
from ddslogd.download.downloader import Downloader
from ddslogd.download.slots import Slots
from ddslogd.huaweicloud.http import new_session
from ddslogd.huaweicloud.link import is_local_address
from ddslogd.huaweicloud.link_resolver import LinkResolver, LocalAddress
from ddslogd.model.cycle import Silent
from ddslogd.model.errors import LinkRefused
from ddslogd.model.export import Link
from ddslogd.model.redactor import Redactor
from ddslogd.model.snapshot import LogFile
from ddslogd.sandbox import configuration
from ddslogd.scheduling.clock import Skew
from ddslogd.service.account_factory import open_accounts
from support.clocks import START

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp
    from aiohttp.abc import ResolveResult

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock

LOCAL = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",  # noqa: S104  # nobody binds it
    "0.1.2.3",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::127.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a9fe:a9fe",
]
FOREIGN = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.125.7.8", "8.8.8.8", "fd00::1", "2001:db8::1"]
FOREIGN += ["::ffff:100.64.0.1", "64:ff9b::808:808"]
SECRET = "SignatureThatNobodyMayRead"


@dataclass(slots=True)
class Made(AbstractResolver):
    """A resolver of the test's own."""

    addresses: list[str]
    asked: list[str] = field(default_factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            {"hostname": host, "host": one, "port": port, "family": family, "proto": 0, "flags": 0}
            for one in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("address", LOCAL)
async def test_a_name_that_leads_to_this_host_or_its_segment_is_refused(address: str) -> None:
    with pytest.raises(LocalAddress):
        await LinkResolver(inner=Made([address])).resolve("obs.example.com", 443)


@pytest.mark.parametrize("address", FOREIGN)
async def test_private_addresses_and_those_of_carriers_are_good(address: str) -> None:
    """Inside the cloud the region's own names resolve to them."""
    found = await LinkResolver(inner=Made([address])).resolve("obs.example.com", 443)

    assert [one["host"] for one in found] == [address]


async def test_of_several_addresses_the_local_ones_are_passed_over() -> None:
    found = await LinkResolver(inner=Made(["127.0.0.1", "10.1.2.3", "::1"])).resolve("obs.example.com", 443)

    assert [one["host"] for one in found] == ["10.1.2.3"]


def test_a_name_is_no_address() -> None:
    assert not is_local_address("localhost.example.com")


async def test_nothing_is_sent_to_a_link_whose_name_leads_to_loopback(
    clock: ManualClock, bed_settings: config_settings.Settings
) -> None:
    """A server listens there, and learns nothing; the error says who acts and holds nothing of the link's query."""
    connections: list[object] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Made(["127.0.0.1"])
    async with server, session(LinkResolver(inner=made)) as opened:
        downloader = Downloader(
            session=opened,
            slots=Slots(1),
            settings=bed_settings.download,
            clock=clock,
            skew=Skew(),
            progress=Silent(),
        )
        url = f"http://obs.example.com:{server.sockets[0].getsockname()[1]}/o?Signature={SECRET}"
        file = LogFile(instance="one", node="n", file_name="f", updated_at=START)
        link = Link(file=file, url=url, expires_at=START.replace(year=2030))

        async def renew(_: Link) -> Link:
            return link

        with pytest.raises(LinkRefused) as caught:
            await downloader.same(link, etag="", size=1, renew=renew)

    assert "the name obs.example.com resolves to this host" in str(caught.value)
    assert "see this host's resolver, and link_hosts" in str(caught.value)
    assert (SECRET in str(caught.value), connections, set(made.asked)) == (False, [], {"obs.example.com"})


def session(resolver: AbstractResolver) -> aiohttp.ClientSession:
    return new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5, resolver=resolver)


@pytest.fixture
def bed_settings(sandbox: Sandbox, tmp_path: Path) -> config_settings.Settings:
    return loader.parse(configuration(sandbox, directory=tmp_path, state=tmp_path), "test").settings


@pytest.mark.parametrize(
    ("endpoint", "proxy", "guarded"),
    [
        ("https://dds.example.com", "", True),
        ("https://dds.example.com", "http://127.0.0.1:3128", False),
        ("", "", False),
    ],
    ids=["a cloud", "a cloud behind a proxy", "a sandbox on loopback"],
)
async def test_links_of_a_cloud_go_by_that_resolver_and_those_of_a_sandbox_do_not(
    sandbox: Sandbox, clock: ManualClock, tmp_path: Path, endpoint: str, proxy: str, *, guarded: bool
) -> None:
    """A proxy may be on loopback itself, and resolves the names."""
    text = configuration(sandbox, directory=tmp_path, state=tmp_path)
    if endpoint:
        text = text.replace(f" endpoint: {sandbox.endpoint}", f" endpoint: {endpoint}")
    if proxy:
        text = text.replace("link_hosts:", f"proxy: {proxy}\n    link_hosts:")
    settings = loader.parse(text, "test").settings
    async with AsyncExitStack() as stack:
        accounts = await open_accounts(settings, clock=clock, progress=Silent(), redactor=Redactor(), stack=stack)
        (account,) = accounts.all().values()
        resolver = account.downloader._session.connector._resolver  # type: ignore[union-attr]

    assert isinstance(resolver, LinkResolver) is guarded
