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
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ddslogd.model.errors import Complaint, ConfigError, LedgerDamaged
from ddslogd.model.export import Arrival, Habit
from ddslogd.model.instance import ListedInstance, LogKind, Node, NodeName
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.scheduling.clock import LARGEST_LEAD
from ddslogd.storage import paths
from ddslogd.storage.batch_executor import Grouped
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger import database, integrity_check, node_records
from ddslogd.storage.ledger.cycle_records import LAST_TICKS, write_cycle, write_failures, write_habits
from ddslogd.storage.ledger.database import log_moment, log_ms, moment_of, moment_or_none, ms_of, ms_or_none
from ddslogd.storage.ledger.gap_records import end_gap_of_absence
from ddslogd.storage.ledger.integrity_check import UNREADABLE, relative, row_reader, typed, types_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ddslogd.model.cycle import CycleReport, NodeHistory
    from ddslogd.storage.ledger.database import Marks

T = TypeVar("T")
Transaction = Callable[[sqlite3.Connection], Any]

GROUP = 64  # transactions that are made durable together
FILE_NAME = "ledger.sqlite3"
# An export is served for minutes, so nothing asks for older entries, but for those whose files are there still.
KEPT_DAYS = 30
DROP_OLD = (  # by both times: what is as old by its name is not adopted again, see recovery
    "DELETE FROM snapshots WHERE instance = ? AND stored_ms < ? AND updated_ms < ? AND published AND NOT present"
    " AND updated_ms <"
    " (SELECT max(updated_ms) FROM snapshots AS newer WHERE newer.series = snapshots.series AND newer.published)"
)

# One statement for both: each hands Python's lock over several times. Where a key is held its series has a newest one.
KNOWN = (
    "SELECT EXISTS (SELECT 1 FROM snapshots WHERE key = ? AND published), * FROM snapshots"
    " WHERE series = ? AND published ORDER BY updated_ms DESC LIMIT 1"
)

LATEST = (
    "SELECT newer.* FROM snapshots AS held JOIN snapshots AS newer ON newer.series = held.series"
    " AND newer.updated_ms >= held.updated_ms AND newer.file_name = held.file_name AND newer.published"
    " WHERE held.key = ? ORDER BY newer.updated_ms DESC LIMIT 1"
)

# The same bytes in a neighbour. Most exports come in order; a late one has two neighbours.
SAME_BESIDE = (
    "SELECT path FROM (SELECT path, md5, size FROM snapshots WHERE series = :series AND published"
    " AND updated_ms <= :updated_ms ORDER BY updated_ms DESC LIMIT 1) WHERE md5 = :md5 AND size = :size"
    " UNION ALL"
    " SELECT path FROM (SELECT path, md5, size FROM snapshots WHERE series = :series AND published"
    " AND updated_ms > :updated_ms ORDER BY updated_ms LIMIT 1) WHERE md5 = :md5 AND size = :size"
)

NEXT_SERIES = "SELECT min(series) FROM snapshots WHERE series > ? AND series < ?"
NEWEST_OF_SERIES = "SELECT * FROM snapshots WHERE series = ? AND published ORDER BY updated_ms DESC LIMIT 1"

# What is known of a snapshot only once its file has its name; all else is in the promise.
KEEP_PROMISE = (
    "UPDATE snapshots SET published = 1, first_ms = ?, last_ms = ?"
    " WHERE key = ? AND NOT published AND (path, size, md5, stored_ms) = (?, ?, ?, ?)"
)


class SnapshotRow(NamedTuple):
    """A row of the table ``snapshots``, by the names of its columns: by ``sqlite3.Row`` reading takes 20 % longer."""

    key: str
    path: str
    series: str
    instance: str
    log: str
    node: str
    file_name: str
    updated_ms: int
    published: int
    size: int
    md5: str
    sha256: str
    etag: str
    verified: int
    request_ids: str
    attempts: int
    began_ms: int
    stored_ms: int
    first_ms: int | None
    last_ms: int | None
    present: int
    taken: int
    delta: int
    fetched: int | None
    kept: int


_SNAPSHOT = types_of(SnapshotRow)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFiles:
    """What there is of a file that is held.

    Attributes:
        since: When it came.
        latest: The newest snapshot of its series with its file name: it may have been fetched again, since its bytes
            had changed.
        newest: The newest snapshot of its series.
        has_grown: Whether the latest has other bytes than the one that came first.
    """

    since: datetime
    latest: Snapshot
    newest: Snapshot
    has_grown: bool


