"""The ledger: what is on disk, how each cycle ended, and what fails since when. SQLite, in one thread of its own.

It is written after the data. One function is one transaction; the thread runs them one by one, so they never mix.
Those that wait at the same time are made durable together.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddslogd.errors import Complaint, ConfigError, StorageError
from ddslogd.grouped import Grouped
from ddslogd.models import Failed, Habit, LogFile, LogKind, Snapshot, Stored, Superseded, Unchanged
from ddslogd.storage import database, layout, standing
from ddslogd.storage.database import moment_of, moment_or_none, ms_of, ms_or_none
from ddslogd.storage.filesystem import disk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ddslogd.models import CycleReport, Node

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], Any]

GROUP = 64  # transactions that are made durable together
FILE_NAME = "ledger.sqlite3"
KEPT_CYCLES = 100  # of each instance
# An export is served for minutes, so nothing asks for older entries, but for those whose files are there still.
KEPT_DAYS = 30
DROP_OLD = (  # by both times: what is as old by its name is not adopted again, see recovery
    "DELETE FROM snapshots WHERE instance = ? AND stored_ms < ? AND updated_ms < ? AND published AND NOT present"
    " AND updated_ms <"
    " (SELECT max(updated_ms) FROM snapshots AS newer WHERE newer.series = snapshots.series AND newer.published)"
)

# Not the latest tick: the clock may have been wrong, and is right again. Of a million cycles only the newest are read.
LAST_TICKS = (
    "SELECT instance, CASE WHEN outcome != 'cached' THEN tick_ms ELSE (SELECT tick_ms FROM cycles AS asked"
    " WHERE asked.instance = cycles.instance AND asked.outcome != 'cached' ORDER BY id DESC LIMIT 1) END"
    " FROM cycles WHERE id IN (SELECT max(id) FROM cycles GROUP BY instance)"
)

# One statement for both: each hands Python's lock over several times. Where a key is held its series has a newest one.
KNOWN = (
    "SELECT EXISTS (SELECT 1 FROM snapshots WHERE key = ? AND published), * FROM snapshots"
    " WHERE series = ? AND published ORDER BY updated_ms DESC LIMIT 1"
)

# The same bytes in a neighbour. Most exports come in order; a late one has two neighbours.
SAME_BESIDE = (
    "SELECT path FROM (SELECT path, md5, size FROM snapshots WHERE series = :series AND published"
    " AND updated_ms <= :updated_ms ORDER BY updated_ms DESC LIMIT 1) WHERE md5 = :md5 AND size = :size"
    " UNION ALL"
    " SELECT path FROM (SELECT path, md5, size FROM snapshots WHERE series = :series AND published"
    " AND updated_ms > :updated_ms ORDER BY updated_ms LIMIT 1) WHERE md5 = :md5 AND size = :size"
)

# What is known of a snapshot only once its file has its name; all else stands in the promise.
KEEP_PROMISE = (
    "UPDATE snapshots SET published = 1, first_ms = ?, last_ms = ?"
    " WHERE key = ? AND NOT published AND (path, size, md5, stored_ms) = (?, ?, ?, ?)"
)

# Of each entry whether its file is there; null where it has none of its own, or is a promise that a cycle is keeping.
OF_DIRECTORY = (
    "SELECT key, CASE WHEN published AND path = key THEN present END FROM snapshots WHERE series >= ? AND series < ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a file that is offered.

    Attributes:
        held: Whether it is on disk.
        newest: Where it is not: the newest published snapshot of its series; None where there is none.
    """

    held: bool
    newest: Snapshot | None


