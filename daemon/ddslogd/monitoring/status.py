"""Status: the facts, as the page, the commands and programs see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta  # noqa: TC003  # pydantic reads the annotations, see status_json
from enum import StrEnum
from typing import TYPE_CHECKING

from ddslogd.model.cycle import NodeStanding, NodeState
from ddslogd.model.failure_kind import Owner
from ddslogd.storage.ledger.status_queries import FAILING, Failing, NodeFacts, RecentGap

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


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
class NodeTrouble:
    """A node whose exports are not as they should be, or of which something fails: none of it is other nodes'."""

    node: str
    log: str
    state: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """One instance.

    Attributes:
        why: Why it is not fresh, a sentence; empty where it is.
        turn: Whose turn it is, in words.
        owner: The same, for programs.
        age_s: Seconds since the end of its last good cycle; None where it never had one.
        target_s: It is stale beyond so many.
        newest_line: The newest time in its logs on disk.
        silent: Its exports are fine, and the last one brought no new line.
        running: Whether its cycle runs now.
        new_bytes: In streams, of its last cycles that asked for an export, oldest first.
        gaps: How many the ledger knows.
        gaps_total: How many were ever noticed; never falls.
        gaps_24h: How many were noticed within the last 24 hours.
        new_gaps: Of those the newest ones, newest first.
        node_states: Nodes whose exports are not as they should be.
        source_stalled: Whether the cloud makes no new export of one of them.
        nodes: Empty where they were not asked for.
    """

    name: str
    id: str
    cloud: str
    state: State
    why: str
    turn: str
    owner: Owner = Owner.NOBODY
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
    gaps_total: int = 0
    gaps_24h: int = 0
    new_gaps: tuple[RecentGap, ...] = ()
    node_states: tuple[NodeStanding, ...] = ()
    source_stalled: bool = False
    nodes: tuple[NodeFacts, ...] = ()

    @property
    def node_troubles(self) -> tuple[NodeTrouble, ...]:
        """Return what is wrong with single nodes; what is wrong with all of them is not among it."""
        known = {(one.node, one.log): one for one in self.node_states}
        states = (
            NodeTrouble(node=one.node, log=one.log.value, state=one.state.value, since=one.since)
            for one in self.node_states
            if one.state is not NodeState.REMOVED
        )
        failing = (
            NodeTrouble(node=one.node, log=one.log, state=FAILING, since=one.since)
            for one in self.failures
            if one.node and (one.node, one.log) not in known
        )
        return (*states, *failing)

    def counted(self, state: NodeState) -> int:
        """Return how many of its nodes and kinds of log are in a state."""
        return sum(one.state is state for one in self.node_states)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudStatus:
    """One account.

    Attributes:
        left: Calls that may be made now.
        waiting: Calls that wait for their turn.
        throttled: How often the cloud said that there are too many, since the start.
        paused_until: The cloud asked for no call until then.
        credentials: ok, refused, untried.
        credentials_todo: What to do where they are refused, or not there.
        reachable: False while nobody answers.
        unlisted: Why its list of instances could not be had, where it is needed; else empty.
        silence: Why nobody answers; empty while it is reachable.
        clock_ahead_s: How far its clock is ahead of the host's; None where it has not replied.
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
    silence: str = ""
    clock_ahead_s: float | None = None
    credentials_todo: str = ""


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
        done: Bytes that have come.
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
class Configuration:
    """What a running daemon goes by.

    Attributes:
        loaded_at: When the file was read: by the start, or by the last reload that was not refused.
        refused: Why the last reload was refused; empty where it was not.
    """

    loaded_at: datetime
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything at one moment.

    Attributes:
        started_at: Of the daemon; None where none runs, and this is read from the ledger.
        headline: The first thing to read.
        fresh: Instances that are.
        gaps_24h: Gaps of all instances that were noticed within the last 24 hours.
        loop_lag_s: How late the daemon's loop is, in seconds.
        config: None where no daemon runs.
        host: What the host calls itself; empty where that is not known.
    """

    version: str
    now: datetime
    started_at: datetime | None
    headline: str
    fresh: int
    stale: int
    new: int
    next_tick: NextTick | None
    instances: tuple[InstanceStatus, ...]
    clouds: tuple[CloudStatus, ...]
    disk: Disk
    transfers: tuple[Transfer, ...] = ()
    loop_lag_s: float | None = None
    gaps_24h: int = 0
    config: Configuration | None = None
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What only a running daemon knows.

    Attributes:
        started_at: When it began to serve.
        known_since: By instance: when it heard of it.
        next_ticks: By instance; of those that have an entry on the agenda.
        running: Instances whose cycle runs.
        clocks: By cloud: how far its clock is ahead of the host's; of those that have replied.
    """

    started_at: datetime
    known_since: Mapping[str, datetime]
    next_ticks: Mapping[str, datetime]
    running: Collection[str]
    clouds: tuple[CloudStatus, ...]
    transfers: tuple[Transfer, ...]
    loop_lag_s: float | None
    clocks: Mapping[str, timedelta] = field(default_factory=dict)
    config: Configuration | None = None