class Ledger:
    """The ledger of one storage directory.

    Attributes:
        generation: Grows whenever an empty file takes the place of what was known: what is on disk is to be entered.
        trouble: What happened to the file since the start, in a few words; empty for nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self.generation = 0
        self.trouble = ""
        self._directory: Path | None = None
        self._marks: Marks | None = None
        self._signed = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._grouped: Grouped[Transaction, Any] = Grouped(self._transact, thread=self._thread, most=GROUP)
        self._db: sqlite3.Connection | None = None

    async def open(self) -> bool:
        """Open the file, make it where it is missing, bring it up to this version.

        A damaged file is quarantined under another name, and an empty one takes its place.

        Returns:
            False where the ledger is new: nothing they held before is known.

        Raises:
            ConfigError: A newer ddslogd wrote it.
            StorageError: The disk refuses.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        if self._db is not None:
            await self.run(lambda _: None)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def look(self) -> None:
        """Check whether the file is in order, so that what befalls it is said before anybody needs it.

        What was removed is written back; what is damaged is quarantined, and an empty file takes its place.

        Raises:
            StorageError: The disk refuses.
        """
        await self.run(lambda _: None)
        if not self._signed:
            return
        try:
            await asyncio.to_thread(database.check, self.path, self._signed)
        except LedgerDamaged:  # unless the thread has seen that by itself meanwhile
            await asyncio.get_running_loop().run_in_executor(self._thread, self._look_again)

    async def belong_to(self, directory: Path) -> None:
        """Tie the ledger to a storage directory; each has its own.

        They follow files that were moved: where the directory they belonged to holds no snapshots any more.

        Raises:
            ConfigError: They belong to another directory.
            StorageError: The disk does not say.
        """

        def tie(db: sqlite3.Connection) -> str:
            row = db.execute("SELECT value FROM meta WHERE key = 'directory'").fetchone()
            if row and db.execute("SELECT 1 FROM snapshots").fetchone():
                _refuse_another(self.path, before=Path(row[0]), now=directory)
            return database.sign(db, directory)

        self._signed = await self.run(tie)
        self._directory = directory

    async def known(self, key: str) -> Known:
        """Return what is known of a file that is offered, by its key."""

        def ask(db: sqlite3.Connection) -> Known:
            held, *row = db.execute(KNOWN, (key, paths.series(key))).fetchone() or (False,)
            return Known(held=bool(held), newest=read_snapshot(tuple(row)) if row and not held else None)

        return await self.run(ask)

    async def held(self, key: str) -> HeldFiles | None:
        """Return what there is of a file that is held, by its key; None where it is not held."""

        def ask(db: sqlite3.Connection) -> HeldFiles | None:
            row = db.execute("SELECT * FROM snapshots WHERE key = ? AND published", (key,)).fetchone()
            if row is None:
                return None
            first = read_snapshot(row)
            _, *newest = db.execute(KNOWN, (key, paths.series(key))).fetchone()
            latest = read_snapshot(db.execute(LATEST, (key,)).fetchone())
            has_grown = (latest.md5, latest.size) != (first.md5, first.size)
            return HeldFiles(
                since=first.stored_at, latest=latest, newest=read_snapshot(tuple(newest)), has_grown=has_grown
            )

        return await self.run(ask)

    async def promise(self, snapshot: Snapshot, *, even_if_same: bool = False) -> str | None:
        """Record that the snapshot's file is whole and about to get its name: should we die, the next start looks.

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
        """Return the path of the node's file before or after a snapshot whose bytes are the same; else None."""
        return await self.run(lambda db: _same_beside(db, snapshot))

    async def enter(self, *snapshots: Snapshot) -> None:
        """Record that the snapshots' files are on disk, each at its path (an older file's, if the bytes are equal)."""

        def write(db: sqlite3.Connection) -> None:
            enter_snapshots(db, snapshots)

        await self.run(write)

    async def adopt(self, *snapshots: Snapshot) -> None:
        """Enter files that were on disk before; streams that are known to have come further do not take them again."""
        passed = (
            "UPDATE snapshots SET taken = 1 WHERE key = ? AND updated_ms <="
            " (SELECT reference_ms FROM streams WHERE streams.series = snapshots.series AND reference_ms <= ?)"
        )

        def write(db: sqlite3.Connection) -> None:
            for snapshot in snapshots:
                if db.execute("SELECT 1 FROM snapshots WHERE key = ?", (snapshot.key,)).fetchone() is None:
                    _write_snapshot(db, snapshot, published=True, kept=True)
                    # What lies ahead says nothing of how far the stream has come.
                    db.execute(passed, (snapshot.key, ms_of(snapshot.began_at + LARGEST_LEAD)))

        await self.run(write)

    async def promised(self) -> tuple[Snapshot, ...]:
        """Return what was about to be published when the last process ended."""

        def ask(db: sqlite3.Connection) -> tuple[Snapshot, ...]:
            return tuple(read_snapshot(row) for row in db.execute("SELECT * FROM snapshots WHERE published = 0"))

        return await self.run(ask)

    async def forget(self, snapshot: Snapshot) -> None:
        """Take back a promise."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM snapshots WHERE key = ? AND NOT published", (snapshot.key,))

        await self.run(write)

    async def directories(self) -> tuple[str, ...]:
        """Return the directories of the instances that have entries, relative to the storage directory."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            found: list[str] = []
            after = ""
            while True:  # from one to the next by the index: there may be a hundred entries of each
                (series,) = db.execute("SELECT min(series) FROM snapshots WHERE series >= ?", (after,)).fetchone()
                if series is None:
                    return tuple(found)
                if series < after:
                    raise LedgerDamaged("an index is not in order")
                found.append(series.rsplit("/", 2)[0])
                after = _behind(found[-1])

        return await self.run(ask)

    async def reconcile(self, found: Mapping[str, Sequence[str]], *, is_there: Callable[[str], bool]) -> list[str]:
        """Record which entries of some instances' directories still have a file of their own.

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
        """Record how a cycle ended, what fails, and what was learned; what succeeded fails no more.

        Its times are noted by its cloud's clock, as the times of files are: the host's may be wrong, and right later.

        Returns:
            Since when something of this instance fails; None where nothing does.
        """
        ahead = report.clock_ahead or timedelta(0)
        report = replace(report, started_at=report.started_at + ahead, finished_at=report.finished_at + ahead)

        def write(db: sqlite3.Connection) -> datetime | None:
            enter_snapshots(db, report.entries)
            for entry in report.entries:  # taken without the stream, which has nothing to do
                end_gap_of_absence(db, paths.series(entry.key))
            _write_origin(db, report)
            write_cycle(db, report, tick)
            write_failures(db, report)
            node_records.write(db, report)
            write_habits(db, report)
            _drop_old_snapshots(db, report)
            since = db.execute("SELECT min(since_ms) FROM failures WHERE instance = ?", (report.instance,))
            (since_ms,) = since.fetchone()
            return moment_or_none(since_ms)

        return await self.run(write)

    async def node_history(self, instance: str, kind: LogKind) -> NodeHistory:
        """Return the nodes that had a file of this kind of log before, and how their exports were.

        Args:
            instance: Its name.
            kind: Which of its logs.
        """
        return await self.run(lambda db: node_records.history(db, instance, kind))

    async def last_ticks(self) -> dict[str, datetime]:
        """Return each instance's last run that had its cycle; a cached one was none: it was put off."""

        def ask(db: sqlite3.Connection) -> dict[str, datetime]:
            return {instance: moment_of(tick_ms) for instance, tick_ms in db.execute(LAST_TICKS) if tick_ms is not None}

        return await self.run(ask)

    async def habits(self) -> dict[tuple[str, LogKind], Habit]:
        """Return what is known of each instance's exports, by its name and the kind of log."""

        def ask(db: sqlite3.Connection) -> dict[tuple[str, LogKind], Habit]:
            rows = db.execute("SELECT instance, log, asked, takes, fresh_until_ms, arrivals FROM exports")
            return {(instance, habit.log): habit for instance, *rest in rows for habit in [_read_habit(*rest)]}

        return await self.run(ask)

    async def forget_instances(self, known: set[str]) -> None:
        """Forget what failed, which nodes there were, how exports went and it stood, of all instances but these."""
        tables = ("failures", "nodes", "exports", "standings", "node_states", "offered")
        everywhere = " UNION ".join(f"SELECT instance FROM {table}" for table in tables)  # noqa: S608  # constants

        def write(db: sqlite3.Connection) -> None:
            others = [(instance,) for (instance,) in db.execute(everywhere).fetchall() if instance not in known]
            for table in tables:
                db.executemany(f"DELETE FROM {table} WHERE instance = ?", others)  # noqa: S608  # constants

        await self.run(write)

    async def enter_nodes(self, nodes: Mapping[str, Sequence[Node]]) -> None:
        """Record which nodes some instances have, as the cloud lists them; those they have no more are forgotten."""

        def write(db: sqlite3.Connection) -> None:
            for instance, listed in nodes.items():
                rows = [(instance, node.id, node.name, node.group, node.role) for node in listed]
                known = db.execute("SELECT * FROM nodes WHERE instance = ?", (instance,)).fetchall()
                if sorted(known) != sorted(rows):
                    db.execute("DELETE FROM nodes WHERE instance = ?", (instance,))
                    db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", rows)

        await self.run(write)

    async def names(self) -> dict[tuple[str, str], str]:
        """Return the names that discovered instances were given, by cloud and id."""

        def ask(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
            return {(cloud, id_): name for cloud, id_, name in db.execute("SELECT cloud, id, name FROM names")}

        return await self.run(ask)

    async def enter_names(self, names: Mapping[tuple[str, str], str]) -> None:
        """Record the names that discovered instances are given, by cloud and id."""

        def write(db: sqlite3.Connection) -> None:
            rows = [(cloud, id_, name) for (cloud, id_), name in names.items()]
            db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)

        await self.run(write)

    async def nodes(self) -> dict[str, tuple[Node, ...]]:
        """Return the nodes of all instances, by instance name, as the cloud listed them last."""

        def ask(db: sqlite3.Connection) -> dict[str, tuple[Node, ...]]:
            found: dict[str, list[Node]] = {}
            for instance, *columns in db.execute("SELECT instance, id, name, type, role FROM nodes"):
                id_, name, group, role = columns
                found.setdefault(instance, []).append(Node(id=id_, name=name, group=group, role=role))
            return {instance: tuple(nodes) for instance, nodes in found.items()}

        return await self.run(ask)

    async def node_names(self, instance: str) -> dict[str, NodeName]:
        """Return the names that an instance's nodes were given, by what tells the nodes apart."""

        def ask(db: sqlite3.Connection) -> dict[str, NodeName]:
            rows = db.execute("SELECT identity, name, called FROM node_names WHERE instance = ?", (instance,))
            return {identity: NodeName(name=name, called=called) for identity, name, called in rows}

        return await self.run(ask)

    async def enter_node_names(self, instance: str, names: Mapping[str, NodeName | None]) -> None:
        """Write the names that an instance's nodes are given; what has None is forgotten."""

        def write(db: sqlite3.Connection) -> None:
            for identity, node in names.items():
                if node is None:
                    db.execute("DELETE FROM node_names WHERE instance = ? AND identity = ?", (instance, identity))
                else:
                    row = (instance, identity, node.name, node.called)
                    db.execute("INSERT OR REPLACE INTO node_names VALUES (?, ?, ?, ?)", row)

        await self.run(write)

    async def newest_file_names(self, instance: str) -> dict[tuple[str, LogKind], str]:
        """Return the cloud's name of the newest file of each node and kind of log of an instance that there is.

        Where only a stream is left, the name is empty.
        """

        def ask(db: sqlite3.Connection) -> dict[tuple[str, LogKind], str]:
            streams = db.execute("SELECT node, log FROM streams WHERE instance = ?", (instance,))
            found = {(node, LogKind(kind)): "" for node, kind in streams}
            newest = read_newest(db, f"{paths.SNAPSHOTS}/{paths.segment(instance)}").values()
            return found | {(one.file.node, one.file.log): one.file.file_name for one in newest}

        return await self.run(ask)

    async def discovered(self) -> dict[tuple[str, str], ListedInstance | None]:
        """Return the instances that entries discovered, by cloud and id, as their clouds last listed them.

        None stands for one that an older version found: only its name is known, see ``names``.
        """

        def ask(db: sqlite3.Connection) -> dict[tuple[str, str], ListedInstance | None]:
            rows = db.execute("SELECT cloud, id, facts FROM discovered")
            return {(cloud, id_): _read_facts(id_, facts) for cloud, id_, facts in rows}

        return await self.run(ask)

    async def enter_discovered(self, cloud: str, listed: Sequence[ListedInstance]) -> None:
        """Write which instances entries discover in a cloud, in place of those that were there."""

        def write(db: sqlite3.Connection) -> None:
            rows = {(cloud, one.id, _facts(one)) for one in listed}
            known = set(db.execute("SELECT cloud, id, facts FROM discovered WHERE cloud = ?", (cloud,)).fetchall())
            gone = [row[:2] for row in known if row not in rows]
            db.executemany("DELETE FROM discovered WHERE cloud = ? AND id = ?", gone)
            db.executemany("INSERT INTO discovered VALUES (?, ?, ?)", rows - known)

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
        elif self._marks is not None and (reason := self._marks.change(self.path)):
            self._rescue(reason)
        try:
            return self._committed(group)
        except LedgerDamaged as exc:
            self._replace(exc)
        return self._committed(group)

    def _committed(self, group: Sequence[Transaction]) -> list[Any]:
        try:
            with self._connection() as db:
                db.execute("BEGIN IMMEDIATE")
                results = [transaction(db) for transaction in group]
        except UNREADABLE as exc:
            raise integrity_check.refusal(exc, self.path) from exc
        self._mark()
        return results

    def _close(self) -> None:
        """Close the file; its -wal goes with that."""
        db, self._db, self._marks = self._connection(), None, None
        db.close()

    def _look_again(self) -> None:
        try:
            database.check(self.path, self._signed)
        except LedgerDamaged as exc:
            self._replace(exc)

    def _replace(self, exc: LedgerDamaged) -> None:
        """Go on with an empty file in place of a damaged one."""
        db, self._db = self._connection(), None
        self._db = database.replace(db, self.path, exc)
        self._begin(known=False)
        self.trouble = "the ledger was damaged (event ledger.damaged)"

    def _rescue(self, reason: str) -> None:
        """Bring the open file back to its path, or go on with an empty one."""
        db, self._db = self._connection(), None
        self._db, known = database.rescued(db, self.path, reason)
        self._begin(known=known)
        self.trouble = f"the ledger {reason} (event ledger.lost)"

    def _begin(self, *, known: bool) -> None:
        """Prepare a file that was just opened."""
        self.generation += not known
        self._marks = None
        try:
            if self._directory is not None:
                self._signed = database.sign(self._connection(), self._directory)
        except UNREADABLE as exc:
            raise integrity_check.refusal(exc, self.path) from exc
        self._mark()

    def _mark(self) -> None:
        if self._marks is None or not self._marks.whole:
            self._marks = database.marks(self.path)

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            msg = "the ledger is closed"
            raise ValueError(msg)
        return self._db

    def _open(self) -> bool:
        self._db, known = database.connect(self.path)
        self._begin(known=known)
        return known