class Ledger:
    """The books of one storage directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._grouped: Grouped[Transaction, Any] = Grouped(self._transact, thread=self._thread, most=GROUP)
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
            await self.run(lambda _: None)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
            self._db = None
        self._thread.shutdown()

    async def belong_to(self, directory: Path) -> None:
        """Tie the books to a storage directory; each has its own.

        They follow files that were moved: where the directory they belonged to holds no snapshots any more.

        Raises:
            ConfigError: They belong to another directory.
            StorageError: The disk does not say.
        """

        def tie(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT value FROM meta WHERE key = 'directory'").fetchone()
            if row and db.execute("SELECT 1 FROM snapshots").fetchone():
                _refuse_another(self.path, before=Path(row[0]), now=directory)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('directory', ?)", (str(directory),))

        await self.run(tie)

    async def known(self, key: str) -> Known:
        """Give what is known of a file that is offered, by its key."""

        def ask(db: sqlite3.Connection) -> Known:
            held, *row = db.execute(KNOWN, (key, layout.series(key))).fetchone() or (False,)
            return Known(held=bool(held), newest=read_snapshot(tuple(row)) if row and not held else None)

        return await self.run(ask)

    async def promise(self, snapshot: Snapshot, *, even_if_same: bool = False) -> str | None:
        """Note that the snapshot's file is whole and about to get its name: should we die, the next start looks.

        Nothing is noted where the node's file before or after it has the same bytes, by their MD5: that one will do.

        Args:
            snapshot: About to be published.
            even_if_same: Note it all the same.

        Returns:
            The path of that other file; None where the promise is noted.
        """

        def write(db: sqlite3.Connection) -> str | None:
            same = None if even_if_same or not snapshot.md5 else _same_beside(db, snapshot)
            if same is None:
                _write_snapshot(db, snapshot, published=False)
            return same

        return await self.run(write)

    async def same_beside(self, snapshot: Snapshot) -> str | None:
        """Give the path of the node's file before or after a snapshot whose bytes are the same; else None."""
        return await self.run(lambda db: _same_beside(db, snapshot))

    async def enter(self, *snapshots: Snapshot) -> None:
        """Note that the snapshots' files are on disk, each at its path (an older file's, if the bytes are the same)."""

        def write(db: sqlite3.Connection) -> None:
            for snapshot in snapshots:
                if not _keep_promise(db, snapshot):
                    _write_snapshot(db, snapshot, published=True)

        await self.run(write)

    async def adopt(self, *snapshots: Snapshot) -> None:
        """Enter files that were on disk before; streams that are known to have come further do not take them again."""
        passed = (
            "UPDATE snapshots SET taken = 1 WHERE key = ? AND updated_ms <="
            " (SELECT reference_ms FROM streams WHERE streams.series = snapshots.series)"
        )

        def write(db: sqlite3.Connection) -> None:
            for snapshot in snapshots:
                if db.execute("SELECT 1 FROM snapshots WHERE key = ?", (snapshot.key,)).fetchone() is None:
                    _write_snapshot(db, snapshot, published=True)
                    db.execute(passed, (snapshot.key,))

        await self.run(write)

    async def promised(self) -> tuple[Snapshot, ...]:
        """Give what was about to be published when the last process ended."""

        def ask(db: sqlite3.Connection) -> tuple[Snapshot, ...]:
            return tuple(read_snapshot(row) for row in db.execute("SELECT * FROM snapshots WHERE published = 0"))

        return await self.run(ask)

    async def forget(self, snapshot: Snapshot) -> None:
        """Take back a promise."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM snapshots WHERE key = ? AND NOT published", (snapshot.key,))

        await self.run(write)

    async def directories(self) -> tuple[str, ...]:
        """Give the directories of the instances that have entries, relative to the storage directory."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            found: list[str] = []
            after = ""
            while True:  # from one to the next by the index: there may be a hundred entries of each
                (series,) = db.execute("SELECT min(series) FROM snapshots WHERE series >= ?", (after,)).fetchone()
                if series is None:
                    return tuple(found)
                found.append(series.rsplit("/", 2)[0])
                after = _behind(found[-1])

        return await self.run(ask)

    async def reconcile(self, found: Mapping[str, Sequence[str]], *, is_there: Callable[[str], bool]) -> list[str]:
        """Note which entries of some instances' directories still have a file of their own.

        Args:
            found: By directory: the keys of the files that were seen there.
            is_there: Looks again at one that entry and ``found`` disagree on: files may have come and gone meanwhile.

        Returns:
            The keys of files that no entry speaks of.
        """

        def write(db: sqlite3.Connection) -> list[str]:
            missing = []
            for directory, keys in found.items():
                files, rows = set(keys), dict(db.execute(OF_DIRECTORY, (f"{directory}/", _behind(directory))))
                wrong = [key for key, present in rows.items() if present is not None and (key in files) != present]
                db.executemany(
                    "UPDATE snapshots SET present = ? WHERE key = ?", [(is_there(key), key) for key in wrong]
                )
                missing += [key for key in keys if key not in rows and is_there(key)]
            return missing

        return await self.run(write)

    async def close_cycle(self, report: CycleReport, *, tick: datetime) -> datetime | None:
        """Note how a cycle ended, what fails, and what was learned; what succeeded fails no more.

        Returns:
            Since when something of this instance fails; None where nothing does.
        """

        def write(db: sqlite3.Connection) -> datetime | None:
            _write_cycle(db, report, tick)
            _write_failures(db, report)
            _write_habits(db, report)
            _drop_old_snapshots(db, report)
            since = db.execute("SELECT min(since_ms) FROM failures WHERE instance = ?", (report.instance,))
            (since_ms,) = since.fetchone()
            return moment_or_none(since_ms)

        return await self.run(write)

    async def last_ticks(self) -> dict[str, datetime]:
        """Give each instance's last tick that had its cycle; a cached one was none: it was put off."""

        def ask(db: sqlite3.Connection) -> dict[str, datetime]:
            return {instance: moment_of(tick_ms) for instance, tick_ms in db.execute(LAST_TICKS) if tick_ms is not None}

        return await self.run(ask)

    async def habits(self) -> dict[tuple[str, LogKind], Habit]:
        """Give what is known of each instance's exports, by its name and the kind of log."""

        def ask(db: sqlite3.Connection) -> dict[tuple[str, LogKind], Habit]:
            rows = db.execute("SELECT instance, log, asked, takes, fresh_until_ms FROM exports")
            return {
                (instance, LogKind(log)): Habit(
                    log=LogKind(log),
                    asked=asked,
                    takes=tuple(json.loads(takes)),
                    fresh_until=moment_or_none(fresh_until_ms),
                )
                for instance, log, asked, takes, fresh_until_ms in rows
            }

        return await self.run(ask)

    async def forget_instances(self, known: set[str]) -> None:
        """Forget what failed, which nodes there were, how exports went and it stood, of all instances but these."""
        tables = ("failures", "nodes", "exports", "standings")
        everywhere = " UNION ".join(f"SELECT instance FROM {table}" for table in tables)  # noqa: S608  # constants

        def write(db: sqlite3.Connection) -> None:
            others = [(instance,) for (instance,) in db.execute(everywhere).fetchall() if instance not in known]
            for table in tables:
                db.executemany(f"DELETE FROM {table} WHERE instance = ?", others)  # noqa: S608  # constants

        await self.run(write)

    async def enter_nodes(self, nodes: Mapping[str, Sequence[Node]]) -> None:
        """Note which nodes some instances have, as the cloud lists them; those they have no more are forgotten."""

        def write(db: sqlite3.Connection) -> None:
            for instance, listed in nodes.items():
                rows = [(instance, node.id, node.name, node.group, node.role) for node in listed]
                known = db.execute("SELECT * FROM nodes WHERE instance = ?", (instance,)).fetchall()
                if sorted(known) != sorted(rows):
                    db.execute("DELETE FROM nodes WHERE instance = ?", (instance,))
                    db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", rows)

        await self.run(write)

    async def names(self) -> dict[tuple[str, str], str]:
        """Give the names that discovered instances were given, by cloud and id."""

        def ask(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
            return {(cloud, id_): name for cloud, id_, name in db.execute("SELECT cloud, id, name FROM names")}

        return await self.run(ask)

    async def enter_names(self, names: Mapping[tuple[str, str], str]) -> None:
        """Note the names that discovered instances are given, by cloud and id."""

        def write(db: sqlite3.Connection) -> None:
            rows = [(cloud, id_, name) for (cloud, id_), name in names.items()]
            db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)

        await self.run(write)

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        """Run a transaction in the ledger's thread, after all that were handed in before.

        It may be run twice, the first time without effect: what waits at the same time is made durable together, and
        each by itself where one of them fails.

        Raises:
            StorageError: The file cannot be used; nothing of the transaction counts.
        """
        result: T = await self._grouped(transaction)
        return result

    def _transact(self, group: Sequence[Transaction]) -> Sequence[Any]:
        try:
            return self._commit(group)
        except Exception:
            if len(group) == 1:
                raise
            return [self._alone(transaction) for transaction in group]

    def _alone(self, transaction: Transaction) -> Any:
        try:
            return self._commit([transaction])[0]
        except Exception as exc:  # noqa: BLE001  # a bug, too, is told to whose transaction it is, and undoes no other
            return exc

    def _commit(self, group: Sequence[Transaction]) -> list[Any]:
        if self._db is None:
            self._open()
        try:
            return self._committed(group)
        except StorageError as exc:
            damage = exc.__cause__
            if not (isinstance(damage, sqlite3.Error) and database.is_damage(damage)):
                raise
        db, self._db = self._connection(), None
        self._db = database.replace(db, self.path, damage)
        return self._committed(group)

    def _committed(self, group: Sequence[Transaction]) -> list[Any]:
        try:
            with self._connection() as db:
                db.execute("BEGIN IMMEDIATE")
                return [transaction(db) for transaction in group]
        except sqlite3.Error as exc:
            raise StorageError(f"the ledger cannot be used ({exc}): {self.path}") from exc

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            msg = "the ledger is closed"
            raise ValueError(msg)
        return self._db

    def _open(self) -> bool:
        self._db, known = database.connect(self.path)
        return known


