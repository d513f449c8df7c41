"""The ledger: what is on disk, how each cycle ended, and what fails since when. SQLite, in one thread of its own.

It is written after the data. One function is one transaction; the thread runs them one by one, so they never mix.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from ddslogd.errors import Complaint, ConfigError, StorageError
from ddslogd.storage import layout
from ddslogd.storage.part import disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddslogd.models import CycleReport, Snapshot

T = TypeVar("T")

FILE_NAME = "ledger.sqlite3"
MIGRATIONS = (
    """
    CREATE TABLE snapshots (
        key        TEXT PRIMARY KEY,        -- the path that belongs to instance, node, file name and update time
        path       TEXT NOT NULL,           -- where the bytes are; another's where they were the same
        instance   TEXT NOT NULL,
        node       TEXT NOT NULL,
        file_name  TEXT NOT NULL,
        updated_ms INTEGER NOT NULL,        -- all times: epoch milliseconds, UTC
        size       INTEGER NOT NULL,        -- bytes
        md5        TEXT NOT NULL,
        etag       TEXT NOT NULL,
        verified   INTEGER NOT NULL,        -- 1: length or ETag proved it whole
        request_id TEXT NOT NULL,
        attempts   INTEGER NOT NULL,
        stored_ms  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshots_of_node ON snapshots (instance, node, updated_ms);
    CREATE TABLE cycles (
        id            INTEGER PRIMARY KEY,
        instance      TEXT NOT NULL,
        tick_ms       INTEGER NOT NULL,     -- the tick it belongs to
        started_ms    INTEGER NOT NULL,
        finished_ms   INTEGER NOT NULL,
        outcome       TEXT NOT NULL,
        stored        INTEGER NOT NULL,
        unchanged     INTEGER NOT NULL,
        failed        INTEGER NOT NULL,
        stored_bytes  INTEGER NOT NULL,
        fetched_bytes INTEGER NOT NULL,
        error         TEXT NOT NULL
    ) STRICT;
    CREATE INDEX cycles_of_instance ON cycles (instance, tick_ms);
    CREATE TABLE failures (                 -- what fails now; a success removes it
        instance   TEXT NOT NULL,
        node       TEXT NOT NULL,           -- empty: the cycle as a whole
        kind       TEXT NOT NULL,
        since_ms   INTEGER NOT NULL,
        last_ms    INTEGER NOT NULL,
        times      INTEGER NOT NULL,
        last_error TEXT NOT NULL,
        PRIMARY KEY (instance, node)
    ) STRICT, WITHOUT ROWID;
    """,
)
VERSION = len(MIGRATIONS)
KEPT_CYCLES = 100  # of each instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What fails now.

    Attributes:
        node: Empty where the cycle fails as a whole.
        since: Aware, UTC, as ``last``.
    """

    instance: str
    node: str
    kind: str
    since: datetime
    last: datetime
    times: int
    last_error: str


class Ledger:
    """The books of one storage directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, make it where it is missing, bring it up to this version.

        Raises:
            ConfigError: A newer ddslogd wrote it.
            StorageError: The disk refuses, or the file is damaged.
        """
        await self._run(lambda _: None)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        if self._db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
            self._db = None
        self._thread.shutdown()

    async def holds(self, key: str) -> bool:
        """Tell whether the file with this key is on disk."""

        def ask(db: sqlite3.Connection) -> bool:
            return db.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone() is not None

        return await self._run(ask)

    async def same_as_last(self, snapshot: Snapshot) -> str | None:
        """Give the path of the node's last file where its bytes are the snapshot's; else None."""

        def ask(db: sqlite3.Connection) -> str | None:
            row = db.execute(
                "SELECT path, md5, size FROM snapshots WHERE instance = ? AND node = ?"
                " ORDER BY updated_ms DESC LIMIT 1",
                (snapshot.file.instance, snapshot.file.node),
            ).fetchone()
            return str(row[0]) if row and tuple(row[1:]) == (snapshot.md5, snapshot.size) else None

        return await self._run(ask)

    async def enter(self, snapshot: Snapshot) -> None:
        """Note that the snapshot's file is on disk, at its path: that of an older file, if the bytes are the same."""
        file = snapshot.file
        row = (
            layout.key(file),
            snapshot.path,
            file.instance,
            file.node,
            file.file_name,
            _ms(file.updated_at),
            snapshot.size,
            snapshot.md5,
            snapshot.etag,
            snapshot.verified,
            snapshot.request_id,
            snapshot.attempts,
            _ms(snapshot.stored_at),
        )

        def write(db: sqlite3.Connection) -> None:
            db.execute(f"INSERT OR REPLACE INTO snapshots VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in

        await self._run(write)

    async def close_cycle(self, report: CycleReport, *, tick: datetime) -> None:
        """Note how a cycle ended, and what fails since when; what succeeded fails no more."""

        def write(db: sqlite3.Connection) -> None:
            _write_cycle(db, report, tick)
            _write_failures(db, report)

        await self._run(write)

    async def last_ticks(self) -> dict[str, datetime]:
        """Give each instance's last tick that had its cycle."""

        def ask(db: sqlite3.Connection) -> dict[str, datetime]:
            rows = db.execute("SELECT instance, max(tick_ms) FROM cycles GROUP BY instance")
            return {instance: _moment(tick_ms) for instance, tick_ms in rows}

        return await self._run(ask)

    async def last_successes(self) -> dict[str, datetime]:
        """Give when each instance's last cycle without any failure ended."""

        def ask(db: sqlite3.Connection) -> dict[str, datetime]:
            rows = db.execute(
                "SELECT instance, max(finished_ms) FROM cycles WHERE outcome IN ('ok', 'nothing') GROUP BY instance"
            )
            return {instance: _moment(finished_ms) for instance, finished_ms in rows}

        return await self._run(ask)

    async def failures(self, instance: str | None = None) -> tuple[Failure, ...]:
        """Give what fails now, of one instance or of all."""

        def ask(db: sqlite3.Connection) -> tuple[Failure, ...]:
            rows = db.execute(
                "SELECT * FROM failures WHERE ? IS NULL OR instance = ? ORDER BY instance, node", (instance, instance)
            )
            return tuple(
                Failure(
                    instance=row[0],
                    node=row[1],
                    kind=row[2],
                    since=_moment(row[3]),
                    last=_moment(row[4]),
                    times=row[5],
                    last_error=row[6],
                )
                for row in rows
            )

        return await self._run(ask)

    async def _run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, transaction)

    def _transact(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._db is None:
                self._db = _connect(self._path)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                return transaction(self._db)
        except sqlite3.Error as exc:
            raise StorageError(f"the ledger cannot be used ({exc}): {self._path}") from exc


def _connect(path: Path) -> sqlite3.Connection:
    with disk(path.parent):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o640)
        db.execute("PRAGMA journal_mode = WAL")
        # In WAL mode NORMAL loses no consistency, only the last moments before a power cut; the files tell them again.
        db.execute("PRAGMA synchronous = NORMAL")
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        text = f"a newer ddslogd wrote this ledger (version {version}, this one knows {VERSION}): install that one"
        raise ConfigError(path, [Complaint(line=0, column=0, path="storage.state", text=text)])
    for number in range(version, VERSION):
        db.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")


def _write_cycle(db: sqlite3.Connection, report: CycleReport, tick: datetime) -> None:
    db.execute(
        "INSERT INTO cycles (instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed,"
        " stored_bytes, fetched_bytes, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            report.instance,
            _ms(tick),
            _ms(report.started_at),
            _ms(report.finished_at),
            report.outcome,
            report.stored,
            report.unchanged,
            len(report.failures),
            report.stored_bytes,
            report.fetched_bytes,
            report.error,
        ),
    )
    db.execute(
        "DELETE FROM cycles WHERE instance = ? AND id <= (SELECT id FROM cycles WHERE instance = ? ORDER BY id DESC"
        " LIMIT 1 OFFSET ?)",
        (report.instance, report.instance, KEPT_CYCLES),
    )


def _write_failures(db: sqlite3.Connection, report: CycleReport) -> None:
    failed = {failure.node: (failure.kind, failure.reason) for failure in report.failures}
    if report.error:
        failed[""] = (report.error_kind, report.error)
    else:
        marks = ", ".join("?" * len(failed))
        db.execute(
            f"DELETE FROM failures WHERE instance = ? AND node NOT IN ({marks})",  # noqa: S608  # only question marks
            (report.instance, *failed),
        )
    now = _ms(report.finished_at)
    db.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET kind = excluded.kind,"
        " last_ms = excluded.last_ms, times = times + 1, last_error = excluded.last_error",
        [(report.instance, node, kind, now, now, reason) for node, (kind, reason) in failed.items()],
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
