"""Members of a cluster in one process, against a real PostgreSQL: they die, are drained, cut off, and come back."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.cluster import members
from ddslogd.cluster.database import Database
from ddslogd.model.cluster import Epoch
from ddslogd.model.errors import NotOwned
from ddslogd.scheduling.clock import SystemClock
from ddslogd.scheduling.scheduler import Scheduler
from ddslogd.scheduling.triggers import next_tick
from support import cluster as beds
from support.clocks import START
from support.cluster import until
from support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from structlog.typing import EventDict

    from ddslogd.model.instance import Instance
    from ddslogd.scheduling.engine import Engine
    from support.cluster import Cluster
    from support.postgresql import Server

pytestmark = pytest.mark.slow

TTL = timedelta(seconds=5)
LONG = timedelta(minutes=10)  # nothing comes by waiting: a renewal is 100 seconds away


@pytest.fixture
async def cluster(server: Server, role: str) -> AsyncIterator[Cluster]:
    async with beds.cluster(server, role, fleet=12, ttl=TTL) as one:
        yield one


@pytest.fixture
async def slow_cluster(server: Server, role: str) -> AsyncIterator[Cluster]:
    async with beds.cluster(server, role, fleet=12, ttl=LONG) as one:
        yield one


def named(events: list[EventDict], name: str) -> list[EventDict]:
    return [event for event in events if event["event"] == name]


def leases_of(cluster: Cluster) -> dict[str, tuple[int, str | None]]:
    rows = cluster.server.admin("SELECT instance, epoch, collector FROM leases", cluster.role)
    return {instance: (epoch, collector) for instance, epoch, collector in rows}


async def drain(cluster: Cluster, name: str) -> None:
    database = Database(cluster.server.dsn(cluster.role), schema=cluster.role, patience=timedelta(seconds=20))
    await members.drain(database, name)
    await database.notify()
    await database.close()


# --- shares -----------------------------------------------------------------------------------------------------------


async def test_who_is_alone_owns_all(slow_cluster: Cluster) -> None:
    one = slow_cluster.join("a")

    await slow_cluster.covered("a")

    gained = {name: run for change in one.changes for name, run in change.gained.items()}
    assert gained == dict.fromkeys(leases_of(slow_cluster))


async def test_three_share_the_fleet_as_the_ranking_says(cluster: Cluster) -> None:
    for name in ("a", "b", "c"):
        cluster.join(name)
    await cluster.settled("a", "b", "c")

    shares = {name: len(one.owned) for name, one in cluster.collectors.items()}
    seen = cluster.collectors["a"].engine.members
    await until(lambda: {one.name: one.instances for one in seen()} == shares, "the members do not know the shares")


async def test_who_joins_gets_its_share_and_nothing_else_moves(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.join(name)
    await cluster.settled("a", "b")
    for one in cluster.collectors.values():
        one.changes.clear()

    joined = cluster.join("c")
    await cluster.settled("a", "b", "c")

    lost = [one.lost for one in cluster.collectors.values()]
    assert (set().union(*lost), bool(joined.owned)) == (joined.owned, True)


async def test_who_joins_asks_for_one_instance_between_two_renewals(slow_cluster: Cluster) -> None:
    """However often there is news: each move is news."""
    a = slow_cluster.join("a")
    await slow_cluster.covered("a")
    b = slow_cluster.join("b")
    await slow_cluster.covered("a", "b")

    for _ in range(3):
        before = b.engine.members()
        b.engine._news.set()
        await until(lambda: b.engine.members() is not before, "no heartbeat")  # noqa: B023  # it has ended by then

    assert (len(b.owned), len(a.lost)) == (1, 1)


async def test_an_instance_moves_at_the_end_of_its_cycle_and_never_within(cluster: Cluster) -> None:
    """What a drained member begins no more is another's only once its last cycle has ended."""
    a, b = cluster.join("a"), cluster.join("b")
    await cluster.covered("a", "b")
    instance = next(one for one in cluster.fleet if one.id in a.owned)

    with a.engine.fence(instance) as epoch:
        await drain(cluster, "a")
        await until(lambda: b.owned == {one.id for one in cluster.fleet} - {instance.id}, "the others do not move")
        during = leases_of(cluster)[instance.id]
        await a.engine.commit(instance, epoch, run=START)
    await cluster.covered("b")

    assert during == (epoch.number, "a")