def _behind(directory: str) -> str:
    """Give what sorts behind everything in a directory: a slash is followed by a zero."""
    return f"{directory}0"


def _refuse_another(ledger: Path, *, before: Path, now: Path) -> None:
    with disk(before):
        other = before.resolve() != now.resolve() and (before / layout.SNAPSHOTS).is_dir()
    if other:
        text = (
            f"this ledger belongs to the storage.directory {before}, which still holds snapshots, not to {now}: set"
            f" storage.directory back, or move the snapshots there, or give {now} a storage.state of its own"
        )
        raise ConfigError(ledger, [Complaint(line=0, column=0, path="", text=text)])


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
        ms_of(file.updated_at),
        published,
        snapshot.size,
        snapshot.md5,
        snapshot.sha256,
        snapshot.etag,
        snapshot.verified,
        " ".join(snapshot.request_ids),
        snapshot.attempts,
        ms_of(snapshot.began_at),
        ms_of(snapshot.stored_at),
        ms_or_none(snapshot.first_at),
        ms_or_none(snapshot.last_at),
        own := snapshot.path == snapshot.key,
        not own,
        snapshot.delta,
        snapshot.fetched,
    )
    db.execute(f"INSERT OR REPLACE INTO snapshots VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in


def read_snapshot(row: tuple[Any, ...]) -> Snapshot:
    """Make a snapshot of a row of the ledger's table."""
    key, path, _, instance, kind, node, file_name, updated_ms, _, size, md5, sha256, etag, verified, *rest = row
    request_ids, attempts, began_ms, stored_ms, first_ms, last_ms, _, _, delta, fetched = rest
    return Snapshot(
        file=LogFile(
            instance=instance, log=LogKind(kind), node=node, file_name=file_name, updated_at=moment_of(updated_ms)
        ),
        key=key,
        path=path,
        size=size,
        md5=md5,
        sha256=sha256,
        etag=etag,
        verified=bool(verified),
        began_at=moment_of(began_ms),
        stored_at=moment_of(stored_ms),
        attempts=attempts,
        request_ids=tuple(request_ids.split()),
        first_at=moment_or_none(first_ms),
        last_at=moment_or_none(last_ms),
        delta=bool(delta),
        fetched=fetched,
    )


def _keep_promise(db: sqlite3.Connection, snapshot: Snapshot) -> bool:
    """Make an entry of the snapshot's promise; False where there is none: it was none, or the books are new."""
    times = (ms_or_none(snapshot.first_at), ms_or_none(snapshot.last_at))
    promise = (snapshot.key, snapshot.path, snapshot.size, snapshot.md5, ms_of(snapshot.stored_at))
    return db.execute(KEEP_PROMISE, (*times, *promise)).rowcount == 1


def _same_beside(db: sqlite3.Connection, snapshot: Snapshot) -> str | None:
    """Give the path of a neighbour with the same bytes."""
    asked = {"series": layout.series(snapshot.key), "updated_ms": ms_of(snapshot.file.updated_at)}
    row = db.execute(SAME_BESIDE, {**asked, "md5": snapshot.md5, "size": snapshot.size}).fetchone()
    return str(row[0]) if row else None


def _write_cycle(db: sqlite3.Connection, report: CycleReport, tick: datetime) -> None:
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
            report.error_kind,
            report.new_bytes,
        ),
    )
    standing.note(db, report, cycle=entered.lastrowid or 0)
    db.execute(
        "DELETE FROM cycles WHERE instance = ? AND id <= (SELECT id FROM cycles WHERE instance = ? ORDER BY id DESC"
        " LIMIT 1 OFFSET ?)",
        (report.instance, report.instance, KEPT_CYCLES),
    )


