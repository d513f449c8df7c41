"""The ledger's records of cycles and their failures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ddslogd.model.cycle import Failed
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.snapshot import Stored, Superseded, Unchanged
from ddslogd.storage.ledger import status_queries
from ddslogd.storage.ledger.database import ms_of, ms_or_none

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from ddslogd.model.cycle import CycleReport

KEPT_CYCLES = 100  # of each instance

# Not the latest run: the clock may have been wrong, and is right again. Of a million cycles only the newest are read.
LAST_TICKS = (
    "SELECT instance, CASE WHEN outcome != 'cached' THEN tick_ms ELSE (SELECT tick_ms FROM cycles AS asked"
    " WHERE asked.instance = cycles.instance AND asked.outcome != 'cached' ORDER BY id DESC LIMIT 1) END"
    " FROM cycles WHERE id IN (SELECT max(id) FROM cycles GROUP BY instance)"
)


def write_cycle(db: sqlite3.Connection, report: CycleReport, tick: datetime) -> None:
    """Write a cycle's report."""
    entered = db.execute(
        "INSERT INTO cycles (instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed,"
        " stored_bytes, fetched_bytes, error, error_kind, new_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            report.instance,
            ms_of(tick),
            ms_of(report.started_at),
            ms_of(report.finished_at),
            report.outcome,
            report.stored,
            report.unchanged,
            len(report.failures),
            report.stored_bytes,
            report.fetched_bytes,
            report.error,
            report.error_kind or "",
            report.new_bytes,
        ),
    )
    status_queries.note(db, report, cycle=entered.lastrowid or 0)
    db.execute(
        "DELETE FROM cycles WHERE instance = ? AND id <= (SELECT id FROM cycles WHERE instance = ? ORDER BY id DESC"
        " LIMIT 1 OFFSET ?)",
        (report.instance, report.instance, KEPT_CYCLES),
    )


def write_failures(db: sqlite3.Connection, report: CycleReport) -> None:
    """Write what fails of an instance, in place of what failed before."""
    failed: dict[tuple[str, str], tuple[FailureKind, str]] = {
        (failure.node, failure.log): (failure.kind, failure.reason) for failure in report.failures
    }
    failed = {(one.node, one.log): (one.kind, one.reason) for one in report.stalled} | failed
    failed |= {("", call.log): (call.kind, call.reason) for call in report.failed_calls}
    over: set[tuple[str, str]] = _succeeded(report)
    broke_off = bool(report.error) and not report.failed_calls
    if broke_off:  # what it did not get to may fail still
        failed["", ""] = (report.error_kind or FailureKind.UNKNOWN, report.error)
    for node, log in db.execute("SELECT node, log FROM failures WHERE instance = ?", (report.instance,)):
        asked_for = not report.error or log in report.completed or (node == "" and not broke_off)
        if asked_for and log not in report.cached:  # of these nothing new is known
            over.add((node, log))
    # Whether the cloud makes new exports is judged last, which a cycle may not get to.
    unjudged = {kind.value for kind in report.judged} - {kind.value for kind in report.completed}
    db.executemany(
        "DELETE FROM failures WHERE instance = ? AND node = ? AND log = ? AND kind != ?",
        [
            (report.instance, node, log, FailureKind.SOURCE_STALLED if log in unjudged else "")
            for node, log in over - failed.keys()
        ],
    )
    now = ms_of(report.finished_at)
    db.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET kind = excluded.kind,"
        # What lies ahead of now was noted by a clock that was wrong.
        " since_ms = min(since_ms, excluded.since_ms),"
        " last_ms = excluded.last_ms, times = times + 1, last_error = excluded.last_error",
        [(report.instance, node, log, kind, now, now, reason) for (node, log), (kind, reason) in failed.items()],
    )


def write_habits(db: sqlite3.Connection, report: CycleReport) -> None:
    """Write how an instance's exports behave."""
    db.executemany(
        "INSERT OR REPLACE INTO exports (instance, log, asked, takes, fresh_until_ms, arrivals)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                report.instance,
                habit.log,
                habit.asked,
                json.dumps(habit.takes),
                ms_or_none(habit.fresh_until),
                json.dumps(
                    [
                        (one.node, one.file_name, ms_or_none(one.claimed_at), ms_of(one.seen_at))
                        for one in habit.arrivals
                    ]
                ),
            )
            for habit in report.habits
        ],
    )


def _succeeded(report: CycleReport) -> set[tuple[str, str]]:
    files = []
    for outcome in report.outcomes:
        match outcome:
            case Stored(snapshot=snapshot):
                files.append(snapshot.file)
            case Unchanged(file=file):
                files.append(file)
            case Superseded() | Failed():
                pass
    return {(file.node, file.log) for file in files}
