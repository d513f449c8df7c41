from __future__ import annotations

import sqlite3
from contextlib import closing
from types import NoneType
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.gap_records import GapRow
from ddslogd.storage.ledger.integrity_check import types_of
from ddslogd.storage.ledger.snapshot_records import SnapshotRow
from ddslogd.storage.ledger.stream_records import StreamRow

if TYPE_CHECKING:
    from pathlib import Path

# As versions up to 10 wrote them, and as they are now.
KINDS = {
    "Unavailable": "unavailable",
    "Unreachable": "unreachable",
    "Throttled": "throttled",
    "CredentialsRefused": "credentials_refused",
    "NotAllowed": "not_allowed",
    "Gone": "gone",
    "Misdirected": "misdirected",
    "ForeignAnswer": "foreign_answer",
    "Oversized": "oversized",
    "Unsupported": "unsupported",
    "Rejected": "rejected",
    "UnknownFile": "unknown_file",
    "ExportPending": "export_pending",
    "LeftOut": "left_out",
    "SourceStalled": "source_stalled",
    "ExportFailed": "export_failed",
    "Interrupted": "interrupted",
    "TooSlow": "too_slow",
    "ObjectGone": "object_gone",
    "LinkRefused": "link_refused",
    "Changed": "changed",
    "Corrupt": "corrupt",
    "Unpublishable": "unpublishable",
    "StorageError": "storage_error",
    "LedgerDamaged": "ledger_damaged",
    "Bug": "bug",
    "NoRoom": "no_room",
    "Timeout": "timeout",
    "Forgotten": "unknown",  # of a development version
}


def older(path: Path) -> None:
    """Write a ledger of version 10, in which an instance fails with each kind."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for number, schema in enumerate(MIGRATIONS[:10], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        for number, kind in enumerate([*KINDS, ""]):
            cycle = (kind, number, number, number, "failed" if kind else "ok", "it broke" if kind else "", kind)
            db.execute(
                "INSERT INTO cycles (instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed,"
                " stored_bytes, fetched_bytes, error, error_kind) VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, 0, ?, ?)",
                cycle,
            )
            if kind:
                db.execute("INSERT INTO failures VALUES (?, 'n', 'error', ?, 1, 2, 3, 'it broke')", (kind, kind))


def test_the_kinds_of_failures_of_an_older_ledger_are_taken_over(tmp_path: Path) -> None:
    """One that nobody knows is not lost: its old word is with the error."""
    path = tmp_path / "ledger.sqlite3"
    older(path)

    db, known = database.connect(path)
    with closing(db):
        cycles = {old: (new, error) for old, new, error in db.execute("SELECT instance, error_kind, error FROM cycles")}
        failing = {old: one for old, (one,) in status_queries.books(db).failures.items()}

    broke = {old: "it broke (Forgotten)" if old == "Forgotten" else "it broke" for old in KINDS}
    assert known
    assert cycles == {old: (new, broke[old]) for old, new in KINDS.items()} | {"": ("", "")}
    assert {old: (one.kind.value, one.reason) for old, one in failing.items()} == {
        old: (new, broke[old]) for old, new in KINDS.items()
    }
    assert {(one.since.timestamp(), one.last.timestamp(), one.times) for one in failing.values()} == {(0.001, 0.002, 3)}


@pytest.mark.parametrize(("table", "row"), [("snapshots", SnapshotRow), ("streams", StreamRow), ("gaps", GapRow)])
def test_a_row_has_the_names_and_types_of_its_tables_columns(table: str, row: Any) -> None:
    """They are read in the table's order, which each start checks, and named by this class."""
    of_sqlite: dict[str, type] = {"TEXT": str, "INTEGER": int, "BLOB": bytes}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for schema in MIGRATIONS:
            db.executescript(schema)
        columns = db.execute('SELECT name, type, "notnull" OR pk FROM pragma_table_info(?)', (table,)).fetchall()

    assert list(row._fields) == [name for name, *_ in columns]
    assert list(types_of(row)) == [
        of_sqlite[kind] if always else (of_sqlite[kind], NoneType) for _, kind, always in columns
    ]
