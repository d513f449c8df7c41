"""The ledger's page on nodes: which had a file before, and whose exports are not as they should be."""

from __future__ import annotations

import json
from types import NoneType
from typing import TYPE_CHECKING, Any

from ddslogd.model.cycle import Delivered, NodeHistory, NodeStanding, NodeState
from ddslogd.model.instance import LogKind
from ddslogd.storage import paths
from ddslogd.storage.ledger.database import moment_of, moment_or_none, ms_of, ms_or_none
from ddslogd.storage.ledger.integrity_check import row_reader, typed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from ddslogd.model.cycle import CycleReport


def history(db: sqlite3.Connection, instance: str, kind: LogKind) -> NodeHistory:
    """Return what is known of the exports of one kind of an instance's logs."""
    known = standings(db, instance).get(instance, ())
    offered = db.execute("SELECT nodes FROM offered WHERE instance = ? AND log = ?", (instance, kind.value)).fetchone()
    good = db.execute("SELECT good_ms FROM standings WHERE instance = ?", (instance,)).fetchone()
    return NodeHistory(
        delivered=_delivered(db, instance, kind),
        known=tuple(one for one in known if one.log is kind),
        offered=_read_offered(offered),
        good_at=moment_or_none(good[0]) if good else None,
    )


@row_reader
def _read_offered(row: Sequence[Any] | None) -> frozenset[str]:
    return frozenset(str(node) for node in json.loads(row[0])) if row else frozenset()


def _delivered(db: sqlite3.Connection, instance: str, kind: LogKind) -> tuple[Delivered, ...]:
    """Return the nodes of an instance that had a file of this kind of log before."""
    begin = f"{paths.SNAPSHOTS}/{paths.segment(instance)}/"
    end = f"{begin[:-1]}0"  # a slash is followed by a zero
    found: dict[str, Delivered] = {}
    streams = "SELECT series, node, nullif(reference_ms, 0) FROM streams WHERE series > ? AND series < ? AND log = ?"
    for series, node, at_ms in db.execute(streams, (begin, end, kind.value)):
        found[series] = Delivered(node=node, at=moment_or_none(at_ms))
    newest = (
        "SELECT node, file_name, log, updated_ms FROM snapshots WHERE series = ? AND published"
        " ORDER BY updated_ms DESC LIMIT 1"
    )
    for series in _series(db, begin, end):
        row = db.execute(newest, (series,)).fetchone()
        if row is not None and row[2] == kind.value:
            found[series] = Delivered(node=row[0], file_name=row[1], at=moment_of(row[3]))
    return tuple(found.values())


def _series(db: sqlite3.Connection, begin: str, end: str) -> Iterator[str]:
    """Yield the series there are, from one to the next by the index: there may be a hundred snapshots of each."""
    after = begin
    while True:
        query = "SELECT min(series) FROM snapshots WHERE series > ? AND series < ?"
        (series,) = db.execute(query, (after, end)).fetchone()
        if series is None:
            return
        yield series
        after = series


def standings(db: sqlite3.Connection, instance: str | None = None) -> Mapping[str, tuple[NodeStanding, ...]]:
    """Return the nodes whose exports are not as they should be, by instance; with ``instance``, those of it alone."""
    which, only = ("", ()) if instance is None else (" WHERE instance = ?", (instance,))
    rows = db.execute(
        f"SELECT instance, log, node, state, since_ms, made_ms FROM node_states{which} ORDER BY instance, node, log",  # noqa: S608  # constants
        only,
    )
    found: dict[str, tuple[NodeStanding, ...]] = {}
    for owner, *row in rows:
        found[owner] = (*found.get(owner, ()), _read(row))
    return found


@row_reader
def _read(row: Sequence[Any]) -> NodeStanding:
    log, node, state, since_ms, made_ms = typed(row, str, str, str, int, (int, NoneType))
    return NodeStanding(
        log=LogKind(log),
        node=node,
        state=NodeState(state),
        since=moment_of(since_ms),
        made_at=moment_or_none(made_ms),
    )


def write(db: sqlite3.Connection, report: CycleReport) -> None:
    """Write what a cycle found of the nodes, in place of what was known; what it could not ask for stays as it was."""
    broken_off = bool(report.error) and not report.failed_calls
    unasked = {*report.cached, *(call.log for call in report.failed_calls)}
    for kind in LogKind:
        if kind in report.judged or not (broken_off or kind in unasked):  # the latter: it is collected no more
            # Whether the cloud makes new exports is judged last, which a cycle may not get to.
            kept = NodeState.STALLED.value if kind in report.judged and kind not in report.completed else ""
            delete = "DELETE FROM node_states WHERE instance = ? AND log = ? AND state != ?"
            db.execute(delete, (report.instance, kind.value, kept))
    db.executemany(
        "INSERT OR REPLACE INTO node_states (instance, log, node, state, since_ms, made_ms) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (report.instance, one.log.value, one.node, one.state.value, ms_of(one.since), ms_or_none(one.made_at))
            for one in report.nodes
        ],
    )
    db.executemany(
        "INSERT INTO offered VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET nodes = excluded.nodes"
        " WHERE nodes != excluded.nodes",
        [(report.instance, kind.value, json.dumps(sorted(nodes))) for kind, nodes in report.offered.items()],
    )
