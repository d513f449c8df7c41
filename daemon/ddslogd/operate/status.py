"""What the operator looks at: how fresh each instance's logs are, why not, and whose turn it is.

Pure: it judges what the ledger holds (``storage.standing``) and what a running daemon adds (``Live``). A database that
writes nothing is no failed collector: its cycles end well, so that it is fresh, and it is ``silent``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ddslogd.models import Cron, CycleOutcome, Every
from ddslogd.pacing import longest_gap

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ddslogd import models
    from ddslogd.storage.standing import Books, Failing, Node, Standing

NOBODYS = "nobody's"
THE_CLOUDS = "the cloud's: wait"
_TURNS = {
    "CredentialsRefused": "yours: mend the credentials",
    "NotAllowed": "yours: grant the permission that the error names",
    "Gone": "yours: take the instance or node out of the configuration",
    "Unsupported": "yours: take the instance out of the configuration, it has no such logs",
    "StorageError": "yours: see the disk",
    "NoRoom": "yours: make room on the disk",
    "LinkRefused": "yours: see what the error says of the link",
    "Timeout": "yours: see the network and download.concurrent",
    "Rejected": "yours: report it with its request id, as the README says",
    "Unpublishable": "yours: see what the error says of the file",
    "ExportFailed": "the cloud's: wait; if it stays, open a ticket with the request id",
}
"""By kind of error; all others mend themselves, or the cloud mends them."""
_NONE = "no daemon runs"
_UNASKED = "read from the ledger, the daemon could not be asked"
_AS_THEY_ARE = {str, int, float, bool}
_NAMES: dict[Any, tuple[str, ...]] = {}  # of the fields, by class
_WORST_FIRST = tuple(_TURNS)


class State(StrEnum):
    """How an instance's logs are."""

    FRESH = "fresh"
    """Its last good cycle ended within its target."""
    STALE = "stale"
    """It did not."""
    NEW = "new"
    """It never had a cycle, and the target has not passed since the daemon knows of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCycle:
    """How the last cycle went.

    Attributes:
        error: What stopped it as a whole; empty where nothing did.
    """

    outcome: str
    started_at: datetime
    finished_at: datetime
    took_s: float
    stored: int
    unchanged: int
    failed: int
    fetched_bytes: int
    new_bytes: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance.

    Attributes:
        why: Why it is not fresh, a sentence; empty where it is.
        turn: Whose turn it is.
        age_s: Seconds since the end of its last good cycle; None where it never had one.
        target_s: It is stale beyond so many.
        newest_line: The newest time in its logs on disk.
        silent: Its exports are fine, and the last one brought no new line.
        running: Whether its cycle runs now.
        new_bytes: In streams, of its last cycles that asked for an export, oldest first.
        gaps: How many there are.
        nodes: Empty where they were not asked for.
    """

    name: str
    id: str
    cloud: str
    state: State
    why: str
    turn: str
    age_s: float | None
    target_s: float
    last_success: datetime | None
    newest_line: datetime | None
    silent: bool
    schedule: str
    next_tick: datetime | None
    running: bool
    last_cycle: LastCycle | None
    new_bytes: tuple[int, ...] = ()
    failures: tuple[Failing, ...] = ()
    gaps: int = 0
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One account.

    Attributes:
        left: Calls that may be made now.
        waiting: Calls that wait for their turn.
        throttled: How often the cloud said that there are too many, since the start.
        paused_until: The cloud asked for no call until then.
        credentials: ok, refused, untried.
        reachable: False while nobody answers.
        unlisted: Why its list of instances could not be had, where it is needed; else empty.
    """

    name: str
    calls_per_minute: int
    left: int
    waiting: int
    throttled: int
    paused_until: datetime | None
    credentials: str
    reachable: bool
    unlisted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system of the storage directory, in bytes.

    Attributes:
        parts: Files that are not whole yet.
        below: Whether less than ``keep_free`` is free.
    """

    directory: str
    free: int
    total: int
    keep_free: int
    parts: int
    parts_bytes: int
    below: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One file on its way.

    Attributes:
        done: Bytes on disk.
        total: Bytes of the whole file; None where that is not known.
        resumed: Whether it went on with what an earlier request had left.
        bytes_per_second: Since it began.
    """

    instance: str
    node: str
    log: str
    file: str
    done: int
    total: int | None
    began_at: datetime
    resumed: bool
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTick:
    """Which instance's cycle begins next."""

    instance: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything at one moment.

    Attributes:
        started_at: Of the daemon; None where none runs, and this is read from the ledger.
        headline: The first thing to read.
        fresh: Instances that are.
        loop_lag_s: How late the daemon's loop is, in seconds.
    """

    version: str
    now: datetime
    started_at: datetime | None
    headline: str
    fresh: int
    stale: int
    new: int
    next_tick: NextTick | None
    instances: tuple[Instance, ...]
    clouds: tuple[Cloud, ...]
    disk: Disk
    transfers: tuple[Transfer, ...] = ()
    loop_lag_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What only a running daemon knows.

    Attributes:
        started_at: When it began to serve.
        known_since: By instance: when it heard of it.
        next_ticks: By instance; of those that have an entry on the agenda.
        running: Instances whose cycle runs.
    """

    started_at: datetime
    known_since: Mapping[str, datetime]
    next_ticks: Mapping[str, datetime]
    running: Collection[str]
    clouds: tuple[Cloud, ...]
    transfers: tuple[Transfer, ...]
    loop_lag_s: float | None


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
        """Give the age beyond which an instance is stale."""
        return self.factor * max(usual(schedule, now), self.fresh_for)


