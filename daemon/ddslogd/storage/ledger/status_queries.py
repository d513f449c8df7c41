"""How each instance stands, as the ledger has it: kept with each cycle, and read in few queries however many there are.

Reading takes a connection of its own (``database.reading``), next to the ledger's thread: it holds up no cycle.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import LedgerDamaged
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import Stored
from ddslogd.model.stream import GapCause
from ddslogd.scheduling.clock import believed
from ddslogd.storage import paths
from ddslogd.storage.file_age import noted_clocks
from ddslogd.storage.ledger import node_records
from ddslogd.storage.ledger.database import log_moment, log_ms, moment_of, moment_or_none, ms_of, ms_or_none
from ddslogd.storage.ledger.integrity_check import row_reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ddslogd.model.cycle import CycleReport, NodeStanding

SPARKS = 24  # cycles whose new bytes are kept
NEWEST = 5  # snapshots and gaps that are told of each node, and new gaps of each instance
RECENT = timedelta(hours=24)  # a gap that was noticed since is new
MOST_RECENT = 1000  # new gaps that are described, of all instances
FAILING = "failing"
"""How a node's exports are where something of it fails, and nothing else is known of them."""
Series = tuple[str, str, LogKind]
"""An instance, a node of it, and a kind of log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an instance stands after its last cycle.

    Attributes:
        good_at: The end of its last good cycle; None where it never had one. A cached one rests on the one before.
        quiet: Good cycles in a row that brought no new line; 0 after one that was not good.
        newest_line: The newest time in its logs on disk.
        new_bytes: In streams, of its last cycles that asked for an export, oldest first.
        outcome: Of the last cycle, as all that follows.
        last_new_bytes: In streams.
        error: What stopped it as a whole; empty where nothing did.
    """

    good_at: datetime | None
    quiet: int
    newest_line: datetime | None
    new_bytes: tuple[int, ...]
    outcome: str
    started_at: datetime
    finished_at: datetime
    stored: int
    unchanged: int
    failed: int
    fetched_bytes: int
    last_new_bytes: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """What fails now.

    Attributes:
        node: Empty where an export fails as a whole.
        log: Empty where the cycle does.
        reason: The error in full.
    """

    node: str
    log: str
    kind: FailureKind
    since: datetime
    last: datetime
    times: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLine:
    """One published file.

    Attributes:
        path: Relative to the storage directory.
        size: Bytes.
        first_at: The first time that its lines tell.
        last_at: The last one.
        verified: Whether length or checksum proved it whole.
        delta: Whether only what the one before did not hold was fetched.
    """

    path: str
    size: int
    stored_at: datetime
    first_at: datetime | None
    last_at: datetime | None
    verified: bool
    delta: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GapLine:
    """Lines that are missing from a stream.

    Attributes:
        number: Of gaps that it stands for.
    """

    after: datetime | None
    until: datetime | None
    cause: str
    noted_at: datetime
    number: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentGap:
    """A gap that was noticed within the last 24 hours."""

    node: str
    log: str
    cause: str
    after: datetime | None
    until: datetime | None
    noted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The gaps of an instance, as far as they are counted.

    Attributes:
        listed: How many the ledger knows.
        total: How many were ever noticed; never falls.
        recent: How many were noticed within the last 24 hours.
        newest: Of those the newest ones, newest first.
    """

    listed: int = 0
    total: int = 0
    recent: int = 0
    newest: tuple[RecentGap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One kind of log of a node.

    Attributes:
        role: As the cloud lists it; empty where it is not known.
        newest_line: The newest time in its log on disk.
        stream: The link to its newest file, relative to the storage directory; empty where there is none.
        stream_bytes: Bytes of that file.
        snapshots: The newest ones, newest first.
        gaps: As snapshots.
        called: What the cloud calls it now, where that is another name; else empty.
        state: How its exports are, where they are not as they should be; else empty.
        state_since: Since when.
        failure: What fails of this node; None where nothing does, or only what is all nodes', such as the export.
    """

    name: str
    log: str
    role: str = ""
    state: str = ""
    state_since: datetime | None = None
    newest_line: datetime | None = None
    stream: str = ""
    stream_bytes: int = 0
    snapshots: tuple[SnapshotLine, ...] = ()
    gaps: tuple[GapLine, ...] = ()
    called: str = ""
    failure: Failing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFacts:
    """What the ledger holds, each by the instance's name.

    Attributes:
        gaps: Of those instances that have had any.
        nodes: Of those instances that they were asked for.
        names: Of discovered instances that were collected from: cloud, id, name.
        node_states: Nodes whose exports are not as they should be.
        clocks: By cloud: how far its clock was ahead of the host's when it was read last.
    """

    standings: Mapping[str, Standing] = field(default_factory=dict)
    failures: Mapping[str, tuple[Failing, ...]] = field(default_factory=dict)
    gaps: Mapping[str, Gaps] = field(default_factory=dict)
    nodes: Mapping[str, tuple[NodeFacts, ...]] = field(default_factory=dict)
    names: tuple[tuple[str, str, str], ...] = ()
    node_states: Mapping[str, tuple[NodeStanding, ...]] = field(default_factory=dict)
    clocks: Mapping[str, timedelta] = field(default_factory=dict)