async def test_a_drained_member_hands_over_before_any_lease_ends(slow_cluster: Cluster) -> None:
    """By notifications alone: no renewal is near."""
    a = slow_cluster.join("a")
    await slow_cluster.covered("a")
    b = slow_cluster.join("b")
    await until(lambda: len(a.engine.members()) == 2, "a does not hear of b")

    await drain(slow_cluster, "a")

    await slow_cluster.covered("b")
    assert (a.lost, a.refused, b.refused) == ({one.id for one in slow_cluster.fleet}, [], [])


async def test_nothing_is_released_that_may_still_begin(server: Server, role: str) -> None:
    """Neither when it is handed over, nor at the end."""
    members_of: dict[str, beds.Collector] = {}
    released: list[tuple[set[str], frozenset[str]]] = []

    def look(name: str, statement: str, values: Mapping[str, Any]) -> None:
        if "SET collector = NULL" in statement:
            released.append((set(values["instances"]), members_of[name].engine.owned()))

    async with beds.cluster(server, role, fleet=3, ttl=LONG) as cluster:
        for name in ("a", "b"):
            engine = beds.engine(server, role, name, ttl=LONG, before=partial(look, name))
            members_of[name] = cluster.collectors[name] = one = beds.Collector(name, engine, cluster.fleet)
            one.start()
            await until(lambda: len(cluster.owners) == 3, "not all is owned")
            await until(lambda: name in {one.name for one in engine.members()}, "no member")  # noqa: B023  # at once

        await drain(cluster, "a")
        await cluster.covered("b")
        await cluster.leave("a")
        await cluster.leave("b")

    ids = {one.id for one in cluster.fleet}
    assert [set().union(*(names for names, _ in released)), released[-1][0]] == [ids, ids]
    assert [names & owned for names, owned in released] == [set()] * len(released)


async def test_who_is_handed_an_instance_runs_it_at_its_next_run(slow_cluster: Cluster) -> None:
    """On its grid, as the owner before would have done; what that had committed is not run again."""
    begun: list[tuple[str, str]] = []
    schedulers = {}
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            engine = beds.engine(slow_cluster.server, slow_cluster.role, name, ttl=LONG)
            schedulers[name] = scheduler = scheduler_of(engine, slow_cluster, partial(begun_by, begun, name, engine))
            serving = group.create_task(scheduler.serve(slow_cluster.fleet))
            engine.start()
            stack = slow_cluster.collectors
            stack[name] = beds.Collector(name, engine, slow_cluster.fleet, tasks=[serving])
            await until(lambda: len(begun) == len(slow_cluster.fleet), "not each instance was run once")
        await until(lambda: len(stack["b"].engine.members()) == 2, "b is no member")
        await until(lambda: len(slow_cluster.commits()) == len(slow_cluster.fleet), "not all are committed")

        await drain(slow_cluster, "a")
        await slow_cluster.covered("b")

        ticks = schedulers["b"].next_ticks()
        for name in ("a", "b"):
            await slow_cluster.leave(name)

    now = datetime.now(UTC)
    assert {name for name, _ in begun} == {"a"}
    assert ticks == {one.name: next_tick(one.schedule, after=now, key=one.id) for one in slow_cluster.fleet}


