"""The lease protocol against a real PostgreSQL, whose clock the test sets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ddslogd.cluster import leases, members, schema
from ddslogd.cluster.database import Database
from ddslogd.cluster.lease_terms import LeaseTerms
from ddslogd.cluster.members import Registration
from ddslogd.model.cluster import Epoch
from ddslogd.model.errors import ClusterError
from support.examples import examples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from support.postgresql import Server

pytestmark = pytest.mark.slow

TERMS = LeaseTerms(ttl=timedelta(seconds=120))
TTL_S = 120
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATIENCE = timedelta(seconds=20)

T = TypeVar("T")


def registration(name: str, **more: Any) -> Registration:
    return Registration(name=name, incarnation=uuid4(), version="1", address="", **more)


class MadeTime:
    """PostgreSQL's clock, as the members of one schema read it."""

    def __init__(self, server: Server, role: str) -> None:
        self._server = server
        self._role = role
        self.seconds = 0
        server.admin("CREATE TABLE made_time AS SELECT %(now)s::timestamptz AS now", role, now=START)
        server.admin("GRANT SELECT ON made_time TO public", role)
        server.admin(
            "CREATE OR REPLACE FUNCTION cluster_time() RETURNS timestamptz LANGUAGE sql VOLATILE"
            " AS 'SELECT now FROM made_time'",
            role,
        )

    def step(self, seconds: int) -> None:
        self.seconds += seconds
        now = START + timedelta(seconds=self.seconds)
        self._server.admin("UPDATE made_time SET now = %(now)s", self._role, now=now)


# --- one at a time ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def database(server: Server, role: str) -> AsyncIterator[Database]:
    one = Database(server.dsn(role), schema=role, patience=PATIENCE)
    await schema.migrate(one)
    yield one
    await one.close()


@pytest.fixture
def clock(server: Server, role: str, database: Database) -> MadeTime:  # noqa: ARG001  # after it
    return MadeTime(server, role)


A, B = registration("a"), registration("b")
E1, E2 = Epoch(number=1), Epoch(number=2)


async def claimed(database: Database, me: Registration, *instances: str) -> dict[str, Epoch]:
    return {name: lease.epoch for name, lease in (await leases.claim(database, me, instances, TERMS)).items()}


async def test_what_nobody_has_is_claimed_by_one(database: Database) -> None:
    await leases.enter(database, ["x", "y"])

    claims = [await claimed(database, me, "x", "y", "unknown") for me in (A, B)]

    assert claims == [{"x": E1, "y": E1}, {}]


async def test_a_lease_is_claimed_when_it_has_ended_and_not_before(database: Database, clock: MadeTime) -> None:
    await leases.enter(database, ["x"])
    await claimed(database, A, "x")

    claims = []
    for seconds in (TTL_S - 1, 1):
        clock.step(seconds)
        claims.append(await claimed(database, B, "x"))

    assert claims == [{}, {"x": E2}]


async def test_all_leases_of_a_member_are_renewed_and_nobody_elses(database: Database, clock: MadeTime) -> None:
    await leases.enter(database, ["x", "y", "z"])
    await claimed(database, A, "x", "y")
    await claimed(database, B, "z")
    clock.step(TTL_S - 1)

    renewed = await leases.renew(database, A, TERMS)

    clock.step(TTL_S - 1)
    assert set(renewed) == {"x", "y"}
    assert {lease.instance: lease.collector for lease in await leases.table(database)} == {
        "x": "a",
        "y": "a",
        "z": None,
    }


async def test_what_is_released_is_claimed_at_once_and_no_commit_of_before_passes(database: Database) -> None:
    await leases.enter(database, ["x"])
    await claimed(database, A, "x")
    await leases.release(database, A, {"x": E1})

    late = [await leases.commit(database, A, "x", E1, run=START)]
    claim = await claimed(database, B, "x")
    late.append(await leases.commit(database, A, "x", E1, run=START))

    assert (claim, late) == ({"x": E2}, [False, False])


async def test_a_late_release_takes_nothing_from_the_next_owner(database: Database, clock: MadeTime) -> None:
    await leases.enter(database, ["x"])
    await claimed(database, A, "x")
    clock.step(TTL_S)
    await claimed(database, B, "x")

    await leases.release(database, A, {"x": E1})
    await leases.release(database, B, {"x": E1})

    assert [lease.collector for lease in await leases.table(database)] == ["b"]


async def test_the_last_run_goes_to_the_next_owner(database: Database, clock: MadeTime) -> None:
    await leases.enter(database, ["x"])
    await claimed(database, A, "x")
    assert await leases.commit(database, A, "x", E1, run=START)
    clock.step(TTL_S)

    lease = (await leases.claim(database, B, ["x"], TERMS))["x"]

    assert lease.last_run == START


