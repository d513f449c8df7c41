"""How each instance stands, as the ledger has it: kept with each cycle, and read in few queries however many there are.

Reading takes a connection of its own (``database.reading``), beside the ledger's thread: it holds up no cycle.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ddslogd.models import CycleOutcome, GapCause, LogKind, Stored
from ddslogd.storage import layout
from ddslogd.storage.database import moment_of, moment_or_none, ms_of, ms_or_none

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from ddslogd.models import CycleReport

SPARKS = 24  # cycles whose new bytes are kept
NEWEST = 5  # snapshots and gaps that are told of each node
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
        kind: The error's class name.
        reason: The error in full.
    """

    node: str
    log: str
    kind: str
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
    """Lines that are missing from a stream."""

    after: datetime | None
    until: datetime | None
    cause: str
    noted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One kind of log of a node.

    Attributes:
        role: As the cloud lists it; empty where it is not known.
        newest_line: The newest time in its log on disk.
        stream: Its live file, relative to the storage directory; empty where there is none.
        stream_bytes: Bytes of that file.
        snapshots: The newest ones, newest first.
        gaps: As snapshots.
    """

    name: str
    log: str
    role: str = ""
    newest_line: datetime | None = None
    stream: str = ""
    stream_bytes: int = 0
    snapshots: tuple[SnapshotLine, ...] = ()
    gaps: tuple[GapLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the ledger holds, each by the instance's name.

    Attributes:
        gaps: How many there are.
        nodes: Of those instances that they were asked for.
        names: Of discovered instances that were collected from: cloud, id, name.
    """

    standings: Mapping[str, Standing] = field(default_factory=dict)
    failures: Mapping[str, tuple[Failing, ...]] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)
    names: tuple[tuple[str, str, str], ...] = ()


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
    if report.outcome is not CycleOutcome.CACHED:
        good = report.outcome.good
        good_ms = ms_of(report.finished_at) if good else good_ms
        quiet = quiet + 1 if good and not _brought(report) else 0
        newest_ms = max(filter(None, (newest_ms, ms_or_none(max(times, default=None)))), default=None)
        sparks = json.dumps([*json.loads(sparks), report.new_bytes][-SPARKS:])
    db.execute(
        "INSERT OR REPLACE INTO standings (instance, cycle, good_ms, quiet, newest_ms, new_bytes)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (report.instance, cycle, good_ms, quiet, newest_ms, sparks),
    )


def _brought(report: CycleReport) -> bool:
    """Tell whether a cycle brought new lines; without streams, whether it brought new files."""
    return report.new_bytes > 0 if report.advances else report.stored > 0


def books(db: sqlite3.Connection, *, nodes_of: str | None = None, all_nodes: bool = False) -> Books:
    """Read how all instances stand, at one moment.

    Args:
        db: As ``database.reading`` opens it.
        nodes_of: Read the nodes of this instance.
        all_nodes: Read the nodes of all.
    """
    db.execute("BEGIN")
    try:
        wanted = nodes_of is not None or all_nodes
        return Books(
            standings=_standings(db),
            failures=_failures(db),
            gaps=dict(db.execute("SELECT instance, count(*) FROM gaps GROUP BY instance")),
            nodes=_nodes(db, None if all_nodes else nodes_of) if wanted else {},
            names=_names(db),
        )
    finally:
        db.execute("COMMIT")


def _standings(db: sqlite3.Connection) -> dict[str, Standing]:
    newest = dict(db.execute("SELECT instance, max(delivered_ms) FROM streams GROUP BY instance"))
    rows = db.execute(
        "SELECT s.instance, good_ms, quiet, newest_ms, s.new_bytes, outcome, started_ms, finished_ms, stored,"
        " unchanged, failed, fetched_bytes, c.new_bytes, error FROM standings AS s JOIN cycles AS c ON c.id = s.cycle"
    )
    return {row[0]: _standing(row, newest.get(row[0])) for row in rows}


def _standing(row: tuple[Any, ...], in_streams_ms: int | None) -> Standing:
    _, good_ms, quiet, newest_ms, sparks, outcome, started_ms, finished_ms, stored, unchanged, *rest = row
    failed, fetched_bytes, new_bytes, error = rest
    return Standing(
        good_at=moment_or_none(good_ms),
        quiet=quiet,
        newest_line=moment_or_none(max(filter(None, (newest_ms, in_streams_ms)), default=None)),
        new_bytes=tuple(json.loads(sparks)),
        outcome=outcome,
        started_at=moment_of(started_ms),
        finished_at=moment_of(finished_ms),
        stored=stored,
        unchanged=unchanged,
        failed=failed,
        fetched_bytes=fetched_bytes,
        last_new_bytes=new_bytes,
        error=error,
    )


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
            kind=kind,
            since=moment_of(since_ms),
            last=moment_of(last_ms),
            times=times,
            reason=reason,
        )
        found[instance].append(failing)
    return {instance: tuple(failures) for instance, failures in found.items()}


