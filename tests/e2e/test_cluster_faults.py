"""A cluster under faults in a random order that a seed repeats: CLUSTER_SEED, for CLUSTER_MINUTES."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest

from ddslogd.cluster import members
from ddslogd.cluster.database import Database
from support import cluster as beds
from support.cluster import until
from support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from support.cluster import Cluster
    from support.postgresql import Server

MINUTES = float(os.environ.get("CLUSTER_MINUTES", "0.5"))
SEED = int(os.environ.get("CLUSTER_SEED", "1"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(MINUTES * 120 + 600)]

TTL = timedelta(seconds=3)
FLEET = 24
NAMES = ("a", "b", "c", "d")
FEWEST, MOST = 2, 4


@dataclass
class Storm:
    """Does to a cluster what its hosts, its network and its PostgreSQL may do.

    Attributes:
        slept: How long each host has slept, in seconds.
        done: The names of the faults so far.
    """

    cluster: Cluster
    chance: Random
    stack: AsyncExitStack
    proxies: dict[str, TcpProxy] = field(default_factory=dict)
    slept: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    async def join(self) -> None:
        free = [name for name in NAMES if name not in self.cluster.collectors]
        if len(free) > len(NAMES) - MOST:
            await self.start(self.chance.choice(free))

    async def start(self, name: str) -> None:
        if name not in self.proxies:
            self.proxies[name] = await self.stack.enter_async_context(TcpProxy(self.cluster.server.port).serving())
        self.slept[name] = 0.0
        one = self.cluster.join(name, port=self.proxies[name].port)
        one.engine._boottime = lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + self.slept[name]

    def victim(self) -> str:
        return self.chance.choice(sorted(self.cluster.collectors))

    async def kill(self) -> None:
        """Its host starts it again, and its name is free when its leases have ended."""
        name = self.victim()
        await self.cluster.kill(name)
        if self.chance.random() < 0.5 or len(self.cluster.collectors) < FEWEST:
            await self.start(name)

    async def leave(self) -> None:
        if len(self.cluster.collectors) > FEWEST:
            await self.cluster.leave(self.victim())

    async def drain(self) -> None:
        name = self.victim()
        database = Database(
            self.cluster.server.dsn(self.cluster.role), schema=self.cluster.role, patience=timedelta(seconds=20)
        )
        await members.drain(database, name)
        await database.notify()
        await database.close()
        await until(lambda: not self.cluster.collectors[name].owned, f"{name} is not drained")
        await self.cluster.leave(name)
        await self.start(name)

    async def cut(self) -> None:
        await self.away(self.victim(), lambda proxy: proxy.cut())

    async def hold(self) -> None:
        ways = self.chance.choice([("there",), ("back",), ("there", "back")])
        await self.away(self.victim(), lambda proxy: proxy.hold(*ways))

    async def away(self, name: str, fault: Callable[[TcpProxy], None]) -> None:
        """Cut a member off, for less than a TTL or for two."""
        fault(self.proxies[name])
        await asyncio.sleep(TTL.total_seconds() * self.chance.choice([0.3, 2]))
        self.proxies[name].restore()

    async def sleep(self) -> None:
        """A host sleeps, and for its processes no time has passed."""
        self.slept[self.victim()] += 2 * TTL.total_seconds()

    async def restart_postgresql(self) -> None:
        stop = self.chance.choice([self.cluster.server.stop, self.cluster.server.kill])
        await asyncio.to_thread(stop)
        await asyncio.sleep(TTL.total_seconds() * self.chance.choice([0, 2]))
        await asyncio.to_thread(self.cluster.server.start)

    async def fault(self) -> None:
        faults: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *(self.join, self.kill, self.leave, self.drain, self.cut, self.hold, self.sleep),
            self.restart_postgresql,
        ]
        fault = self.chance.choice(faults)
        self.done.append(fault.__name__)
        await fault()


async def test_after_each_fault_every_instance_goes_on_with_one_owner(server: Server, role: str) -> None:
    """No instance is ever two members', and no epoch is committed behind a later one: the bed looks at both."""
    async with beds.cluster(server, role, fleet=FLEET, ttl=TTL) as cluster, AsyncExitStack() as stack:
        storm = Storm(cluster, Random(SEED), stack)
        for name in NAMES[:3]:
            await storm.start(name)
        ends_at = time.monotonic() + MINUTES * 60
        while time.monotonic() < ends_at:
            await storm.fault()
            await cluster.whole(f"after {storm.done}")
        await cluster.settled(*sorted(cluster.collectors))
        for name in list(cluster.collectors):
            await cluster.leave(name)

    assert storm.done
