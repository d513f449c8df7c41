"""What the ledger holds, in numbers and as it stands, for who looks at it from outside. Reads only."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ddslogd.model.errors import StorageError
from ddslogd.model.units import iso_time
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.integrity_check import UNREADABLE
from ddslogd.storage.ledger.snapshot_records import FILE_NAME

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

WEEK: Final = timedelta(days=7)
_MOST_ROWS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much comes.

    Attributes:
        snapshots: Bytes a day, over the last week or since the first; 0 where nothing is known yet.
        streams: The same.
        held_snapshots: Bytes that are on disk.
        held_streams: The same.
    """

    snapshots: float
    streams: float
    held_snapshots: int
    held_streams: int


def growth(state: Path, now: datetime) -> Growth:
    """Look how much comes a day.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: It cannot be read.
    """
    since = database.ms_of(now - WEEK)
    with database.reading(state / FILE_NAME) as db:
        (first,) = db.execute("SELECT min(stored_ms) FROM snapshots WHERE published").fetchone()
        (snapshots,) = db.execute(
            "SELECT coalesce(sum(size), 0) FROM snapshots WHERE published AND path = key AND stored_ms >= ?", (since,)
        ).fetchone()
        (held,) = db.execute("SELECT coalesce(sum(size), 0) FROM snapshots WHERE published AND present").fetchone()
        (live,) = db.execute("SELECT coalesce(sum(size), 0) FROM streams").fetchone()
        (rotated, recent) = db.execute(
            "SELECT coalesce(sum(size), 0), coalesce(sum(CASE WHEN rotated_ms >= ? THEN size END), 0)"
            " FROM stream_parts",
            (since,),
        ).fetchone()
    days = 0.0 if first is None else min(WEEK, now - database.moment_of(first)) / timedelta(days=1)
    days = max(days, 1.0)  # of the first hours nothing can be told for days
    return Growth(
        snapshots=snapshots / days,
        streams=(live + recent) / days,
        held_snapshots=held,
        held_streams=live + rotated,
    )


def nodes_known(state: Path) -> set[str]:
    """Return the names of instances and nodes, and the ids of nodes, that the ledger holds; nothing where it cannot."""
    queries = (
        "SELECT instance, node FROM snapshots GROUP BY 1, 2",
        "SELECT instance, node FROM failures",
        "SELECT instance, name FROM nodes",
        "SELECT instance, node FROM node_states",
        "SELECT instance, value FROM offered, json_each(nodes)",
        "SELECT id, name FROM names",
        "SELECT id, id FROM nodes",
        "SELECT instance, instance FROM cycles GROUP BY 1",
        "SELECT name, called FROM node_names",
        "SELECT id, coalesce(json_extract(nullif(facts, ''), '$[0]'), '') FROM discovered",
    )
    found: set[object] = set()
    with suppress(*UNREADABLE), closing(database.read_only(state / FILE_NAME)) as db:
        for query in queries:
            with suppress(sqlite3.OperationalError):  # an older version has no such table
                found.update(text for row in db.execute(query) for text in row)
    return {text for text in found if isinstance(text, str) and text}


def contents(state: Path) -> dict[str, Any]:
    """Return schema, counts and size, of a ledger of any version.

    Raises:
        StorageError: There is none, or it cannot be read.
    """
    path = state / FILE_NAME
    try:
        with closing(database.read_only(state / FILE_NAME)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
            counts = {table: db.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}  # noqa: S608  # names of the schema itself
            schema = [row[0] for row in db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")]
            (checked,) = db.execute("PRAGMA quick_check(1)").fetchone() if path.stat().st_size < _CHECKED else ("",)
    except (*UNREADABLE, OSError) as exc:
        raise StorageError(f"the ledger cannot be read ({exc}): {path}") from exc
    return {
        "version": version,
        "known_version": database.VERSION,
        "size": path.stat().st_size,
        "quick_check": checked or "not done: the file is large",
        "rows": counts,
        "schema": schema,
    }


_CHECKED: Final = database.ALWAYS_CHECKED


def troubles(state: Path) -> dict[str, Any]:
    """Return what fails now, the last cycles that did not end well, and the last gaps.

    Raises:
        StorageError: There is no ledger, or it cannot be read.
    """
    queries = {
        "failures": "SELECT * FROM failures ORDER BY last_ms DESC",
        "cycles": "SELECT * FROM cycles WHERE outcome NOT IN ('ok', 'nothing', 'cached') ORDER BY id DESC",
        "gaps": "SELECT * FROM gaps ORDER BY noted_ms DESC",
    }
    return _rows(state, queries)


def _rows(state: Path, queries: dict[str, str]) -> dict[str, Any]:
    try:
        with closing(database.read_only(state / FILE_NAME)) as db:
            db.row_factory = sqlite3.Row
            return {
                name: [
                    {key: _told(key, row[key]) for key in row.keys()}  # noqa: SIM118  # a row is no mapping
                    for row in db.execute(f"{query} LIMIT {_MOST_ROWS}")
                ]
                for name, query in queries.items()
            }
    except UNREADABLE as exc:
        raise StorageError(f"the ledger cannot be read ({exc}): {state / FILE_NAME}") from exc


def _told(key: str, value: Any) -> Any:
    """Spell a moment."""
    if key.endswith("_ms") and isinstance(value, int):
        return iso_time(database.moment_of(value))
    return value