def usual(schedule: Every | Cron, now: datetime) -> timedelta:
    """Give the longest time between two of the next ticks."""
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron():
            return _longest_gap(schedule, now.date().toordinal())


@lru_cache(maxsize=4096)
def _longest_gap(schedule: Cron, day: int) -> timedelta:
    """Reckon once a day: the ticks of a week and more have to be looked at."""
    return longest_gap(schedule, after=datetime.fromordinal(day).replace(tzinfo=UTC))


def judged(
    fleet: Iterable[models.Instance],
    books: Books,
    live: Live | None,
    disk: Disk,
    *,
    now: datetime,
    yardstick: Yardstick,
    version: str,
    unasked: bool = False,
) -> Status:
    """Give the status at a moment.

    Args:
        fleet: All instances that are collected from.
        books: What the ledger holds of them.
        live: What the daemon adds; None where none runs.
        disk: Of the storage directory.
        now: By the wall clock.
        yardstick: What counts as fresh.
        version: Of ddslogd.
        unasked: A daemon runs, and could not be asked.
    """
    clouds = {cloud.name: cloud for cloud in live.clouds} if live else {}
    instances = tuple(
        _Case(
            one=one,
            standing=books.standings.get(one.name),
            failures=books.failures.get(one.name, ()),
            live=live,
            daemon=live is not None or unasked,
            cloud=clouds.get(one.cloud),
            now=now,
            target=yardstick.target(one.schedule, now),
        ).verdict(gaps=books.gaps.get(one.name, 0), nodes=books.nodes.get(one.name, ()))
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
        headline=headline(fresh, stale, new, read="" if live else _UNASKED if unasked else _NONE),
        fresh=fresh,
        stale=stale,
        new=new,
        next_tick=NextTick(instance=first[1], at=first[0]) if first else None,
        instances=instances,
        clouds=live.clouds if live else (),
        disk=disk,
        transfers=live.transfers if live else (),
        loop_lag_s=live.loop_lag_s if live else None,
    )


def headline(fresh: int, stale: int, new: int, *, read: str = "") -> str:
    """Say in words how it stands, and where it was read if that is not plain."""
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
    return f"{said}; {read}" if read else said


def one_line(status: Status) -> str:
    """Say what matters: how many instances are fresh, when it goes on, and what is wrong, of stale ones first."""
    parts = [f"{status.fresh}/{len(status.instances)} instances fresh"]
    if status.new:
        parts.append(f"{status.new} not asked yet")
    if status.next_tick is not None:
        parts.append(f"next at {status.next_tick.at.astimezone():%H:%M}")
    wrong = ((one.state is not State.STALE, one.name, said) for one in status.instances if (said := _wrong(one)))
    _, name, said = min(wrong, default=(False, "", ""))
    return ", ".join([*parts, f"{name}: {said}"] if name else parts)