def _names(db: sqlite3.Connection) -> tuple[tuple[str, str, str], ...]:
    """Give the discovered instances that were collected from, but those that the cloud had no more."""
    rows = db.execute(
        "SELECT cloud, id, name FROM names JOIN standings ON instance = name"
        " WHERE name NOT IN (SELECT instance FROM gaps WHERE path = '' AND cause = ?) ORDER BY cloud, name",
        (GapCause.INSTANCE_GONE.value,),
    )
    return tuple(rows)


def _nodes(db: sqlite3.Connection, instance: str | None) -> dict[str, tuple[Node, ...]]:
    """Give the nodes of an instance, or of all: those the cloud lists, and those of which there are files."""
    which, only = ("" if instance is None else " WHERE instance = ?"), (() if instance is None else (instance,))
    listed = db.execute(f"SELECT instance, name, role FROM nodes{which}", only).fetchall()  # noqa: S608  # constants
    roles = {(owner, name): role for owner, name, role in listed}
    found: dict[Series, Node] = {}
    for series in _series(db, instance):
        _add_snapshots(db, series, found)
    _add_streams(db, which, only, found)
    _add_gaps(db, which, only, found)
    for owner, name in roles.keys() - {(owner, name) for owner, name, _ in found}:
        found[owner, name, LogKind.ERROR] = Node(name=name, log=LogKind.ERROR.value)
    grouped: dict[str, list[Node]] = defaultdict(list)
    for owner, name, kind in sorted(found):
        grouped[owner].append(replace(found[owner, name, kind], role=roles.get((owner, name), "")))
    return {owner: tuple(nodes) for owner, nodes in grouped.items()}


def _series(db: sqlite3.Connection, instance: str | None) -> Iterator[str]:
    """Give the series there are, from one to the next by the index: there may be a hundred snapshots of each."""
    after = f"{layout.SNAPSHOTS}/" if instance is None else f"{layout.SNAPSHOTS}/{layout.segment(instance)}/"
    end = f"{after[:-1]}0"  # a slash is followed by a zero
    while True:
        query = "SELECT min(series) FROM snapshots WHERE series > ? AND series < ?"
        (series,) = db.execute(query, (after, end)).fetchone()
        if series is None:
            return
        yield series
        after = series


def _add_snapshots(db: sqlite3.Connection, series: str, found: dict[Series, Node]) -> None:
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
            first_at=moment_or_none(first_ms),
            last_at=moment_or_none(last_ms),
            verified=bool(verified),
            delta=bool(delta),
        )
        for _, _, _, path, size, stored_ms, first_ms, last_ms, verified, delta in rows
    )
    instance, node, log = rows[0][:3]
    found[instance, node, LogKind(log)] = Node(name=node, log=log, newest_line=lines[0].last_at, snapshots=lines)


def _add_streams(db: sqlite3.Connection, which: str, only: tuple[str, ...], found: dict[Series, Node]) -> None:
    query = f"SELECT series, instance, node, log, size, delivered_ms FROM streams{which}"  # noqa: S608  # constants
    for series, instance, name, log, size, delivered_ms in db.execute(query, only):
        node = found.get((instance, name, LogKind(log)), Node(name=name, log=log))
        newest = moment_or_none(delivered_ms) or node.newest_line
        path = str(layout.stream_path(series))
        found[instance, name, LogKind(log)] = replace(node, stream=path, stream_bytes=size, newest_line=newest)


def _add_gaps(db: sqlite3.Connection, which: str, only: tuple[str, ...], found: dict[Series, Node]) -> None:
    query = f"SELECT instance, node, log, after_ms, until_ms, cause, noted_ms FROM gaps{which} ORDER BY noted_ms DESC"  # noqa: S608  # constants
    for instance, name, log, after_ms, until_ms, cause, noted_ms in db.execute(query, only):
        node = found.get((instance, name, LogKind(log)), Node(name=name, log=log))
        line = GapLine(
            after=moment_or_none(after_ms), until=moment_or_none(until_ms), cause=cause, noted_at=moment_of(noted_ms)
        )
        found[instance, name, LogKind(log)] = replace(node, gaps=(*node.gaps, line)[:NEWEST])