def note(db: sqlite3.Connection, report: CycleReport, *, cycle: int) -> None:
    """Bring an instance's standing up to a cycle.

    Args:
        db: Within a transaction.
        report: Of the cycle.
        cycle: Its number in the ledger.
    """
    query = "SELECT good_ms, quiet, newest_ms, new_bytes FROM standings WHERE instance = ?"
    good_ms, quiet, newest_ms, sparks = db.execute(query, (report.instance,)).fetchone() or (None, 0, None, "[]")
    times = [out.snapshot.last_at for out in report.outcomes if isinstance(out, Stored) and out.snapshot.last_at]
    good_ms = ms_or_none(believed(moment_or_none(good_ms), now=report.finished_at))
    if report.outcome is not CycleOutcome.CACHED:
        good = report.outcome.good
        good_ms = ms_of(report.finished_at) if good else good_ms
        quiet = quiet + 1 if good and not _brought(report) else 0
        newest_ms = max(filter(None, (newest_ms, log_ms(max(times, default=None)))), default=None)
        sparks = json.dumps([*_sparks(sparks), report.new_bytes][-SPARKS:])
    db.execute(
        "INSERT OR REPLACE INTO standings (instance, cycle, good_ms, quiet, newest_ms, new_bytes)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (report.instance, cycle, good_ms, quiet, newest_ms, sparks),
    )


@row_reader
def _sparks(text: str) -> tuple[int, ...]:
    return tuple(map(int, json.loads(text)))


def _brought(report: CycleReport) -> bool:
    """Return whether a cycle brought new lines; without streams, whether it brought new files."""
    return report.new_bytes > 0 if report.advances else report.stored > 0


def books(
    db: sqlite3.Connection, *, now: datetime | None = None, nodes_of: str | None = None, all_nodes: bool = False
) -> LedgerFacts:
    """Read how all instances stand, at one moment.

    Args:
        db: As ``database.reading`` opens it.
        now: By the host's clock, to tell new gaps; None where they do not matter.
        nodes_of: Read the nodes of this instance.
        all_nodes: Read the nodes of all.
    """
    db.execute("BEGIN")
    try:
        wanted, failures = nodes_of is not None or all_nodes, _failures(db)
        return LedgerFacts(
            standings=_standings(db),
            failures=failures,
            gaps=_gaps(db, now),
            nodes=_nodes(db, None if all_nodes else nodes_of, failures) if wanted else {},
            names=_names(db),
            node_states=node_records.standings(db),
            clocks={cloud: noted.ahead for cloud, noted in noted_clocks(db).items()},
        )
    finally:
        db.execute("COMMIT")


def _standings(db: sqlite3.Connection) -> dict[str, Standing]:
    newest = dict(db.execute("SELECT instance, max(delivered_ms) FROM streams GROUP BY instance"))
    rows = db.cursor()
    rows.row_factory = sqlite3.Row
    rows.execute(
        "SELECT s.instance, good_ms, quiet, newest_ms, s.new_bytes AS sparks, outcome, started_ms, finished_ms, stored,"
        " unchanged, failed, fetched_bytes, c.new_bytes, error FROM standings AS s JOIN cycles AS c ON c.id = s.cycle"
    )
    return {row["instance"]: _standing(row, newest.get(row["instance"])) for row in rows}


@row_reader
def _standing(row: sqlite3.Row, in_streams_ms: int | None) -> Standing:
    return Standing(
        good_at=moment_or_none(row["good_ms"]),
        quiet=row["quiet"],
        newest_line=log_moment(max(filter(log_moment, (row["newest_ms"], in_streams_ms)), default=None)),
        new_bytes=_sparks(row["sparks"]),
        outcome=row["outcome"],
        started_at=moment_of(row["started_ms"]),
        finished_at=moment_of(row["finished_ms"]),
        stored=row["stored"],
        unchanged=row["unchanged"],
        failed=row["failed"],
        fetched_bytes=row["fetched_bytes"],
        last_new_bytes=row["new_bytes"],
        error=row["error"],
    )