def _write_failures(db: sqlite3.Connection, report: CycleReport) -> None:
    failed: dict[tuple[str, str], tuple[str, str]] = {
        (failure.node, failure.log): (failure.kind, failure.reason) for failure in report.failures
    }
    failed |= {("", call.log): (call.kind, call.reason) for call in report.failed_calls}
    over: set[tuple[str, str]] = _succeeded(report)
    if report.error and not report.failed_calls:  # it broke off: what it did not get to may fail still
        failed["", ""] = (report.error_kind, report.error)
    else:
        known = "SELECT node, log FROM failures WHERE instance = ? AND (node = '' OR NOT ?)"
        over.update(db.execute(known, (report.instance, bool(report.error))))
    db.executemany(
        "DELETE FROM failures WHERE instance = ? AND node = ? AND log = ?",
        [(report.instance, *pair) for pair in over - failed.keys()],
    )
    now = ms_of(report.finished_at)
    db.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET kind = excluded.kind,"
        " last_ms = excluded.last_ms, times = times + 1, last_error = excluded.last_error",
        [(report.instance, node, log, kind, now, now, reason) for (node, log), (kind, reason) in failed.items()],
    )


def _write_habits(db: sqlite3.Connection, report: CycleReport) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO exports (instance, log, asked, takes, fresh_until_ms) VALUES (?, ?, ?, ?, ?)",
        [
            (report.instance, habit.log, habit.asked, json.dumps(habit.takes), ms_or_none(habit.fresh_until))
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


def _drop_old_snapshots(db: sqlite3.Connection, report: CycleReport) -> None:
    """Drop entries that nothing asks for; the newest of each series stays, which the next export is compared with."""
    before = ms_of(report.finished_at - timedelta(days=KEPT_DAYS))
    db.execute(DROP_OLD, (report.instance, before, before))
