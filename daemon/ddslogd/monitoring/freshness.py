"""What the operator looks at: how fresh each instance's logs are, why not, and who has to act.

Pure: it judges what the ledger holds (``storage.standing``) and what a running daemon adds (``Live``). A database that
writes nothing is no failed collector: its cycles end well, so that it is fresh, and it is ``silent``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from ddslogd.model.cycle import CycleOutcome, NodeState
from ddslogd.model.failure_kind import FailureKind, Owner
from ddslogd.model.instance import Cron, Every, LogKind
from ddslogd.model.units import in_words
from ddslogd.monitoring.status import CloudStatus, Disk, InstanceStatus, LastCycle, Live, NextTick, State, Status
from ddslogd.scheduling.clock import believed
from ddslogd.scheduling.triggers import longest_interval
from ddslogd.storage.ledger.status_queries import Gaps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddslogd.model import instance
    from ddslogd.model.cycle import NodeStanding
    from ddslogd.storage.ledger.status_queries import Failing, LedgerFacts, NodeFacts, RecentGap, Standing

NO_GAPS = Gaps()


@dataclass(frozen=True, slots=True)
class Turn:
    """Who has to act, and how: empty where nothing is to be done."""

    owner: Owner
    todo: str

    def __str__(self) -> str:
        whose = {Owner.NOBODY: "nobody's", Owner.OPERATOR: "yours", Owner.CLOUD: "the cloud's"}[self.owner]
        return f"{whose}: {self.todo}" if self.todo else whose


NOBODYS = Turn(Owner.NOBODY, "")
THE_CLOUDS = Turn(Owner.CLOUD, "wait")
_NONE = "no daemon runs"
_REFUSED_RELOAD = "the last reload was refused, the configuration before it counts"
_UNASKED = "read from the ledger, the daemon could not be asked"
_RANK = {kind: place for place, kind in enumerate(kind for kind in FailureKind if not kind.passes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What counts as fresh.

    Attributes:
        factor: So many times the schedule's usual interval is the target.
        fresh_for: The cloud makes no new export sooner: no interval counts as shorter.
    """

    factor: float
    fresh_for: timedelta

    def target(self, schedule: Every | Cron, now: datetime) -> timedelta:
        """Return the age beyond which an instance is stale."""
        return self.factor * max(longest_interval(schedule, now=now), self.fresh_for)


def judged(
    fleet: Iterable[instance.Instance],
    facts: LedgerFacts,
    live: Live | None,
    disk: Disk,
    *,
    now: datetime,
    yardstick: Yardstick,
    version: str,
    unasked: bool = False,
) -> Status:
    """Return the status at a moment.

    Args:
        fleet: All instances that are collected from.
        facts: What the ledger holds of them.
        live: What the daemon adds; None where none runs.
        disk: Of the storage directory.
        now: By the wall clock.
        yardstick: What counts as fresh.
        version: Of ddslogd.
        unasked: A daemon runs, and could not be asked.
    """
    clouds = {cloud.name: cloud for cloud in live.clouds} if live else {}
    # What was noted of a clock may be over: it may let an instance look older, never younger.
    noted = {cloud: max(ahead, timedelta()) for cloud, ahead in facts.clocks.items()}
    clocks = {**noted, **(live.clocks if live else {})}
    instances = tuple(
        _Case(
            one=one,
            standing=facts.standings.get(one.name),
            failures=facts.failures.get(one.name, ()),
            live=live,
            daemon=live is not None or unasked,
            cloud=clouds.get(one.cloud),
            now=now,
            cloud_now=now + clocks.get(one.cloud, timedelta()),
            target=yardstick.target(one.schedule, now),
            node_states=facts.node_states.get(one.name, ()),
        ).verdict(gaps=facts.gaps.get(one.name, NO_GAPS), nodes=facts.nodes.get(one.name, ()))
        for one in fleet
    )
    counts = Counter(one.state for one in instances)
    fresh, stale, new = counts[State.FRESH], counts[State.STALE], counts[State.NEW]
    ticks = ((one.next_tick, one.name) for one in instances if one.next_tick is not None)
    first = min(ticks, default=None)
    return Status(
        version=version,
        now=now,
        started_at=live.started_at if live else None,
        headline=headline(
            fresh,
            stale,
            new,
            gaps=new_gaps(instances),
            nodes=no_longer_exported(instances),
            reload=_REFUSED_RELOAD if live and live.config and live.config.refused else "",
            read="" if live else _UNASKED if unasked else _NONE,
        ),
        gaps_24h=sum(one.gaps_24h for one in instances),
        fresh=fresh,
        stale=stale,
        new=new,
        next_tick=NextTick(instance=first[1], at=first[0]) if first else None,
        instances=instances,
        clouds=live.clouds if live else (),
        disk=disk,
        transfers=live.transfers if live else (),
        loop_lag_s=live.loop_lag_s if live else None,
        config=live.config if live else None,
    )