def scheduler_of(
    engine: Engine, cluster: Cluster, cycle: Callable[[Instance, datetime], Coroutine[Any, Any, None]]
) -> Scheduler:
    async def fleet() -> list[Instance]:
        return cluster.fleet

    return Scheduler(
        cycle=cycle,
        clock=SystemClock(),
        last_ticks={},
        fleet=fleet,
        engine=engine,
        refresh=LONG,
        instead=lambda *_: None,
    )


async def begun_by(begun: list[tuple[str, str]], name: str, engine: Engine, instance: Instance, tick: datetime) -> None:
    begun.append((name, instance.name))
    with engine.fence(instance) as epoch:
        await engine.commit(instance, epoch, run=tick)


async def test_who_stops_lets_the_others_have_all_at_once(slow_cluster: Cluster) -> None:
    slow_cluster.join("a")
    await slow_cluster.covered("a")
    b = slow_cluster.join("b")
    await until(lambda: len(b.engine.members()) == 2, "b is no member")

    await slow_cluster.leave("a")

    await slow_cluster.covered("b")
    await until(lambda: [one.name for one in b.engine.members()] == ["b"], "a is still a member")


async def test_who_stops_lets_the_others_know(slow_cluster: Cluster) -> None:
    slow_cluster.join("a")
    await slow_cluster.covered("a")
    database = Database(slow_cluster.server.dsn(slow_cluster.role), schema=slow_cluster.role, patience=LONG)

    async with aclosing(database.notifications(quiet=LONG)) as heard, asyncio.timeout(beds.LIMIT_S):
        await anext(heard)  # that it listens
        await slow_cluster.leave("a")

        await anext(heard)


async def test_the_last_committed_run_goes_with_an_instance(slow_cluster: Cluster) -> None:
    """So that the next owner runs it at its next run, not at once."""
    a = slow_cluster.join("a")
    await slow_cluster.covered("a")
    await until(lambda: set(a.committed) == {one.id for one in slow_cluster.fleet}, "not all were committed")
    await slow_cluster.leave("a")
    runs = dict(slow_cluster.server.admin("SELECT instance, last_run FROM leases", slow_cluster.role))

    b = slow_cluster.join("b")
    await slow_cluster.covered("b")

    gained = {name: run for change in b.changes for name, run in change.gained.items()}
    assert gained == runs


async def test_what_leaves_the_fleet_is_released_and_what_comes_is_claimed(slow_cluster: Cluster) -> None:
    a = slow_cluster.join("a")
    await slow_cluster.covered("a")
    gone, *rest = a.fleet
    (new,) = beds.instances(13)[12:]

    a.engine.follow([*rest, new])

    at_once = a.owned
    await until(lambda: new.id in a.owned, "what is new is not claimed")
    await until(lambda: leases_of(slow_cluster)[gone.id] == (1, None), "what is gone is not released")
    assert at_once == {one.id for one in rest}


# --- death ------------------------------------------------------------------------------------------------------------


async def test_what_a_dead_member_had_is_taken_over_when_its_leases_end(cluster: Cluster) -> None:
    a = cluster.join("a")
    await cluster.covered("a")
    before = leases_of(cluster)
    b = cluster.join("b")
    await until(lambda: len(b.engine.members()) == 2, "b is no member")
    await cluster.kill("a")
    left = set(a.engine._held)

    await cluster.covered("b")

    assert a.engine._boottime() >= a.engine._ends_at
    raised = {name: epoch - before[name][0] for name, (epoch, _) in leases_of(cluster).items() if name in left}
    assert (set(raised.values()), bool(left)) == ({1}, True)


async def test_a_second_member_of_one_name_owns_nothing_until_the_first_has_gone(cluster: Cluster) -> None:
    first = cluster.join("a")
    await cluster.covered("a")
    with capture_logs() as events:
        second = cluster.collectors["again"] = beds.Collector(
            "a", beds.engine(cluster.server, cluster.role, "a", ttl=TTL), cluster.fleet
        )
        second.start()
        await until(lambda: bool(named(events, "cluster.refused")), "not refused")
        owned = first.owned, second.owned
        await cluster.leave("a")
        await until(lambda: len(second.owned) == len(cluster.fleet), "the name is not free")

    assert owned == ({one.id for one in cluster.fleet}, set())
    assert len(named(events, "cluster.refused")) == 1