def _gaps(db: sqlite3.Connection, now: datetime | None) -> dict[str, Gaps]:
    listed = dict(db.execute("SELECT instance, sum(number) FROM gaps GROUP BY instance"))
    totals = dict(db.execute("SELECT instance, total FROM gap_totals"))
    recent: dict[str, int] = {}
    newest: dict[str, list[RecentGap]] = defaultdict(list)
    if now is not None:
        # Those that were noticed by a clock that was some hours ahead, too: rather said for too long than not at all.
        within = (ms_of(now - RECENT), ms_of(now + RECENT))
        query = (
            "SELECT instance, sum(number) FROM gap_totals CROSS JOIN gaps USING (instance)"
            " WHERE noted_ms BETWEEN :since AND :until AND coalesce(first_noted_ms, noted_ms) >= :since"
            " GROUP BY instance"
        )
        recent = dict(db.execute(query, dict(zip(("since", "until"), within, strict=True))))
        for instance, gap in _recent(db, within):
            if len(newest[instance]) < NEWEST:
                newest[instance].append(gap)
    return {
        instance: Gaps(
            listed=listed.get(instance, 0),
            total=totals.get(instance, 0),
            recent=recent.get(instance, 0),
            newest=tuple(newest.get(instance, ())),
        )
        for instance in listed.keys() | totals.keys()
    }


def _recent(db: sqlite3.Connection, within: tuple[int, int]) -> Iterator[tuple[str, RecentGap]]:
    rows = db.execute(
        "SELECT instance, node, log, cause, after_ms, until_ms, noted_ms"
        " FROM gap_totals CROSS JOIN gaps USING (instance)"
        " WHERE noted_ms BETWEEN ? AND ? AND first_noted_ms IS NULL ORDER BY noted_ms DESC LIMIT ?",
        (*within, MOST_RECENT),
    )
    for instance, node, log, cause, after_ms, until_ms, noted_ms in rows:
        gap = RecentGap(
            node=node,
            log=log,
            cause=cause,
            after=log_moment(after_ms),
            until=log_moment(until_ms),
            noted_at=moment_of(noted_ms),
        )
        yield instance, gap


@row_reader
def _failures(db: sqlite3.Connection) -> dict[str, tuple[Failing, ...]]:
    found: dict[str, list[Failing]] = defaultdict(list)
    rows = db.execute(
        "SELECT instance, node, log, kind, since_ms, last_ms, times, last_error FROM failures"
        " ORDER BY instance, node, log"
    )
    for instance, node, log, kind, since_ms, last_ms, times, reason in rows:
        failing = Failing(
            node=node,
            log=log,
            kind=FailureKind.read(kind),
            since=moment_of(since_ms),
            last=moment_of(last_ms),
            times=times,
            reason=reason,
        )
        found[instance].append(failing)
    return {instance: tuple(failures) for instance, failures in found.items()}


def _names(db: sqlite3.Connection) -> tuple[tuple[str, str, str], ...]:
    """Return the discovered instances that were collected from, but those that the cloud had no more."""
    rows = db.execute(
        "SELECT cloud, id, name FROM names JOIN standings ON instance = name"
        " WHERE name NOT IN (SELECT instance FROM gaps WHERE path = '' AND cause = ?) ORDER BY cloud, name",
        (GapCause.INSTANCE_GONE.value,),
    )
    return tuple(rows)


@row_reader
def _nodes(
    db: sqlite3.Connection, instance: str | None, failures: Mapping[str, tuple[Failing, ...]]
) -> dict[str, tuple[NodeFacts, ...]]:
    """Return the nodes of an instance, or of all: listed, with files, or failing."""
    which, only = ("" if instance is None else " WHERE instance = ?"), (() if instance is None else (instance,))
    listed = db.execute(f"SELECT instance, id, name, role FROM nodes{which}", only).fetchall()  # noqa: S608  # constants
    names = _node_names(db, which, only)
    kept = [(owner, names.get((owner, f"node:{id_}"), (name, ""))[0], name, role) for owner, id_, name, role in listed]
    roles = {(owner, name): role for owner, name, _, role in kept}
    called = {(owner, name): called for (owner, _), (name, called) in names.items() if called}
    called |= {(owner, name): listed for owner, name, listed, _ in kept if listed}
    found: dict[Series, NodeFacts] = {}
    for series in _series(db, instance):
        _add_snapshots(db, series, found)
    _add_streams(db, which, only, found)
    _add_gaps(db, which, only, found)
    _add_failures(failures if instance is None else {instance: failures.get(instance, ())}, found)
    _add_states(db, instance, found)
    for owner, name in roles.keys() - {(owner, name) for owner, name, _ in found}:
        found[owner, name, LogKind.ERROR] = NodeFacts(name=name, log=LogKind.ERROR.value)
    grouped: dict[str, list[NodeFacts]] = defaultdict(list)
    for owner, name, kind in sorted(found):
        now = called.get((owner, name), name)
        node = replace(found[owner, name, kind], role=roles.get((owner, name), ""), called="" if now == name else now)
        grouped[owner].append(node)
    return {owner: tuple(nodes) for owner, nodes in grouped.items()}


