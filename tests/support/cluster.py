"""Members of a cluster, each with an engine and cycles of its own, and a witness of what they commit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString
from uuid import uuid4

from ddslogd.cluster import schema
from ddslogd.cluster.database import Database
from ddslogd.cluster.lease_terms import LeaseTerms
from ddslogd.cluster.members import Registration
from ddslogd.cluster.placement import ranking
from ddslogd.cluster.postgres_engine import PostgresEngine
from ddslogd.model.errors import NotOwned
from ddslogd.model.instance import Every, Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from psycopg.rows import DictRow

    from ddslogd.model.cluster import OwnershipChange
    from support.postgresql import Server

LIMIT_S = 90.0  # for what takes some TTLs of a few seconds, on a machine that has other things to do
LOOK_EVERY_S = 0.01


def instances(number: int) -> list[Instance]:
    schedule = Every(interval=timedelta(days=31))  # no next run comes while a test runs
    return [Instance(id=f"id-{one}", name=f"db-{one}", cloud="eu", schedule=schedule) for one in range(number)]


async def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a state."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not is_so():
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise AssertionError(what) from None


class WatchedDatabase(Database):
    """Tells somebody of each statement and its values before it is run; what that raises is raised."""

    before: Callable[[str, Mapping[str, object]], None] = staticmethod(lambda *_: None)

    async def rows(self, statement: LiteralString, **values: object) -> list[DictRow]:
        self.before(statement, values)
        return await super().rows(statement, **values)


def engine(
    server: Server,
    role: str,
    name: str,
    *,
    ttl: timedelta,
    port: int | None = None,
    before: Callable[[str, Mapping[str, object]], None] = lambda *_: None,
) -> PostgresEngine:
    terms = LeaseTerms(ttl=ttl)
    database = WatchedDatabase(server.dsn(role, port), schema=role, patience=terms.patience)
    database.before = before
    me = Registration(name=name, incarnation=uuid4(), version="1", address="")
    return PostgresEngine(database, me=me, terms=terms)


@dataclass
class Collector:
    """A member whose cycles of each owned instance follow each other nearly without a break.

    Attributes:
        cycle_s: How long one takes.
        changes: As they were heard of.
        committed: Ids of the instances whose cycles were.
        refused: The same of those that were not, or that did not begin.
    """

    name: str
    engine: PostgresEngine
    fleet: list[Instance]
    cycle_s: float = 0.02
    changes: list[OwnershipChange] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self.engine.listen(self.changes.append)
        self.engine.follow(self.fleet)
        self.engine.start()
        self.tasks = [asyncio.create_task(self._collect(instance)) for instance in self.fleet]

    async def stop(self) -> None:
        """End it in order."""
        await self._end_cycles()
        await self.engine.stop()

    async def kill(self) -> None:
        """End it without a word to anybody."""
        self.tasks += self.engine._tasks
        await self._end_cycles()
        await self.engine._database.close()
        await self.engine._commits.close()

    @property
    def owned(self) -> set[str]:
        return set(self.engine.owned())

    @property
    def lost(self) -> set[str]:
        return {name for change in self.changes for name in change.lost}

    async def _end_cycles(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _collect(self, instance: Instance) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if instance.id in self.engine.owned():
                await self._cycle(instance)

    async def _cycle(self, instance: Instance) -> None:
        try:
            with self.engine.fence(instance) as epoch:
                await asyncio.sleep(self.cycle_s)
                await self.engine.commit(instance, epoch, run=datetime.now(UTC))
            self.committed.append(instance.id)
        except NotOwned:
            self.refused.append(instance.id)


@dataclass
class Cluster:
    """The members of one schema, whose names are asked for now and then: no instance is ever two members' at once."""

    server: Server
    role: str
    fleet: list[Instance]
    ttl: timedelta
    collectors: dict[str, Collector] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)

    def join(self, name: str, *, port: int | None = None) -> Collector:
        one = Collector(name, engine(self.server, self.role, name, ttl=self.ttl, port=port), self.fleet)
        self.collectors[name] = one
        one.start()
        return one

    async def leave(self, name: str) -> None:
        await self.collectors.pop(name).stop()

    async def kill(self, name: str) -> None:
        await self.collectors.pop(name).kill()

    @property
    def owners(self) -> dict[str, str]:
        """Return the name of each owned instance's owner."""
        return {id_: one.name for one in self.collectors.values() for id_ in one.engine.owned()}

    async def covered(self, *names: str) -> None:
        """Wait until each instance is owned, and by each of these members some and by nobody else any."""
        ids = {instance.id for instance in self.fleet}
        await until(
            lambda: self.owners.keys() == ids and set(self.owners.values()) == set(names),
            f"the fleet is not shared by {names}: {self.owners}",
        )

    async def whole(self, when: str) -> None:
        """Wait until each instance is owned, and has a commit that it has not now."""
        ids = {instance.id for instance in self.fleet}
        for one in self.collectors.values():
            one.committed.clear()
        await until(
            lambda: (
                self.owners.keys() == ids
                and {name for one in self.collectors.values() for name in one.committed} == ids
            ),
            f"not every instance goes on {when}",
        )

    async def settled(self, *names: str) -> None:
        """Wait until each instance is owned by who is to own it, of these members."""
        living = self.collectors[names[0]].engine.members
        await until(
            lambda: (
                tuple(one.name for one in living()) == names
                and self.owners == {one.id: ranking(one.id, living())[0] for one in self.fleet}
            ),
            f"not each instance is with its first of {names}: {self.owners}",
        )

    async def watch(self) -> None:
        """Look for an instance that two members own."""
        while True:
            owned = [one.owned for one in self.collectors.values()]
            self.shared += set.union(*owned) if sum(map(len, owned)) > len(set().union(*owned)) else ()
            await asyncio.sleep(LOOK_EVERY_S)

    def commits(self) -> list[tuple[str, int, str]]:
        """Return instance, epoch and incarnation of all commits in the order in which they came."""
        rows = self.server.admin("SELECT instance, epoch, incarnation::text FROM witness ORDER BY number", self.role)
        return [(instance, epoch, incarnation) for instance, epoch, incarnation in rows]


