"""The ledger: what is on disk, how each cycle ended, and what fails since when. SQLite, in one thread of its own.

It is written after the data. One function is one transaction; the thread runs them one by one, so they never mix.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from ddslogd.errors import StorageError
from ddslogd.models import LogFile, LogKind, Snapshot
from ddslogd.storage import database, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddslogd.models import CycleReport, Node

T = TypeVar("T")

FILE_NAME = "ledger.sqlite3"
KEPT_CYCLES = 100  # of each instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What fails now.

    Attributes:
        node: Empty where the cycle fails as a whole, as ``log``.
        since: Aware, UTC, as ``last``.
    """

    instance: str
    node: str
    log: str
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

    async def open(self) -> bool:
        """Open the file, make it where it is missing, bring it up to this version.

        A damaged file is put aside under another name, and an empty one takes its place.

        Returns:
            False where the books are new: nothing they held before is known.

        Raises:
            ConfigError: A newer ddslogd wrote it.
            StorageError: The disk refuses.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        if self._db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
            self._db = None
        self._thread.shutdown()

    async def holds(self, key: str) -> bool:
        """Tell whether the file with this key is on disk."""

        def ask(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT 1 FROM snapshots WHERE key = ? AND published", (key,)).fetchone()
            return row is not None

        return await self._run(ask)

    async def same_as_last(self, snapshot: Snapshot) -> str | None:
        """Give the path of the node's last file where its bytes are the snapshot's; else None."""

        def ask(db: sqlite3.Connection) -> str | None:
            row = db.execute(
                "SELECT path, md5, size FROM snapshots WHERE series = ? AND published ORDER BY updated_ms DESC LIMIT 1",
                (layout.series(snapshot.key),),
            ).fetchone()
            return str(row[0]) if row and tuple(row[1:]) == (snapshot.md5, snapshot.size) else None

        return await self._run(ask)

    async def promise(self, snapshot: Snapshot) -> None:
        """Note that the snapshot's file is whole and about to get its name: should we die, the next start looks."""
        await self._run(lambda db: _write_snapshot(db, snapshot, published=False))

    async def enter(self, *snapshots: Snapshot) -> None:
        """Note that the snapshots' files are on disk, each at its path (an older file's, if the bytes are the same)."""

        def write(db: sqlite3.Connection) -> None:
            for snapshot in snapshots:
                _write_snapshot(db, snapshot, published=True)

        await self._run(write)

    async def promised(self) -> tuple[Snapshot, ...]:
        """Give what was about to be published when the last process ended."""

        def ask(db: sqlite3.Connection) -> tuple[Snapshot, ...]:
            return tuple(_read_snapshot(row) for row in db.execute("SELECT * FROM snapshots WHERE NOT published"))

        return await self._run(ask)

    async def forget(self, snapshot: Snapshot) -> None:
        """Take back a promise."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM snapshots WHERE key = ? AND NOT published", (snapshot.key,))

        await self._run(write)

    async def missing(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Give those of the keys that no entry speaks of."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            known = "SELECT 1 FROM snapshots WHERE key = ? AND published"
            return tuple(key for key in keys if db.execute(known, (key,)).fetchone() is None)

        return await self._run(ask)

    async def close_cycle(self, report: CycleReport, *, tick: datetime) -> datetime | None:
        """Note how a cycle ended, and what fails; what succeeded fails no more.

        Returns:
            Since when something of this instance fails; None where nothing does.
        """

        def write(db: sqlite3.Connection) -> datetime | None:
            _write_cycle(db, report, tick)
            _write_failures(db, report)
            since = db.execute("SELECT min(since_ms) FROM failures WHERE instance = ?", (report.instance,))
            (since_ms,) = since.fetchone()
            return None if since_ms is None else _moment(since_ms)

        return await self._run(write)

    async def last_ticks(self) -> dict[str, datetime]:
        """Give each instance's last tick that had its cycle."""

        def ask(db: sqlite3.Connection) -> dict[str, datetime]:
            # Not the latest tick: the clock may have been wrong, and is right again.
            newest = "SELECT max(id) FROM cycles GROUP BY instance"
            rows = db.execute(f"SELECT instance, tick_ms FROM cycles WHERE id IN ({newest})")  # noqa: S608  # a constant
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
                    log=row[2],
                    kind=row[3],
                    since=_moment(row[4]),
                    last=_moment(row[5]),
                    times=row[6],
                    last_error=row[7],
                )
                for row in rows
            )

        return await self._run(ask)

    async def enter_nodes(self, instance: str, nodes: Sequence[Node]) -> None:
        """Note which nodes an instance has, as the cloud lists them; those it has no more are forgotten."""
        rows = [(instance, node.id, node.name, node.group, node.role) for node in nodes]

        def write(db: sqlite3.Connection) -> None:
            known = db.execute("SELECT * FROM nodes WHERE instance = ?", (instance,)).fetchall()
            if sorted(known) != sorted(rows):
                db.execute("DELETE FROM nodes WHERE instance = ?", (instance,))
                db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", rows)

        await self._run(write)

    async def _run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, transaction)

    def _transact(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            self._open()
        try:
            with self._connection() as db:
                db.execute("BEGIN IMMEDIATE")
                return transaction(db)
        except sqlite3.Error as exc:
            raise StorageError(f"the ledger cannot be used ({exc}): {self._path}") from exc

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            msg = "the ledger is closed"
            raise ValueError(msg)
        return self._db

    def _open(self) -> bool:
        self._db, known = database.connect(self._path)
        return known


def _write_snapshot(db: sqlite3.Connection, snapshot: Snapshot, *, published: bool) -> None:
    file = snapshot.file
    row = (
        snapshot.key,
        snapshot.path,
        layout.series(snapshot.key),
        file.instance,
        file.log,
        file.node,
        file.file_name,
        _ms(file.updated_at),
        published,
        snapshot.size,
        snapshot.md5,
        snapshot.sha256,
        snapshot.etag,
        snapshot.verified,
        " ".join(snapshot.request_ids),
        snapshot.attempts,
        _ms(snapshot.began_at),
        _ms(snapshot.stored_at),
    )
    db.execute(f"INSERT OR REPLACE INTO snapshots VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in


def _read_snapshot(row: tuple[Any, ...]) -> Snapshot:
    key, path, _, instance, kind, node, file_name, updated_ms, _, size, md5, sha256, etag, verified, *rest = row
    request_ids, attempts, began_ms, stored_ms = rest
    return Snapshot(
        file=LogFile(
            instance=instance, log=LogKind(kind), node=node, file_name=file_name, updated_at=_moment(updated_ms)
        ),
        key=key,
        path=path,
        size=size,
        md5=md5,
        sha256=sha256,
        etag=etag,
        verified=bool(verified),
        began_at=_moment(began_ms),
        stored_at=_moment(stored_ms),
        attempts=attempts,
        request_ids=tuple(request_ids.split()),
    )


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
    failed: dict[tuple[str, str], tuple[str, str]] = {
        (failure.node, failure.log): (failure.kind, failure.reason) for failure in report.failures
    }
    if report.error:
        failed["", ""] = (report.error_kind, report.error)
    else:
        over = [
            (report.instance, node, kind)
            for node, kind in db.execute("SELECT node, log FROM failures WHERE instance = ?", (report.instance,))
            if (node, kind) not in failed
        ]
        db.executemany("DELETE FROM failures WHERE instance = ? AND node = ? AND log = ?", over)
    now = _ms(report.finished_at)
    db.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET kind = excluded.kind,"
        " last_ms = excluded.last_ms, times = times + 1, last_error = excluded.last_error",
        [(report.instance, node, log, kind, now, now, reason) for (node, log), (kind, reason) in failed.items()],
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
