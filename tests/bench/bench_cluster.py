"""What a cluster of 10 members and 10,000 instances costs its PostgreSQL, how evenly they lie, and what a death takes.

Needs Debian's postgresql. Fails where a heartbeat takes longer than a statement may, which is what the terms count on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from datetime import timedelta
from statistics import median

from support.cluster import Collector, engine, instances, prepare, until
from support.postgresql import Server, postgresql

MEMBERS, FLEET = 10, 10_000
TTL = timedelta(seconds=60)
MEGABYTE = 1_000_000


class Bench:
    """The members, and what they asked PostgreSQL for."""

    def __init__(self, server: Server, role: str) -> None:
        self.server = server
        self.role = role
        self.fleet = instances(FLEET)
        self.members: list[Collector] = []
        self.statements = 0

    def count(self, *_: object) -> None:
        self.statements += 1

    def join(self, name: str) -> Collector:
        one = Collector(name, engine(self.server, self.role, name, ttl=TTL, before=self.count), self.fleet)
        one.engine.follow(self.fleet)
        one.engine.start()
        self.members.append(one)
        return one

    def owned(self) -> int:
        return sum(len(one.owned) for one in self.members)

    async def heartbeats(self) -> list[float]:
        """Return the seconds that one heartbeat of each member takes, one after the other."""
        took = []
        for one in self.members:
            began = time.perf_counter()
            await one.engine._heartbeat()
            took.append(time.perf_counter() - began)
        return took

    def print_sizes(self) -> None:
        rows = self.server.admin(
            "SELECT pg_total_relation_size('leases'), pg_total_relation_size('collectors'),"
            " (SELECT count(*) FROM pg_stat_activity WHERE usename = %(role)s)",
            self.role,
            role=self.role,
        )
        ((leases, collectors, connections),) = rows
        print(f"tables               leases {leases / MEGABYTE:.1f} MB, collectors {collectors / MEGABYTE:.2f} MB")
        print(f"connections          {connections / len(self.members):.0f} a member, one more for commits")


async def measure(bench: Bench) -> bool:
    began = time.perf_counter()
    for number in range(MEMBERS):
        bench.join(f"member-{number}")
    await until(lambda: bench.owned() == FLEET, "not all is owned")
    print(f"start                all owned after {time.perf_counter() - began:.1f} s")
    await asyncio.sleep(2 * TTL.total_seconds() / 6)
    bench.statements, began = 0, time.perf_counter()
    await asyncio.sleep(TTL.total_seconds())
    a_second = bench.statements / (time.perf_counter() - began) / MEMBERS
    print(f"statements           {a_second * TTL.total_seconds() / 120:.2f} a second and member, by a TTL of 120 s")
    bench.print_sizes()
    took, cpu_began = await bench.heartbeats(), time.process_time()
    await bench.heartbeats()
    cpu = (time.process_time() - cpu_began) / MEMBERS
    print(
        f"a heartbeat          {median(took) * 1000:.0f} ms, worst {max(took) * 1000:.0f}; processor {cpu * 1000:.0f}"
    )
    shares = sorted(Counter({one.name: len(one.owned) for one in bench.members}).values())
    print(f"shares               {shares[0]} to {shares[-1]} of {FLEET // MEMBERS}")
    await print_take_over(bench)
    limit_s = (TTL / 6).total_seconds()
    return max(took) < limit_s


async def print_take_over(bench: Bench) -> None:
    """Kill a member, and print when its instances are owned again."""
    dead = bench.members.pop()
    left = dead.owned
    ends_at = dead.engine._ends_at
    await dead.kill()
    again: list[float] = []
    while len(again) < len(left):
        have = set().union(*(one.owned for one in bench.members)) & left
        again += [dead.engine._boottime() - ends_at] * (len(have) - len(again))
        await asyncio.sleep(0.05)
    print(f"a take-over          {median(again):.1f} s after the last use, worst {again[-1]:.1f}; TTL {TTL.seconds} s")


async def run() -> int:
    with postgresql() as server:
        role = server.role()
        await prepare(server, role)
        bench = Bench(server, role)
        held = await measure(bench)
        for one in bench.members:
            await one.engine.stop()
    return 0 if held else 1


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    sys.exit(asyncio.run(run()))