def _behind(directory: str) -> str:
    """Return what sorts behind everything in a directory: a slash is followed by a zero."""
    return f"{directory}0"


def _facts(listed: ListedInstance) -> str:
    return json.dumps([listed.name, listed.mode, listed.status, listed.tags])


@row_reader
def _read_facts(id_: str, facts: str) -> ListedInstance | None:
    if not facts:
        return None
    name, mode, status, tags = json.loads(facts)
    return ListedInstance(id=id_, name=name, mode=mode, status=status, tags=tuple((key, value) for key, value in tags))


@row_reader  # a path with a zero byte is none
def _refuse_another(ledger: Path, *, before: Path, now: Path) -> None:
    with disk(before):
        other = before.resolve() != now.resolve() and (before / paths.SNAPSHOTS).is_dir()
    if other:
        text = (
            f"this ledger belongs to the storage.directory {before}, which still holds snapshots, not to {now}: set"
            f" storage.directory back, or move the snapshots there, or give {now} a storage.state of its own"
        )
        raise ConfigError(ledger, [Complaint(line=0, column=0, path="", text=text)])


def enter_snapshots(db: sqlite3.Connection, snapshots: Iterable[Snapshot]) -> None:
    """Record that snapshots are on disk, each at its path."""
    for snapshot in snapshots:
        if not _keep_promise(db, snapshot):
            _write_snapshot(db, snapshot, published=True)


