"""The engine of a member: it owns what it has leases of, in PostgreSQL.

At each heartbeat a member says that it lives, renews its leases, and does what the placement says. All its leases end
at the same time, a TTL after the last heartbeat began, less a margin: then nothing is owned until PostgreSQL answers
again. That time is CLOCK_BOOTTIME's, which goes on while the host sleeps.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from ddslogd.cluster import leases, members, schema
from ddslogd.cluster.database import AWAY
from ddslogd.cluster.placement import placed
from ddslogd.model.cluster import OwnershipChange
from ddslogd.model.errors import ClusterError, NotOwned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from ddslogd.cluster.database import Database
    from ddslogd.cluster.lease_terms import LeaseTerms
    from ddslogd.cluster.leases import Lease
    from ddslogd.cluster.members import Registration
    from ddslogd.model.cluster import Epoch, Member
    from ddslogd.model.instance import Instance

log = structlog.get_logger()

AWAY_TODO = "see PostgreSQL and the way to it; cycles go on by themselves when it is back"
LOST_COMMIT_TODO = "PostgreSQL lost what it had committed: let its failover be to a synchronous replica"


def boottime() -> float:
    """Return seconds that go on while the host sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PostgresEngine:
    """Owns instances by leases; see ``Engine``."""

    def __init__(
        self, database: Database, *, me: Registration, terms: LeaseTerms, boottime: Callable[[], float] = boottime
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            database: Of the cluster; the engine closes it.
            me: This collector.
            terms: Of the leases.
            boottime: Tells the seconds by which leases end here.
        """
        self._database = database
        self._commits = database.another()  # however many cycles end, no heartbeat waits for them
        self._me = me
        self._terms = terms
        self._boottime = boottime
        self._listener: Callable[[OwnershipChange], None] = lambda _: None
        self._fleet: frozenset[str] = frozenset()
        self._held: dict[str, Lease] = {}  # by the last renewal, and what was claimed since
        self._ends_at = boottime()
        self._asks_from = self._ends_at
        self._leaving: frozenset[str] = frozenset()
        self._owned: frozenset[str] = frozenset()  # as the listener knows it
        self._fenced: Counter[str] = Counter()  # cycles that run
        self._members: tuple[Member, ...] = ()
        self._trouble = ""  # the event that reported it
        self._is_member = False
        self._news = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Become a member, as soon as PostgreSQL is there."""
        work = {"heartbeats": self._heartbeats(), "end of leases": self._end_in_time(), "notifications": self._hear()}
        self._tasks = [asyncio.create_task(one, name=f"cluster: {name}") for name, one in work.items()]

    async def stop(self) -> None:
        """Release all leases, and leave; where PostgreSQL is away, they end by themselves."""
        self._stopping = True
        self._news.set()
        _, *others = self._tasks
        for task in others:
            task.cancel()
        await asyncio.wait(self._tasks)  # the heartbeat that is on its way ends in its time
        epochs = {name: one.epoch for name, one in self._held.items()}
        self._held = {}
        self._publish()
        try:
            await leases.release(self._database, self._me, epochs)
            await members.leave(self._database, self._me)
            await self._database.notify()
        except AWAY as exc:
            log.warning("cluster.not_left", reason=_reason(exc), ends_in_s=self._terms.ttl.total_seconds())
        await self._database.close()
        await self._commits.close()

    def listen(self, listener: Callable[[OwnershipChange], None]) -> None:
        """Call it at each change."""
        self._listener = listener

    def follow(self, fleet: Iterable[Instance]) -> None:
        """Take the instances that there are now: what is new is claimed, what is gone released."""
        before, self._fleet = self._fleet, frozenset(instance.id for instance in fleet)
        self._owned &= self._fleet
        if self._fleet != before:
            self._news.set()

    def owned(self) -> frozenset[str]:
        """Return the ids of the instances whose cycles may begin."""
        return self._owned if self._boottime() < self._ends_at else frozenset()

    def members(self) -> tuple[Member, ...]:
        """Return who lived at the last heartbeat."""
        return self._members

    @contextmanager
    def fence(self, instance: Instance) -> Iterator[Epoch]:
        """Enclose a cycle: its instance is handed over once it has ended.

        Raises:
            NotOwned: The lease has ended, or was handed over.
        """
        if instance.id not in self.owned():
            raise NotOwned(f"{instance.name} is not this collector's now")
        self._fenced[instance.id] += 1
        try:
            yield self._held[instance.id].epoch
        finally:
            self._fenced -= Counter([instance.id])
            if instance.id in self._leaving:
                self._news.set()

    async def commit(self, instance: Instance, epoch: Epoch, *, run: datetime) -> None:
        """Record a run.

        Raises:
            NotOwned: Nothing is recorded, or nobody knows whether it is.
        """
        try:
            done = await leases.commit(self._commits, self._me, instance.id, epoch, run=run)
        except AWAY as exc:
            raise NotOwned(f"nobody knows whether the run of {instance.name} is recorded: {_reason(exc)}") from exc
        if not done:
            raise NotOwned(f"the run of {instance.name} is not recorded: another collector has it by now")
        lease = self._held.get(instance.id)
        if lease is not None and lease.epoch == epoch:
            self._held[instance.id] = replace(lease, last_run=run)

    async def _heartbeats(self) -> None:
        while not self._stopping:
            self._news.clear()
            await self._guarded_heartbeat()
            await asyncio.sleep(self._terms.floor.total_seconds())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._terms.renew_every.total_seconds()):
                    await self._news.wait()

    async def _guarded_heartbeat(self) -> None:
        try:
            await self._heartbeat()
        except ClusterError as exc:  # no member, whatever the leases say
            self._held = {}
            self._report("cluster.refused", reason=str(exc))
        except AWAY as exc:
            self._report("cluster.away", reason=_reason(exc), todo=AWAY_TODO)
        except Exception:  # the next one may do
            log.exception("cluster.bug")
            self._is_member = False
        else:
            if self._trouble:
                log.info("cluster.back", members=len(self._members))
            self._trouble = ""
        self._publish()

    def _report(self, event: str, **fields: str) -> None:
        """Report trouble, once as long as it lasts."""
        self._is_member = False
        if event != self._trouble:
            log.warning(event, ends_in_s=round(max(0.0, self._ends_at - self._boottime()), 1), **fields)
        self._trouble = event

    async def _heartbeat(self) -> None:
        if not self._is_member:
            await schema.migrate(self._database)
            await leases.prune(self._database)
        began, before = self._boottime(), self._held
        await members.heartbeat(self._database, self._me, self._terms)
        held = await leases.renew(self._database, self._me, self._terms)
        self._publish()  # what has ended meanwhile is lost before it is gained again
        self._held, self._ends_at = held, began + (self._terms.ttl - self._terms.margin).total_seconds()
        self._publish()
        table = {lease.instance: lease for lease in await leases.table(self._database)}
        _report_lost_commits(before, table)
        self._members = await members.living(self._database)
        if not self._is_member:
            self._is_member = True
            await self._database.notify()
        await self._place(table)

    async def _place(self, table: dict[str, Lease]) -> None:
        """Do what the placement says."""
        fleet = self._fleet
        placement = await asyncio.to_thread(
            placed, self._me.name, fleet=fleet, members=self._members, leases=table, wait=self._terms.ttl
        )
        self._leaving = placement.leaving
        self._publish()  # before anything is released: from here on none of it begins a cycle
        await self._release()
        await self._ask(placement.asks)
        if new := fleet - table.keys():
            await leases.enter(self._database, new)
            self._news.set()
        if placement.claims:
            self._held |= await leases.claim(self._database, self._me, placement.claims, self._terms)

    async def _ask(self, instances: frozenset[str]) -> None:
        """Ask others for instances, once between two renewals, however often there is news."""
        now = self._boottime()
        if instances and now >= self._asks_from:
            self._asks_from = now + self._terms.renew_every.total_seconds()
            await leases.ask(self._database, self._me, instances)
            await self._database.notify()

    async def _release(self) -> None:
        """Release what is to leave and has no cycle that runs."""
        ready = {name for name in self._leaving & self._held.keys() if not self._fenced[name]}
        if ready:
            epochs = {name: self._held.pop(name).epoch for name in ready}
            await leases.release(self._database, self._me, epochs)
            await self._database.notify()

    def _publish(self) -> None:
        """Let the listener know what is owned now, if that has changed."""
        before, is_over = self._owned, self._boottime() >= self._ends_at
        self._owned = frozenset() if is_over else (self._fleet & self._held.keys()) - self._leaving
        gained, lost = self._owned - before, before - self._owned
        if is_over and lost:
            log.error("cluster.ended", lost=len(lost), todo=AWAY_TODO)
        if gained or lost:
            log.info("cluster.owned", gained=len(gained), lost=len(lost), owned=len(self._owned))
            runs = {name: self._held[name].last_run for name in gained}
            try:
                self._listener(OwnershipChange(gained=runs, lost=lost))
            except Exception:  # the leases go on
                log.exception("cluster.bug")

    async def _end_in_time(self) -> None:
        """Notice the end of the leases, whatever a heartbeat waits for."""
        longest_s, floor_s = self._terms.renew_every.total_seconds(), self._terms.floor.total_seconds()
        while True:
            await asyncio.sleep(min(longest_s, max(floor_s, self._ends_at - self._boottime())))
            self._publish()

    async def _hear(self) -> None:
        """Let the heartbeat come sooner where another member has news; without notifications the next one will do."""
        while True:
            try:
                async with aclosing(self._database.notifications(quiet=self._terms.ttl)) as heard:
                    async for _ in heard:
                        self._news.set()
            except AWAY as exc:
                log.debug("cluster.deaf", reason=_reason(exc))
            await asyncio.sleep(self._terms.renew_every.total_seconds())


def _report_lost_commits(before: dict[str, Lease], table: dict[str, Lease]) -> None:
    """Report what PostgreSQL had committed, and does not know any more: its failover lost it."""
    for name, lease in before.items():
        now = table.get(name)
        if now is None or now.epoch < lease.epoch:
            log.error("cluster.commit_lost", instance=name, epoch=lease.epoch.number, todo=LOST_COMMIT_TODO)


def _reason(exc: Exception) -> str:
    return str(exc).strip() or "PostgreSQL does not answer in time"