async def test_who_asks_for_an_instance_is_named_until_it_is_claimed(database: Database) -> None:
    await leases.enter(database, ["x", "free"])
    await claimed(database, A, "x")
    await leases.ask(database, B, ["x", "free"])

    asked = {lease.instance: lease.asked_by for lease in await leases.table(database)}
    seen = (await leases.renew(database, A, TERMS))["x"].asked_by
    await leases.release(database, A, {"x": E1})
    await claimed(database, B, "x")

    after = {lease.instance: lease.asked_by for lease in await leases.table(database)}
    assert (asked, seen, after) == ({"x": "b", "free": None}, "b", {"x": None, "free": None})


async def test_a_second_living_member_of_one_name_is_refused(database: Database, clock: MadeTime) -> None:
    again = registration("a")
    await members.heartbeat(database, A, TERMS)
    clock.step(TTL_S - 1)
    with pytest.raises(ClusterError, match="of the name a lives"):
        await members.heartbeat(database, again, TERMS)
    clock.step(1)
    await members.heartbeat(database, again, TERMS)

    with pytest.raises(ClusterError, match="of the name a lives"):
        await members.heartbeat(database, A, TERMS)


async def test_who_has_left_is_no_member_and_its_name_is_free(database: Database) -> None:
    await members.heartbeat(database, A, TERMS)
    await members.leave(database, A)
    await members.leave(database, B)

    assert await members.living(database) == ()
    assert await members.heartbeat(database, registration("a"), TERMS) is False