def _write_snapshot(db: sqlite3.Connection, snapshot: Snapshot, *, published: bool, kept: bool = False) -> None:
    file = snapshot.file
    row = (
        snapshot.key,
        snapshot.path,
        paths.series(snapshot.key),
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
        log_ms(snapshot.first_at),
        log_ms(snapshot.last_at),
        own := snapshot.path == snapshot.key,
        not own,
        snapshot.delta,
        snapshot.fetched,
        kept,
    )
    db.execute(f"INSERT OR REPLACE INTO snapshots VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in


@row_reader
def _read_habit(kind: str, asked: str, takes: str, fresh_until_ms: int | None, arrivals: str) -> Habit:
    return Habit(
        log=LogKind(kind),
        asked=asked,
        takes=tuple(float(seconds) for seconds in json.loads(takes)),
        fresh_until=moment_or_none(fresh_until_ms),
        arrivals=tuple(
            Arrival(
                node=str(node),
                file_name=str(name),
                claimed_at=moment_or_none(claimed_ms),
                seen_at=moment_of(seen_ms),
            )
            for node, name, claimed_ms, seen_ms in json.loads(arrivals)
        ),
    )


@row_reader
def read_snapshot(row: tuple[Any, ...]) -> Snapshot:
    """Make a snapshot of a row of the ledger's table."""
    found = SnapshotRow._make(typed(row, *_SNAPSHOT))
    return Snapshot(
        file=LogFile(
            instance=found.instance,
            log=LogKind(found.log),
            node=found.node,
            file_name=found.file_name,
            updated_at=moment_of(found.updated_ms),
        ),
        key=relative(found.key),
        path=relative(found.path),
        size=found.size,
        md5=found.md5,
        sha256=found.sha256,
        etag=found.etag,
        verified=bool(found.verified),
        began_at=moment_of(found.began_ms),
        stored_at=moment_of(found.stored_ms),
        attempts=found.attempts,
        request_ids=tuple(found.request_ids.split()),
        first_at=log_moment(found.first_ms),
        last_at=log_moment(found.last_ms),
        delta=bool(found.delta),
        fetched=found.fetched,
    )


def read_newest(db: sqlite3.Connection, directory: str) -> dict[str, Snapshot]:
    """Return the newest published snapshot of each series in an instance's directory, by series."""
    found: dict[str, Snapshot] = {}
    series = f"{directory}/"
    while True:  # from one to the next by the index: there may be a hundred entries of each
        (series,) = db.execute(NEXT_SERIES, (series, _behind(directory))).fetchone()
        if series is None:
            return found
        row = db.execute(NEWEST_OF_SERIES, (series,)).fetchone()
        if row is not None:
            found[series] = read_snapshot(row)


def _keep_promise(db: sqlite3.Connection, snapshot: Snapshot) -> bool:
    """Make an entry of the snapshot's promise; False where there is none: it was none, or the ledger is new."""
    times = (ms_or_none(snapshot.first_at), ms_or_none(snapshot.last_at))
    promise = (snapshot.key, snapshot.path, snapshot.size, snapshot.md5, ms_of(snapshot.stored_at))
    return db.execute(KEEP_PROMISE, (*times, *promise)).rowcount == 1


def _same_beside(db: sqlite3.Connection, snapshot: Snapshot) -> str | None:
    """Return the path of a neighbour with the same bytes."""
    asked = {"series": paths.series(snapshot.key), "updated_ms": ms_of(snapshot.file.updated_at)}
    row = db.execute(SAME_BESIDE, {**asked, "md5": snapshot.md5, "size": snapshot.size}).fetchone()
    return str(row[0]) if row else None


def _write_origin(db: sqlite3.Connection, report: CycleReport) -> None:
    """Record which cloud an instance's files come from, and what that cloud's clock showed."""
    if not report.cloud:
        return
    db.execute(
        "INSERT INTO origins VALUES (?, ?) ON CONFLICT DO UPDATE SET cloud = excluded.cloud"
        " WHERE cloud != excluded.cloud",
        (report.instance, report.cloud),
    )
    if report.clock_ahead is not None:
        row = (report.cloud, round(report.clock_ahead / timedelta(milliseconds=1)), ms_of(report.finished_at))
        db.execute("INSERT OR REPLACE INTO clocks VALUES (?, ?, ?)", row)


def _drop_old_snapshots(db: sqlite3.Connection, report: CycleReport) -> None:
    """Drop entries that nothing asks for; the newest of each series stays, which the next export is compared with."""
    before = ms_of(report.finished_at - timedelta(days=KEPT_DAYS))
    db.execute(DROP_OLD, (report.instance, before, before))