def _node_names(db: sqlite3.Connection, which: str, only: tuple[str, ...]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the names of nodes for life and those the cloud last had, by instance and what tells the nodes apart."""
    rows = db.execute(f"SELECT instance, identity, name, called FROM node_names{which}", only)  # noqa: S608  # constants
    return {(owner, identity): (name, called) for owner, identity, name, called in rows}


def _series(db: sqlite3.Connection, instance: str | None) -> Iterator[str]:
    """Yield the series there are, from one to the next by the index: there may be a hundred snapshots of each."""
    after = f"{paths.SNAPSHOTS}/" if instance is None else f"{paths.SNAPSHOTS}/{paths.segment(instance)}/"
    end = f"{after[:-1]}0"  # a slash is followed by a zero
    while True:
        query = "SELECT min(series) FROM snapshots WHERE series > ? AND series < ?"
        (series,) = db.execute(query, (after, end)).fetchone()
        if series is None:
            return
        if series <= after:
            raise LedgerDamaged("an index is not in order")
        yield series
        after = series


@row_reader
def _add_snapshots(db: sqlite3.Connection, series: str, found: dict[Series, NodeFacts]) -> None:
    rows = db.execute(
        "SELECT instance, node, log, path, size, stored_ms, first_ms, last_ms, verified, delta FROM snapshots"
        " WHERE series = ? AND published ORDER BY updated_ms DESC LIMIT ?",
        (series, NEWEST),
    ).fetchall()
    if not rows:
        return
    lines = tuple(
        SnapshotLine(
            path=path,
            size=size,
            stored_at=moment_of(stored_ms),
            first_at=log_moment(first_ms),
            last_at=log_moment(last_ms),
            verified=bool(verified),
            delta=bool(delta),
        )
        for _, _, _, path, size, stored_ms, first_ms, last_ms, verified, delta in rows
    )
    instance, node, log = rows[0][:3]
    found[instance, node, LogKind(log)] = NodeFacts(name=node, log=log, newest_line=lines[0].last_at, snapshots=lines)


@row_reader
def _add_streams(db: sqlite3.Connection, which: str, only: tuple[str, ...], found: dict[Series, NodeFacts]) -> None:
    query = f"SELECT series, instance, node, log, size, delivered_ms FROM streams{which}"  # noqa: S608  # constants
    for series, instance, name, log, size, delivered_ms in db.execute(query, only):
        node = found.get((instance, name, LogKind(log)), NodeFacts(name=name, log=log))
        newest = log_moment(delivered_ms) or node.newest_line
        path = str(paths.stream_link(series))
        found[instance, name, LogKind(log)] = replace(node, stream=path, stream_bytes=size, newest_line=newest)


@row_reader
def _add_gaps(db: sqlite3.Connection, which: str, only: tuple[str, ...], found: dict[Series, NodeFacts]) -> None:
    columns = "instance, node, log, after_ms, until_ms, cause, noted_ms, number"
    query = f"SELECT {columns} FROM gaps{which} ORDER BY noted_ms DESC"  # noqa: S608  # constants
    for instance, name, log, after_ms, until_ms, cause, noted_ms, number in db.execute(query, only):
        node = found.get((instance, name, LogKind(log)), NodeFacts(name=name, log=log))
        line = GapLine(
            after=log_moment(after_ms),
            until=log_moment(until_ms),
            cause=cause,
            noted_at=moment_of(noted_ms),
            number=number,
        )
        found[instance, name, LogKind(log)] = replace(node, gaps=(*node.gaps, line)[:NEWEST])


def _add_failures(failures: Mapping[str, tuple[Failing, ...]], found: dict[Series, NodeFacts]) -> None:
    for owner, several in failures.items():
        for failing in (one for one in several if one.node):
            series = (owner, failing.node, LogKind(failing.log))
            node = found.get(series, NodeFacts(name=failing.node, log=failing.log))
            found[series] = replace(node, state=FAILING, state_since=failing.since, failure=failing)


def _add_states(db: sqlite3.Connection, instance: str | None, found: dict[Series, NodeFacts]) -> None:
    for owner, states in node_records.standings(db, instance).items():
        for one in states:
            node = found.get((owner, one.node, one.log), NodeFacts(name=one.node, log=one.log))
            found[owner, one.node, one.log] = replace(node, state=one.state.value, state_since=one.since)