async def test_a_member_whose_name_another_has_by_now_owns_nothing_at_once(slow_cluster: Cluster) -> None:
    """Whatever its leases say."""
    one = slow_cluster.join("a")
    await slow_cluster.covered("a")
    with capture_logs() as events:
        slow_cluster.server.admin("UPDATE collectors SET incarnation = gen_random_uuid()", slow_cluster.role)
        one.engine._news.set()
        await until(lambda: bool(named(events, "cluster.refused")), "not refused")

    assert one.owned == set()


async def test_a_host_that_slept_owns_nothing_when_it_wakes(server: Server, role: str) -> None:
    """And has all again once PostgreSQL says so: nobody claimed it meanwhile, so that the epoch is the same."""
    slept = [0.0]
    async with beds.cluster(server, role, fleet=3, ttl=LONG) as cluster:
        engine = beds.engine(server, role, "a", ttl=LONG)
        engine._boottime = lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + slept[0]
        one = cluster.collectors["a"] = beds.Collector("a", engine, cluster.fleet)
        one.start()
        await cluster.covered("a")
        await until(lambda: bool(one.committed), "nothing is committed")

        slept[0] = LONG.total_seconds()
        owned = engine.owned()
        with pytest.raises(NotOwned), engine.fence(cluster.fleet[0]):
            pass
        engine._news.set()
        await cluster.covered("a")

        assert (owned, one.lost) == (frozenset(), {instance.id for instance in cluster.fleet})
        assert leases_of(cluster) == {instance.id: (1, "a") for instance in cluster.fleet}


async def test_a_lease_is_no_longer_used_before_it_ends(server: Server, role: str) -> None:
    """By the margin, counted from when the renewal began."""
    slept = [0.0]
    async with beds.cluster(server, role, fleet=1, ttl=LONG) as cluster:
        engine = beds.engine(server, role, "a", ttl=LONG)
        engine._boottime = lambda: slept[0]
        one = cluster.collectors["a"] = beds.Collector("a", engine, cluster.fleet)
        one.start()
        await cluster.covered("a")
        await until(lambda: bool(one.committed), "nothing is committed")

        owned = []
        for slept[0] in ((LONG * 11 / 12).total_seconds() - 0.001, (LONG * 11 / 12).total_seconds()):
            owned.append(len(engine.owned()))

        assert owned == [1, 0]


async def test_a_renewal_counts_from_when_it_was_asked_for_however_late_the_answer_comes(
    server: Server, role: str
) -> None:
    slept = [0.0]

    def pass_time(statement: str, _: object) -> None:
        if "SET until" in statement:
            slept[0] += 30

    async with beds.cluster(server, role, fleet=1, ttl=LONG) as cluster:
        engine = beds.engine(server, role, "a", ttl=LONG, before=pass_time)
        engine._boottime = lambda: slept[0]
        cluster.collectors["a"] = one = beds.Collector("a", engine, cluster.fleet)
        one.start()
        await cluster.covered("a")
        before = engine.members()
        engine._news.set()
        await until(lambda: engine.members() is not before, "no heartbeat")

        assert engine._ends_at == slept[0] - 30 + (LONG * 11 / 12).total_seconds()


# --- PostgreSQL away --------------------------------------------------------------------------------------------------

FAULTS = {"cut": (), "held there": ("there",), "held back": ("back",), "held both ways": ("there", "back")}