async def test_members_are_seen_with_age_and_instances_as_long_as_they_live(
    database: Database, clock: MadeTime
) -> None:
    heavy = registration("heavy", weight=3)
    await members.heartbeat(database, heavy, TERMS)
    await leases.enter(database, ["x", "y"])
    await claimed(database, heavy, "x", "y")

    seen = []
    for _ in range(2):
        clock.step(TTL_S // 2)
        living = await members.living(database)
        seen.append([(one.name, one.weight, one.age.total_seconds(), one.instances) for one in living])

    assert seen == [[("heavy", 3, 60.0, 2)], []]


async def test_a_member_is_drained_until_it_is_started_again(database: Database, clock: MadeTime) -> None:
    heard = [await members.heartbeat(database, A, TERMS)]
    drained = [await members.drain(database, name) for name in ("a", "nobody")]
    heard += [await members.heartbeat(database, A, TERMS) for _ in range(2)]
    clock.step(TTL_S)
    heard.append(await members.heartbeat(database, registration("a"), TERMS))

    assert (drained, heard) == ([True, False], [False, True, True, False])


async def test_what_is_long_gone_is_forgotten(database: Database, clock: MadeTime) -> None:
    await leases.enter(database, ["old", "new"])
    await members.heartbeat(database, A, TERMS)
    clock.step(round(leases.KEPT.total_seconds()))
    await claimed(database, B, "new")
    clock.step(TTL_S + 1)

    await leases.prune(database)

    assert [lease.instance for lease in await leases.table(database)] == ["new"]
    assert await database.rows("SELECT name FROM collectors") == []


# --- everything at once -----------------------------------------------------------------------------------------------


@dataclass
class ModelLease:
    """What a lease should be: written from the protocol's rules, not from its statements."""

    epoch: int = 0
    holder: UUID | None = None
    until: int = 0

    def can_be_claimed(self, now: int) -> bool:
        return self.holder is None or self.until <= now


@dataclass
class Process:
    """A collector's process: it believes what it heard last, for as long as it is paused.

    Attributes:
        cycles: Those that run, each with the epoch that it began with.
    """

    me: Registration
    believed: dict[str, Epoch] = field(default_factory=dict)
    cycles: list[tuple[str, Epoch]] = field(default_factory=list)


NAMES = ("a", "b", "c")
INSTANCES = ("x", "y")
MOST_PROCESSES = 5
some = st.sets(st.sampled_from(INSTANCES), min_size=1)
which = st.integers(min_value=0, max_value=99)


class LeaseProtocol(RuleBasedStateMachine):
    """Members that claim, renew, release, commit, pause and start again, while PostgreSQL's clock goes and jumps.

    A pause is that a process does nothing for as long as others do, and then goes on with what it believes.
    """

    server: Server

    def __init__(self) -> None:
        super().__init__()
        role = self.server.role()
        self.runner = asyncio.Runner()
        self.connections = {name: Database(self.server.dsn(role), schema=role, patience=PATIENCE) for name in NAMES}
        self.database = self.connections["a"]
        self.wait(schema.migrate(self.database))
        self.time = MadeTime(self.server, role)
        self.wait(leases.enter(self.database, INSTANCES))
        self.processes = [Process(registration(name)) for name in NAMES]
        self.model = {instance: ModelLease() for instance in INSTANCES}
        self.committed: dict[str, list[tuple[int, UUID]]] = {instance: [] for instance in INSTANCES}

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        for database in self.connections.values():
            self.wait(database.close())
        self.runner.close()

    def process(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    @rule(seconds=st.integers(min_value=1, max_value=2 * TTL_S))
    def time_passes(self, seconds: int) -> None:
        self.time.step(seconds)

    @rule(seconds=st.integers(min_value=-3600, max_value=3600))
    def the_clock_is_set(self, seconds: int) -> None:
        self.time.step(seconds)

    @precondition(lambda self: len(self.processes) < MOST_PROCESSES)
    @rule(number=which)
    def is_started_again(self, number: int) -> None:
        """The old process may still be there, paused."""
        self.processes.append(Process(registration(self.process(number).me.name)))

    @rule(number=which, instances=some)
    def claims(self, number: int, instances: set[str]) -> None:
        process = self.process(number)
        got = self.wait(leases.claim(self.database, process.me, instances, TERMS))

        expected = {name for name in instances if self.model[name].can_be_claimed(self.time.seconds)}
        assert set(got) == expected
        self.take(process, got)

    @rule(instances=some)
    def claim_at_once(self, instances: set[str]) -> None:
        rivals = self.processes[-3:]

        async def claim() -> list[dict[str, leases.Lease]]:
            pairs = zip(self.connections.values(), rivals, strict=True)
            return await asyncio.gather(*(leases.claim(base, one.me, instances, TERMS) for base, one in pairs))

        claims = self.wait(claim())

        expected = [name for name in instances if self.model[name].can_be_claimed(self.time.seconds)]
        assert sorted(name for got in claims for name in got) == sorted(expected)
        for process, got in zip(rivals, claims, strict=True):
            self.take(process, got)

    def take(self, process: Process, got: dict[str, leases.Lease]) -> None:
        for name, lease in got.items():
            assert lease.epoch.number == self.model[name].epoch + 1
            self.model[name] = ModelLease(lease.epoch.number, process.me.incarnation, self.time.seconds + TTL_S)
            process.believed[name] = lease.epoch

    @rule(number=which)
    def renews(self, number: int) -> None:
        process = self.process(number)
        renewed = self.wait(leases.renew(self.database, process.me, TERMS))

        own = {name for name, lease in self.model.items() if lease.holder == process.me.incarnation}
        assert set(renewed) == own
        for name in own:
            self.model[name].until = self.time.seconds + TTL_S
        process.believed = {name: lease.epoch for name, lease in renewed.items()}

    @rule(number=which, instance=st.sampled_from(INSTANCES))
    def releases(self, number: int, instance: str) -> None:
        process = self.process(number)
        if instance not in process.believed:
            return
        epoch = process.believed[instance]
        self.wait(leases.release(self.database, process.me, {instance: epoch}))
        if self.is_of(process, instance, epoch):
            self.model[instance].holder = None

    @rule(number=which)
    def begins_cycles(self, number: int) -> None:
        process = self.process(number)
        process.cycles += process.believed.items()

    @rule(number=which, cycle=which)
    def commits(self, number: int, cycle: int) -> None:
        process = self.process(number)
        if not process.cycles:
            return
        instance, epoch = process.cycles.pop(cycle % len(process.cycles))
        passed = self.wait(leases.commit(self.database, process.me, instance, epoch, run=START))

        assert passed == self.is_of(process, instance, epoch)
        if passed:
            self.committed[instance].append((epoch.number, process.me.incarnation))

    def is_of(self, process: Process, instance: str, epoch: Epoch) -> bool:
        lease = self.model[instance]
        return (lease.holder, lease.epoch) == (process.me.incarnation, epoch.number)

    @invariant()
    def at_most_one_epoch_of_an_instance_is_committed_at_a_time(self) -> None:
        for commits in self.committed.values():
            assert commits == sorted(commits, key=lambda commit: commit[0])
            assert len(dict(commits)) == len(set(commits))

    @invariant()
    def the_table_is_what_the_rules_make_of_it(self) -> None:
        names = {process.me.incarnation: process.me.name for process in self.processes}
        found = {
            lease.instance: (lease.epoch.number, lease.collector) for lease in self.wait(leases.table(self.database))
        }

        now = self.time.seconds
        expected = {
            name: (lease.epoch, None if lease.holder is None or lease.can_be_claimed(now) else names[lease.holder])
            for name, lease in self.model.items()
        }
        assert found == expected


@pytest.fixture
def protocol(server: Server) -> type[LeaseProtocol]:
    return type("Protocol", (LeaseProtocol,), {"server": server})


def test_at_most_one_epoch_of_an_instance_is_committed_whatever_members_and_clocks_do(
    protocol: type[LeaseProtocol],
) -> None:
    run_state_machine_as_test(
        protocol,
        settings=settings(
            max_examples=examples(200),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