def disorder(commits: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Return the commits that name an epoch before one that was committed already, or another's epoch."""
    last: dict[str, tuple[int, str]] = {}
    wrong = []
    for instance, epoch, incarnation in commits:
        before = last.get(instance, (0, ""))
        if epoch < before[0] or (epoch == before[0] and incarnation != before[1]):
            wrong.append((instance, epoch, incarnation))
        last[instance] = max(before, (epoch, incarnation))
    return wrong


def post_witness(server: Server, role: str) -> None:
    """Let PostgreSQL write down each commit; the tables are there."""
    server.admin(
        """
        CREATE TABLE witness (number bigserial, instance text, epoch bigint, incarnation uuid);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
        BEGIN
            INSERT INTO witness (instance, epoch, incarnation) VALUES (new.instance, new.epoch, new.incarnation);
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER UPDATE OF last_run ON leases FOR EACH ROW EXECUTE FUNCTION see();
        """,
        role,
    )


@asynccontextmanager
async def cluster(server: Server, role: str, *, fleet: int, ttl: timedelta) -> AsyncIterator[Cluster]:
    """Prepare a cluster; in the end, look at what its members owned and committed."""
    one = Cluster(server, role, instances(fleet), ttl)
    await prepare(server, role)
    watching = asyncio.create_task(one.watch())
    try:
        yield one
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        for name in list(one.collectors):
            await one.leave(name)
    assert one.shared == []
    assert disorder(one.commits()) == []


async def prepare(server: Server, role: str) -> None:
    database = Database(server.dsn(role), schema=role, patience=timedelta(seconds=20))
    await schema.migrate(database)
    await database.close()
    post_witness(server, role)