@pytest.mark.parametrize("ways", FAULTS.values(), ids=FAULTS)
async def test_who_is_cut_off_stops_before_others_take_over_and_comes_back_by_itself(
    cluster: Cluster, ways: tuple[str, ...]
) -> None:
    """No two ever own one instance: the cluster looks at that all the time."""
    async with TcpProxy(cluster.server.port).serving() as proxy:
        a = cluster.join("a", port=proxy.port)
        cluster.join("b")
        await cluster.covered("a", "b")

        with capture_logs() as events:
            if ways:
                proxy.hold(*ways)
            else:
                proxy.cut()
            had = a.owned
            await until(lambda: bool(cluster.collectors["b"].owned & had), "nobody takes over")
            lost = a.lost
            await cluster.covered("b")
            proxy.restore()
            await cluster.covered("a", "b")
            await until(lambda: bool(named(events, "cluster.back")), "it does not say that it is back")

        reports = [len(named(events, name)) for name in ("cluster.away", "cluster.ended", "cluster.back")]
        assert (reports, had <= lost) == ([1, 1, 1], True)
        await cluster.leave("a")
        await cluster.leave("b")


async def test_who_is_cut_off_goes_on_with_what_it_has(slow_cluster: Cluster) -> None:
    async with TcpProxy(slow_cluster.server.port).serving() as proxy:
        a = slow_cluster.join("a", port=proxy.port)
        await slow_cluster.covered("a")
        await until(lambda: bool(a.committed), "nothing is committed")
        proxy.cut()
        a.engine._news.set()

        await until(lambda: bool(a.refused), "a commit passes")
        with a.engine.fence(slow_cluster.fleet[0]) as epoch:
            assert epoch == Epoch(number=1)
        assert len(a.owned) == len(slow_cluster.fleet)
        proxy.restore()
        await slow_cluster.leave("a")


async def test_a_restart_of_postgresql_moves_nothing(slow_cluster: Cluster) -> None:
    a = slow_cluster.join("a")
    await slow_cluster.covered("a")
    b = slow_cluster.join("b")
    await slow_cluster.covered("a", "b")
    before = a.owned, b.owned
    a.changes.clear()

    for stop in (slow_cluster.server.stop, slow_cluster.server.kill):
        await asyncio.to_thread(stop)
        await asyncio.to_thread(slow_cluster.server.start)
        for one in (a, b):
            one.committed.clear()
        await until(lambda: bool(a.committed) and bool(b.committed), "nothing is committed after the restart")

    assert (a.owned, b.owned, a.lost | b.lost) == (*before, set())


async def test_while_postgresql_is_away_for_longer_than_a_lease_nobody_owns_anything_and_then_all_goes_on(
    cluster: Cluster,
) -> None:
    a, b = cluster.join("a"), cluster.join("b")
    await cluster.covered("a", "b")

    with capture_logs() as events:
        await asyncio.to_thread(cluster.server.stop)
        await until(lambda: not cluster.owners, "somebody still owns something")
        await asyncio.to_thread(cluster.server.start)
        await cluster.covered("a", "b")
        await until(lambda: len(named(events, "cluster.back")) == 2, "they do not say that they are back")

    ended = named(events, "cluster.ended")
    assert (len(ended), a.lost | b.lost) == (2, {one.id for one in cluster.fleet})


async def test_without_notifications_members_find_out_by_themselves(cluster: Cluster) -> None:
    cluster.join("a")
    await cluster.covered("a")
    instance = cluster.fleet[0].id

    cluster.server.admin("UPDATE leases SET collector = NULL, incarnation = NULL, until = now()", cluster.role)

    await until(lambda: leases_of(cluster)[instance] == (2, "a"), "nobody claims what is free")
    await cluster.covered("a")


async def test_a_member_whose_notifications_were_cut_listens_again(cluster: Cluster) -> None:
    def listening() -> list[int]:
        rows = cluster.server.admin(
            "SELECT pid FROM pg_stat_activity WHERE usename = %(role)s AND query LIKE 'LISTEN%%'", role=cluster.role
        )
        return [pid for (pid,) in rows]

    cluster.join("a")
    await until(lambda: bool(listening()), "it does not listen")
    (before,) = listening()

    cluster.server.admin("SELECT pg_terminate_backend(%(pid)s)", pid=before)

    await until(lambda: bool({*listening()} - {before}), "it does not listen again")
    await cluster.covered("a")


