"""A member of a cluster as a process of its own: DSN SCHEMA NAME TTL FLEET. At SIGTERM it says how many it refused."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta
from uuid import uuid4

from ddslogd.cluster.database import Database
from ddslogd.cluster.lease_terms import LeaseTerms
from ddslogd.cluster.members import Registration
from ddslogd.cluster.postgres_engine import PostgresEngine
from support.cluster import Collector, instances

CYCLE_S = 0.5  # so that nearly always each of its instances has one


async def run(dsn: str, schema: str, name: str, ttl_s: str, fleet: str) -> None:
    terms = LeaseTerms(ttl=timedelta(seconds=float(ttl_s)))
    database = Database(dsn, schema=schema, patience=terms.patience)
    me = Registration(name=name, incarnation=uuid4(), version="1", address="")
    one = Collector(name, PostgresEngine(database, me=me, terms=terms), instances(int(fleet)), CYCLE_S)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    one.start()
    await stopped.wait()
    await one.stop()
    print(len(one.refused))  # noqa: T201  # to the test


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