def headline(
    fresh: int, stale: int, new: int, *, gaps: str = "", nodes: str = "", reload: str = "", read: str = ""
) -> str:
    """Return in words how it stands, which lines and nodes are missing, and where it was read if that is not plain."""
    total = fresh + stale + new
    of = f"of {total} instance{'' if total == 1 else 's'}"
    if not total:
        said = "No instances"
    elif stale:
        said = f"{stale} {of} stale"
    elif new:
        said = f"{fresh} {of} fresh, {new} new"
    else:
        said = "The instance is fresh" if total == 1 else f"All {total} instances fresh"
    return "; ".join(filter(None, (said, gaps, nodes, reload, read)))


def new_gaps(instances: Iterable[InstanceStatus]) -> str:
    """Return in words how many gaps were noticed within the last 24 hours, with node and cause; empty for none."""
    having = [one for one in instances if one.gaps_24h]
    number = sum(one.gaps_24h for one in having)
    newest = max(((gap.noted_at, one.name, gap) for one in having for gap in one.new_gaps[:1]), default=None, key=_when)
    if not number:
        return ""
    said = f"{number:,} gap{'' if number == 1 else 's'} in 24 h"
    if newest is None:
        return said
    _, name, gap = newest
    return f"{said}{': ' if number == 1 else ', the newest: '}{name}, {in_gap(gap)}"


def no_longer_exported(instances: Iterable[InstanceStatus]) -> str:
    """Return in words how many nodes are no longer exported, with the name of one; empty for none."""
    nodes = {
        (one.name, node.node)
        for one in instances
        for node in one.node_states
        if node.state is NodeState.NO_LONGER_EXPORTED
    }
    if not nodes:
        return ""
    number, (name, node) = len(nodes), min(nodes)
    said = f"{number:,} node{'' if number == 1 else 's'} no longer exported"
    return f"{said}{': ' if number == 1 else ', one of them: '}{name}, {node}"


def in_gap(gap: RecentGap) -> str:
    """Return in words where lines are missing, and why."""
    return f"{gap.node}{'' if gap.log == LogKind.ERROR else f' ({gap.log} log)'}: {gap.cause}"


def _when(found: tuple[datetime, str, RecentGap]) -> tuple[datetime, str]:
    return found[:2]


def one_line(status: Status) -> str:
    """Return what matters: how many instances are fresh, when it goes on, and what is wrong, of stale ones first."""
    parts = [f"{status.fresh}/{len(status.instances)} instances fresh"]
    if status.config is not None and status.config.refused:  # first: the end of a long line is cut off
        parts.insert(0, f"{_REFUSED_RELOAD}: see config.refused in the journal")
    if status.new:
        parts.append(f"{status.new} not asked yet")
    if gaps := new_gaps(status.instances):
        parts.append(gaps)
    if nodes := no_longer_exported(status.instances):
        parts.append(nodes)
    if status.next_tick is not None:
        parts.append(f"next at {status.next_tick.at.astimezone():%H:%M}")
    unlisted = [cloud.name for cloud in status.clouds if cloud.unlisted]
    if unlisted:
        parts.append(f"no list of instances from {', '.join(unlisted)}")
    wrong = ((one.state is not State.STALE, one.name, said) for one in status.instances if (said := _wrong(one)))
    _, name, said = min(wrong, default=(False, "", ""))
    return ", ".join([*parts, f"{name}: {said}"] if name else parts)