def _wrong(one: Instance) -> str:
    """Say what is wrong with an instance; empty where nothing is. What is fresh still may have begun to fail."""
    if one.state is State.STALE:
        return one.why
    return _worst(one.failures).reason if one.failures else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that is known of one instance at a moment."""

    one: models.Instance
    standing: Standing | None
    failures: tuple[Failing, ...]
    live: Live | None
    daemon: bool
    cloud: Cloud | None
    now: datetime
    target: timedelta

    def verdict(self, *, gaps: int, nodes: tuple[Node, ...]) -> Instance:
        one, standing, age = self.one, self.standing, self.age
        state = self._state()
        return Instance(
            name=one.name,
            id=one.id,
            cloud=one.cloud,
            state=state,
            why="" if state is State.FRESH else f"{self._since()}: {self._reason()}",
            turn=self._turn(state),
            age_s=age.total_seconds() if age is not None else None,
            target_s=self.target.total_seconds(),
            last_success=standing.good_at if standing else None,
            newest_line=standing.newest_line if standing else None,
            silent=state is State.FRESH and standing is not None and not self.failures and standing.quiet > 0,
            schedule=spelled(one.schedule),
            next_tick=self.live.next_ticks.get(one.name) if self.live else None,
            running=self.running,
            last_cycle=_last_cycle(standing),
            new_bytes=standing.new_bytes if standing else (),
            failures=self.failures,
            gaps=gaps,
            nodes=nodes,
        )

    @property
    def age(self) -> timedelta | None:
        good_at = self.standing.good_at if self.standing else None
        return max(timedelta(), self.now - good_at) if good_at else None

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
            return State.NEW if self.now - known_since <= self.target else State.STALE
        return State.STALE

    def _since(self) -> str:
        if self.standing is None:
            return "it never had a cycle"
        if self.age is None:
            return "it never had a good cycle"
        return f"no good cycle for {in_words(self.age)} (target {in_words(self.target)})"

    def _reason(self) -> str:
        if not self.daemon:
            return _NONE
        if self.no_room:
            return "the disk is below storage.keep_free"
        if self.failures:
            return _worst(self.failures).reason
        return "its cycle is running" if self.running else "its cycle has not begun yet"

    def _turn(self, state: State) -> str:
        if not self.daemon and state is not State.FRESH:
            return "yours: start ddslogd"
        if self.no_room:
            return "yours: make room on the disk"
        if self.failures:
            return _TURNS.get(_worst(self.failures).kind, THE_CLOUDS)
        if state is State.FRESH or self.cloud is None:
            return NOBODYS
        if not self.cloud.reachable or self.cloud.paused_until is not None:
            return THE_CLOUDS
        if self.cloud.waiting and not self.running:
            return "yours: raise calls_per_minute, or give longer schedules"
        return NOBODYS


def _worst(failures: Sequence[Failing]) -> Failing:
    """Give the failure that only the operator can mend, if there is one."""
    rank = {kind: place for place, kind in enumerate(_WORST_FIRST)}
    return min(failures, key=lambda failing: (rank.get(failing.kind, len(rank)), failing.since))


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


def in_words(duration: timedelta) -> str:
    """Spell a duration by its two largest units: 1d 2h, 20m, 5s."""
    seconds = duration.total_seconds()
    if seconds < 10:  # noqa: PLR2004  # tenths tell something
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])


def as_object(status: Status, *, nodes: bool = False) -> dict[str, Any]:
    """Give what ``/api/v1/status`` sends: times as ISO 8601 in UTC, durations in seconds."""
    found: dict[str, Any] = _plain(status)
    if not nodes:
        for instance in found["instances"]:
            del instance["nodes"]
    return found


def instance_object(instance: Instance) -> dict[str, Any]:
    """Give what ``/api/v1/instances/<name>`` sends."""
    found: dict[str, Any] = _plain(instance)
    return found


def _plain(value: Any) -> Any:
    if value is None or type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, StrEnum):
        return value.value
    return {name: _plain(getattr(value, name)) for name in _names_of(type(value))}


def _names_of(kind: Any) -> tuple[str, ...]:
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(field.name for field in fields(kind))
    return names