async def test_a_commit_that_postgresql_lost_is_reported_and_its_instance_claimed_again(cluster: Cluster) -> None:
    """As a failover to a replica that lags does."""
    a = cluster.join("a")
    await cluster.covered("a")
    instance = cluster.fleet[0]

    with capture_logs() as events:
        statement = "UPDATE leases SET epoch = 0, collector = NULL, incarnation = NULL WHERE instance = 'id-0'"
        cluster.server.admin(statement, cluster.role)
        await until(lambda: bool(named(events, "cluster.commit_lost")), "not reported")
    await cluster.covered("a")

    told = [(event["instance"], event["epoch"]) for event in named(events, "cluster.commit_lost")]
    assert (told, instance.id in a.lost) == ([("id-0", 1)], True)


async def test_a_bug_in_a_heartbeat_ends_nothing(server: Server, role: str) -> None:
    has_bug = [False]

    def bug(statement: str, _: object) -> None:
        if has_bug[0] and "SET until" in statement:
            raise ZeroDivisionError

    async with beds.cluster(server, role, fleet=3, ttl=TTL) as cluster:
        engine = beds.engine(server, role, "a", ttl=TTL, before=bug)
        cluster.collectors["a"] = a = beds.Collector("a", engine, cluster.fleet)
        a.start()
        await cluster.covered("a")
        with capture_logs() as events:
            has_bug[0] = True
            await until(lambda: not a.owned, "its leases do not end")
            has_bug[0] = False
            await cluster.covered("a")

        assert len(named(events, "cluster.bug")) > 1


async def test_a_bug_in_who_listens_ends_nothing(slow_cluster: Cluster) -> None:
    def bug(_: object) -> None:
        raise ZeroDivisionError

    a = slow_cluster.join("a")
    a.engine.listen(bug)
    with capture_logs() as events:
        await slow_cluster.covered("a")
        await until(lambda: bool(a.committed), "nothing is committed")

    assert [event["log_level"] for event in named(events, "cluster.bug")] == ["error"]


async def test_a_member_of_the_version_before_goes_on_and_one_that_cannot_read_the_tables_owns_nothing(
    cluster: Cluster,
) -> None:
    with capture_logs() as events:
        cluster.server.admin("UPDATE versions SET version = version + 1, readable_by = version", cluster.role)
        cluster.server.admin("ALTER TABLE leases ADD COLUMN more integer NOT NULL DEFAULT 0", cluster.role)
        cluster.join("a")
        await cluster.covered("a")
        await until(lambda: bool(cluster.collectors["a"].committed), "nothing is committed")
        cluster.server.admin("UPDATE versions SET version = version + 1, readable_by = version + 1", cluster.role)
        b = cluster.join("b")
        await until(lambda: bool(named(events, "cluster.refused")), "not refused")

    assert b.owned == set()


async def test_commits_that_wait_while_postgresql_does_not_answer_are_refused_together(
    server: Server, role: str
) -> None:
    """Not one after the other, each after as long as a statement may take; and no heartbeat waits for them."""
    ttl = timedelta(seconds=30)
    async with beds.cluster(server, role, fleet=40, ttl=ttl) as cluster, TcpProxy(server.port).serving() as proxy:
        a = cluster.join("a", port=proxy.port)
        await cluster.covered("a")
        await until(lambda: set(a.committed) == set(a.owned), "not all are committed")

        proxy.hold("there", "back")
        await until(lambda: set(a.refused) == {one.id for one in a.fleet}, "not all are refused")

        proxy.restore()
        await cluster.leave("a")