def _wrong(one: InstanceStatus) -> str:
    """Return what is wrong with an instance; empty where nothing is. What is fresh still may have begun to fail."""
    if one.state is State.STALE:
        return one.why
    cycle = one.last_cycle
    return _failing(one.failures, came=cycle.stored + cycle.unchanged if cycle else 0) if one.failures else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that is known of one instance at a moment.

    Attributes:
        cloud_now: By the cloud's clock, as the ledger's times of its cycles are.
    """

    one: instance.Instance
    standing: Standing | None
    failures: tuple[Failing, ...]
    live: Live | None
    daemon: bool
    cloud: CloudStatus | None
    now: datetime
    cloud_now: datetime
    target: timedelta
    node_states: tuple[NodeStanding, ...] = ()

    def verdict(self, *, gaps: Gaps, nodes: tuple[NodeFacts, ...]) -> InstanceStatus:
        one, standing, age = self.one, self.standing, self.age
        state = self._state()
        turn = self._turn(state)
        return InstanceStatus(
            name=one.name,
            id=one.id,
            cloud=one.cloud,
            state=state,
            why="" if state is State.FRESH else f"{self._since()}: {self._reason()}",
            turn=str(turn),
            owner=turn.owner,
            age_s=age.total_seconds() if age is not None else None,
            target_s=self.target.total_seconds(),
            last_success=self.good_at,
            newest_line=standing.newest_line if standing else None,
            silent=state is State.FRESH and standing is not None and not self.failures and standing.quiet > 0,
            schedule=spelled(one.schedule),
            next_tick=self.live.next_ticks.get(one.name) if self.live else None,
            running=self.running,
            last_cycle=_last_cycle(standing),
            new_bytes=standing.new_bytes if standing else (),
            failures=self.failures,
            gaps=gaps.listed,
            gaps_total=gaps.total,
            gaps_24h=gaps.recent,
            new_gaps=gaps.newest,
            node_states=self.node_states,
            source_stalled=any(one.state is NodeState.STALLED for one in self.node_states),
            nodes=nodes,
        )

    @property
    def good_at(self) -> datetime | None:
        """Return the end of the last good cycle; None where it never had one, or what was noted cannot be."""
        return believed(self.standing.good_at, now=self.cloud_now) if self.standing else None

    @property
    def age(self) -> timedelta | None:
        return max(timedelta(), self.cloud_now - self.good_at) if self.good_at else None

    @property
    def running(self) -> bool:
        return self.live is not None and self.one.name in self.live.running

    @property
    def no_room(self) -> bool:
        return self.standing is not None and self.standing.outcome == CycleOutcome.NO_ROOM

    def _state(self) -> State:
        if self.age is not None:
            return State.FRESH if self.age <= self.target else State.STALE
        if self.standing is None and self.daemon and self.live is None:
            return State.NEW
        if self.standing is None and self.live is not None:
            known_since = max(self.live.started_at, self.live.known_since.get(self.one.name, self.live.started_at))
            is_new = believed(known_since, now=self.now) is not None and self.now - known_since <= self.target
            return State.NEW if is_new else State.STALE
        return State.STALE

    def _since(self) -> str:
        if self.standing is None:
            return "it never had a cycle"
        if self.age is None and self.standing.good_at is not None:
            return "when its last good cycle ended is not known, what was noted lies ahead of the clock"
        if self.age is None:
            return "it never had a good cycle"
        return f"no good cycle for {in_words(self.age)} (target {in_words(self.target)})"

    def _reason(self) -> str:
        if not self.daemon:
            return _NONE
        if self.no_room:
            return "the disk is below storage.keep_free"
        if self.failures:
            return _failing(self.failures, came=self.standing.stored + self.standing.unchanged if self.standing else 0)
        if self.cloud is not None and self.cloud.silence:  # its cycle has not come to an end yet
            return self.cloud.silence
        return "its cycle is running" if self.running else "its cycle has not begun yet"

    def _turn(self, state: State) -> Turn:
        if not self.daemon and state is not State.FRESH:
            return Turn(Owner.OPERATOR, "start ddslogd")
        if self.no_room:
            return Turn(Owner.OPERATOR, "make room on the disk")
        if self.failures:
            kind = _worst(self.failures).kind
            if kind is FailureKind.CREDENTIALS_REFUSED and self.cloud is not None and self.cloud.credentials_todo:
                return Turn(Owner.OPERATOR, self.cloud.credentials_todo)
            return Turn(kind.owner, kind.advice)
        if state is State.FRESH or self.cloud is None:
            return NOBODYS
        if not self.cloud.reachable or self.cloud.paused_until is not None:
            return THE_CLOUDS
        if self.cloud.waiting and not self.running:
            return Turn(Owner.OPERATOR, "raise calls_per_minute, or give longer schedules")
        return NOBODYS


def _failing(failures: Sequence[Failing], *, came: int) -> str:
    """Return in words what fails, the worst of it in full; of a node by its name, since it is not the others' failure.

    Args:
        failures: At least one.
        came: Files that the last cycle found or left as they should be.
    """
    worst = _worst(failures)
    if not worst.node:
        return worst.reason
    only = "only " if came and all(one.node for one in failures) else ""
    where = worst.node if worst.log == LogKind.ERROR else f"{worst.node} ({worst.log} log)"
    number = len({one.node for one in failures if one.node})
    said = f"node {where} fails" if number == 1 else f"{number} nodes fail, one of them {where}"
    return f"{only}{said}: {worst.reason}"


def _worst(failures: Sequence[Failing]) -> Failing:
    """Return the failure that needs somebody most; of those that pass by themselves, the oldest."""
    return min(failures, key=lambda failing: (_RANK.get(failing.kind, len(_RANK)), failing.since))


def _last_cycle(standing: Standing | None) -> LastCycle | None:
    if standing is None:
        return None
    return LastCycle(
        outcome=standing.outcome,
        started_at=standing.started_at,
        finished_at=standing.finished_at,
        took_s=max(0.0, (standing.finished_at - standing.started_at).total_seconds()),
        stored=standing.stored,
        unchanged=standing.unchanged,
        failed=standing.failed,
        fetched_bytes=standing.fetched_bytes,
        new_bytes=standing.last_new_bytes,
        error=standing.error,
    )


@lru_cache(maxsize=4096)
def spelled(schedule: Every | Cron) -> str:
    """Spell a schedule for people."""
    match schedule:
        case Every(interval=interval):
            return f"every {in_words(interval)}"
        case Cron(expression=expression, timezone="UTC"):
            return expression
        case Cron(expression=expression, timezone=timezone):
            return f"{expression} {timezone}"
