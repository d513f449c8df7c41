"""What the ledger holds of gaps: which lines are missing where, since when, and how many were ever noted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ddslogd.model.instance import LogKind
from ddslogd.model.stream import Gap, GapCause
from ddslogd.storage.ledger.database import log_moment, log_ms, moment_of, moment_or_none, ms_of
from ddslogd.storage.ledger.integrity_check import row_reader, typed, types_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from datetime import datetime

NOT_OVER = ""
"""In place of a path: the log has not gone on since."""
MERGED = "*"
"""In place of a path: what stands for several gaps, of one cause and one stream."""
MOST_GAPS = 1000  # of an instance, one by one: a log that overflows at each export has as many in two weeks
MERGED_AT_ONCE = 1000  # in one transaction: some 20 milliseconds

# What may be merged, oldest first: not what is not over, nor what may yet be taken back.
MERGE = (
    "WITH oldest AS (SELECT * FROM gaps WHERE instance = :instance AND path NOT IN ('', '*') AND counted"
    " ORDER BY noted_ms, series, path, cause LIMIT :number)"
    " INSERT INTO gaps (series, path, instance, log, node, after_ms, until_ms, cause, noted_ms, cut, number,"
    " first_noted_ms) SELECT series, '*', instance, log, node, min(after_ms), max(until_ms), cause, max(noted_ms), 0,"
    " sum(number), min(coalesce(first_noted_ms, noted_ms)) FROM oldest WHERE true GROUP BY series, cause"
    " ON CONFLICT DO UPDATE SET number = number + excluded.number,"
    " after_ms = min(coalesce(after_ms, excluded.after_ms), coalesce(excluded.after_ms, after_ms)),"
    " until_ms = max(coalesce(until_ms, excluded.until_ms), coalesce(excluded.until_ms, until_ms)),"
    " noted_ms = max(noted_ms, excluded.noted_ms), first_noted_ms = min(first_noted_ms, excluded.first_noted_ms)"
)
DROP_MERGED = (
    "DELETE FROM gaps WHERE (series, path, cause) IN (SELECT series, path, cause FROM gaps WHERE instance = :instance"
    " AND path NOT IN ('', '*') AND counted ORDER BY noted_ms, series, path, cause LIMIT :number)"
)


class GapRow(NamedTuple):
    """A row of the table ``gaps``, by the names of its columns."""

    series: str
    path: str
    instance: str
    log: str
    node: str
    after_ms: int | None
    until_ms: int | None
    cause: str
    noted_ms: int
    cut: int
    number: int
    first_noted_ms: int | None
    counted: int


_GAP = types_of(GapRow)


def gaps(db: sqlite3.Connection, *, since: datetime | None = None, instances: Sequence[str] = ()) -> tuple[Gap, ...]:
    """Return the gaps that were noted, or that the log went on after, since a moment; of some instances or of all."""
    rows = db.execute(
        "SELECT * FROM gaps WHERE max(noted_ms, coalesce(until_ms, 0)) >= ?"
        " AND (? OR instance IN (SELECT value FROM json_each(?))) ORDER BY noted_ms, series, path",
        (ms_of(since) if since else 0, not instances, json.dumps(list(instances))),
    )
    return tuple(read_gap(row) for row in rows)


def end_gap_of_absence(db: sqlite3.Connection, series: str) -> None:
    """Remove a gap that is not over once an export was taken since: whether lines are missing is known by that one."""
    db.execute(
        "DELETE FROM gaps WHERE series = ? AND path = ? AND noted_ms <"
        " (SELECT max(updated_ms) FROM snapshots AS s WHERE s.series = gaps.series AND published AND taken)",
        (series, NOT_OVER),
    )


def write_gap(db: sqlite3.Connection, series: str, gap: Gap) -> bool:
    """Record a gap; return whether it was not known."""
    is_certain = gap.cause is not GapCause.EVICTED_UNSHIPPED  # else its file is yet to go; see forget_files
    row = (
        series,
        gap.path,
        gap.instance,
        gap.log,
        gap.node,
        log_ms(gap.after),
        log_ms(gap.until),
        gap.cause,
        ms_of(gap.noted_at),
        gap.cut,
        is_certain,
    )
    query = (
        "INSERT OR IGNORE INTO gaps (series, path, instance, log, node, after_ms, until_ms, cause, noted_ms, cut,"
        " counted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    is_new = db.execute(query, row).rowcount > 0
    if is_new and is_certain:
        count_gaps(db, [(gap.instance,)])
    if is_new:
        merge_oldest(db, instance=gap.instance)
    return is_new


def count_gaps(db: sqlite3.Connection, instances: Iterable[tuple[str]]) -> None:
    """Count a gap of each of some instances: what was counted once stays counted, whatever becomes of its row."""
    query = "INSERT INTO gap_totals VALUES (?, 1) ON CONFLICT DO UPDATE SET total = total + 1"
    db.executemany(query, list(instances))


def next_with_gaps(db: sqlite3.Connection, *, after: str) -> str | None:
    """Return the next instance that has gaps, by its name; None behind the last."""
    (instance,) = db.execute("SELECT min(instance) FROM gaps WHERE instance > ?", (after,)).fetchone()
    return None if instance is None else str(instance)


def merge_oldest(db: sqlite3.Connection, *, instance: str) -> bool:
    """Merge an instance's oldest gaps where it has too many; return whether there may be more to merge."""
    query = "SELECT count(*) FROM (SELECT 1 FROM gaps WHERE instance = ? AND path != '*' LIMIT ?)"
    (number,) = db.execute(query, (instance, MOST_GAPS + MERGED_AT_ONCE)).fetchone()
    if number <= MOST_GAPS:
        return False
    asked = {"instance": instance, "number": number - MOST_GAPS}
    db.execute(MERGE, asked)
    return db.execute(DROP_MERGED, asked).rowcount == MERGED_AT_ONCE


@row_reader
def read_gap(row: tuple[Any, ...]) -> Gap:
    """Make a gap of a row of the ledger's table."""
    found = GapRow._make(typed(row, *_GAP))
    return Gap(
        instance=found.instance,
        log=LogKind(found.log),
        node=found.node,
        after=log_moment(found.after_ms),
        until=log_moment(found.until_ms),
        cause=GapCause(found.cause),
        noted_at=moment_of(found.noted_ms),
        cut=bool(found.cut),
        path=found.path,
        number=found.number,
        first_noted_at=moment_or_none(found.first_noted_ms),
    )
