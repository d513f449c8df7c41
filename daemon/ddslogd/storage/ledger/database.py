"""The ledger's database file: its schema, how it is opened, and what happens to a damaged one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

import structlog

from ddslogd.model.errors import Complaint, ConfigError, LedgerDamaged, LedgerOlder, StorageError
from ddslogd.scheduling.clock import EPOCH
from ddslogd.storage.filesystem import PRIVATE_DIRECTORY_MODE, PRIVATE_FILE_MODE, disk, sync_directory
from ddslogd.storage.ledger import integrity_check
from ddslogd.storage.ledger.integrity_check import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from ddslogd.storage.ledger.integrity_check import Structure

log = structlog.get_logger()

MIGRATIONS = (
    """
    CREATE TABLE snapshots (
        key         TEXT PRIMARY KEY,       -- the path that belongs to instance, node, file name and update time
        path        TEXT NOT NULL,          -- where the bytes are; an older file's where they were the same
        series      TEXT NOT NULL,          -- what it continues: the node's directory and the kind of log
        instance    TEXT NOT NULL,
        log         TEXT NOT NULL,          -- error, slow
        node        TEXT NOT NULL,
        file_name   TEXT NOT NULL,
        updated_ms  INTEGER NOT NULL,       -- all times: epoch milliseconds, UTC
        published   INTEGER NOT NULL,       -- 0: promised, the file is about to get its name
        size        INTEGER NOT NULL,       -- bytes
        md5         TEXT NOT NULL,
        sha256      TEXT NOT NULL,
        etag        TEXT NOT NULL,
        verified    INTEGER NOT NULL,       -- 1: length or ETag proved it whole
        request_ids TEXT NOT NULL,
        attempts    INTEGER NOT NULL,
        began_ms    INTEGER NOT NULL,
        stored_ms   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshots_of_node ON snapshots (series, updated_ms);
    CREATE INDEX snapshots_of_age ON snapshots (instance, stored_ms);
    CREATE INDEX snapshots_promised ON snapshots (published) WHERE published = 0;
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
        node       TEXT NOT NULL,           -- empty: the export as a whole
        log        TEXT NOT NULL,           -- empty: the cycle as a whole
        kind       TEXT NOT NULL,
        since_ms   INTEGER NOT NULL,
        last_ms    INTEGER NOT NULL,
        times      INTEGER NOT NULL,
        last_error TEXT NOT NULL,
        PRIMARY KEY (instance, node, log)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE nodes (                    -- as the cloud lists them
        instance   TEXT NOT NULL,
        id         TEXT NOT NULL,
        name       TEXT NOT NULL,
        type       TEXT NOT NULL,           -- of its group: shard, config, mongos, replica, single
        role       TEXT NOT NULL,           -- Primary, Secondary, Hidden, master, unknown
        PRIMARY KEY (instance, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta (
        key        TEXT PRIMARY KEY,        -- directory: the storage directory that the ledger speaks of
        value      TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE names (                    -- of discovered instances: the first one given is kept for life
        cloud      TEXT NOT NULL,
        id         TEXT NOT NULL,
        name       TEXT NOT NULL,
        PRIMARY KEY (cloud, id)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE cycles ADD COLUMN error_kind TEXT NOT NULL DEFAULT '';
    ALTER TABLE snapshots ADD COLUMN first_ms INTEGER;                  -- of its lines, as far as they tell
    ALTER TABLE snapshots ADD COLUMN last_ms INTEGER;
    ALTER TABLE snapshots ADD COLUMN present INTEGER NOT NULL DEFAULT 1;    -- 0: it has no file of its own (any more)
    ALTER TABLE snapshots ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;      -- 1: its lines are in the stream
    UPDATE snapshots SET present = (path = key), taken = (path != key);
    DROP INDEX snapshots_of_age;
    CREATE INDEX snapshots_gone ON snapshots (instance, stored_ms) WHERE published AND NOT present;
    CREATE INDEX snapshots_to_take ON snapshots (series, updated_ms) WHERE published AND present AND NOT taken;
    CREATE INDEX snapshots_present ON snapshots (updated_ms) WHERE published AND present;
    CREATE TABLE streams (
        series        TEXT PRIMARY KEY,
        instance      TEXT NOT NULL,
        log           TEXT NOT NULL,
        node          TEXT NOT NULL,
        size          INTEGER NOT NULL,     -- bytes of the live file
        born_ms       INTEGER NOT NULL,     -- when its first line came
        first_ms      INTEGER,              -- of its lines
        last_ms       INTEGER,
        reference     TEXT NOT NULL,        -- the snapshot that the next export is compared with; empty for none
        reference_ms  INTEGER NOT NULL,     -- its update time
        delivered     INTEGER NOT NULL,     -- bytes of it that are in the stream: all but an unfinished line
        delivered_ms  INTEGER,              -- the last time that the stream's lines tell
        intent        TEXT NOT NULL         -- JSON: what is about to be appended; empty for nothing
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE stream_parts (             -- the files that were rotated away and are there still
        path          TEXT PRIMARY KEY,
        series        TEXT NOT NULL,
        size          INTEGER NOT NULL,
        first_ms      INTEGER,
        last_ms       INTEGER,
        rotated_ms    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX stream_parts_of_age ON stream_parts (rotated_ms);
    CREATE TABLE gaps (
        series        TEXT NOT NULL,
        path          TEXT NOT NULL,        -- in which file the log goes on, or which was evicted; empty: not over
        instance      TEXT NOT NULL,
        log           TEXT NOT NULL,
        node          TEXT NOT NULL,
        after_ms      INTEGER,
        until_ms      INTEGER,
        cause         TEXT NOT NULL,
        noted_ms      INTEGER NOT NULL,
        cut           INTEGER NOT NULL,
        PRIMARY KEY (series, path, cause)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE exports (                  -- what is known of an instance's exports, for the sake of the next one
        instance       TEXT NOT NULL,
        log            TEXT NOT NULL,
        asked          TEXT NOT NULL,       -- instance and nodes that were asked for; of anything else it says nothing
        takes          TEXT NOT NULL,       -- JSON: seconds that the last ones took, oldest first
        fresh_until_ms INTEGER,             -- the cloud serves the last one once more until then; NULL: ask
        PRIMARY KEY (instance, log)
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE snapshots ADD COLUMN delta INTEGER NOT NULL DEFAULT 0;  -- 1: fetched but for what was held of it
    ALTER TABLE snapshots ADD COLUMN fetched INTEGER;                   -- bytes that crossed the wire for it
    """,
    """
    ALTER TABLE cycles ADD COLUMN new_bytes INTEGER NOT NULL DEFAULT 0; -- in streams
    CREATE TABLE standings (                -- how each instance stands after its last cycle
        instance   TEXT PRIMARY KEY,
        cycle      INTEGER NOT NULL,        -- id of the last one
        good_ms    INTEGER,                 -- the end of the last good one; NULL: there was none
        quiet      INTEGER NOT NULL,        -- good ones in a row that brought no new line
        newest_ms  INTEGER,                 -- the newest time in its snapshots' lines
        new_bytes  TEXT NOT NULL            -- JSON: in streams, of the last ones that asked for an export, oldest first
    ) STRICT, WITHOUT ROWID;
    INSERT INTO standings
        SELECT instance, max(id), max(CASE WHEN outcome IN ('ok', 'nothing') THEN finished_ms END), 0, NULL, '[]'
        FROM cycles GROUP BY instance;
    """,
    """
    ALTER TABLE streams ADD COLUMN complete INTEGER NOT NULL DEFAULT 0; -- 1: the reference has all its lines
    """,
    # Times of lines that are none, see LOG_TIMES. Earlier versions took them from the logs as they stood there.
    """
    UPDATE snapshots SET
        first_ms = CASE WHEN first_ms BETWEEN 631152000000 AND 4102444799999 THEN first_ms END,
        last_ms = CASE WHEN last_ms BETWEEN 631152000000 AND 4102444799999 THEN last_ms END
        WHERE first_ms NOT BETWEEN 631152000000 AND 4102444799999
        OR last_ms NOT BETWEEN 631152000000 AND 4102444799999;
    UPDATE streams SET
        first_ms = CASE WHEN first_ms BETWEEN 631152000000 AND 4102444799999 THEN first_ms END,
        last_ms = CASE WHEN last_ms BETWEEN 631152000000 AND 4102444799999 THEN last_ms END,
        delivered_ms = CASE WHEN delivered_ms BETWEEN 631152000000 AND 4102444799999 THEN delivered_ms END
        WHERE first_ms NOT BETWEEN 631152000000 AND 4102444799999
        OR last_ms NOT BETWEEN 631152000000 AND 4102444799999
        OR delivered_ms NOT BETWEEN 631152000000 AND 4102444799999;
    UPDATE stream_parts SET
        first_ms = CASE WHEN first_ms BETWEEN 631152000000 AND 4102444799999 THEN first_ms END,
        last_ms = CASE WHEN last_ms BETWEEN 631152000000 AND 4102444799999 THEN last_ms END
        WHERE first_ms NOT BETWEEN 631152000000 AND 4102444799999
        OR last_ms NOT BETWEEN 631152000000 AND 4102444799999;
    UPDATE gaps SET
        after_ms = CASE WHEN after_ms BETWEEN 631152000000 AND 4102444799999 THEN after_ms END,
        until_ms = CASE WHEN until_ms BETWEEN 631152000000 AND 4102444799999 THEN until_ms END
        WHERE after_ms NOT BETWEEN 631152000000 AND 4102444799999
        OR until_ms NOT BETWEEN 631152000000 AND 4102444799999;
    UPDATE standings SET
        newest_ms = CASE WHEN newest_ms BETWEEN 631152000000 AND 4102444799999 THEN newest_ms END
        WHERE newest_ms NOT BETWEEN 631152000000 AND 4102444799999;
    """,
    """
    CREATE TABLE node_names (               -- kept for life, also of instances that are collected from no more
        instance   TEXT NOT NULL,
        identity   TEXT NOT NULL,           -- what tells a node from others, see node_names.py
        name       TEXT NOT NULL,           -- names its files
        called     TEXT NOT NULL,           -- by the cloud, when it last had a file; empty: by no name of its own
        PRIMARY KEY (instance, identity)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO node_names SELECT instance, 'node:' || min(id), name, name FROM nodes WHERE name != ''
        GROUP BY instance, name HAVING count(*) = 1;
    CREATE TABLE discovered (               -- instances that entries discover, as their clouds last listed them
        cloud      TEXT NOT NULL,
        id         TEXT NOT NULL,
        facts      TEXT NOT NULL,           -- JSON: name, mode, status, tags; empty: not known
        PRIMARY KEY (cloud, id)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO discovered SELECT cloud, names.id, '' FROM names JOIN standings ON standings.instance = name
        JOIN cycles ON cycles.id = standings.cycle
        WHERE finished_ms >= (SELECT max(finished_ms) FROM cycles) - 691200000  -- 8 days: schedules can be weekly
        AND name NOT IN (SELECT instance FROM gaps WHERE path = '' AND cause = 'instance gone');
    """,
    """
    CREATE TABLE node_states (              -- of nodes whose exports are not as they should be
        instance   TEXT NOT NULL,
        log        TEXT NOT NULL,
        node       TEXT NOT NULL,
        state      TEXT NOT NULL,           -- left out, no longer exported, removed, stalled at the source
        since_ms   INTEGER NOT NULL,
        made_ms    INTEGER,                 -- of a stalled one: the update time of its last export
        PRIMARY KEY (instance, log, node)
    ) STRICT, WITHOUT ROWID;
    -- What has had no file for a day of good cycles was left out then, by a version that did not look.
    INSERT OR IGNORE INTO node_states
        SELECT instance, log, node, 'no longer exported', stored_ms, NULL
        FROM (SELECT series, max(updated_ms) AS newest_ms FROM snapshots GROUP BY series) AS last
        JOIN snapshots ON snapshots.series = last.series AND snapshots.updated_ms = last.newest_ms
        JOIN standings USING (instance)
        WHERE max(stored_ms, updated_ms) < good_ms - 86400000;
    """,
    """
    CREATE TABLE origins (                  -- which cloud an instance's files came from
        instance   TEXT PRIMARY KEY,
        cloud      TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clocks (                   -- of the clouds' APIs, as their replies told them last
        cloud      TEXT PRIMARY KEY,
        ahead_ms   INTEGER NOT NULL,        -- of the host's
        seen_ms    INTEGER NOT NULL         -- what it showed
    ) STRICT, WITHOUT ROWID;
    DROP INDEX snapshots_present;
    CREATE INDEX snapshots_present ON snapshots (min(updated_ms, stored_ms)) WHERE published AND present;
    ALTER TABLE gaps ADD COLUMN number INTEGER NOT NULL DEFAULT 1;      -- of gaps that this row is made of
    ALTER TABLE gaps ADD COLUMN first_noted_ms INTEGER;                 -- of several: the first; noted_ms: the last
    ALTER TABLE gaps ADD COLUMN counted INTEGER NOT NULL DEFAULT 1;     -- 0: its file is about to go, and may yet stay
    CREATE INDEX gaps_of_instance ON gaps (instance, noted_ms, number);
    CREATE INDEX gaps_uncounted ON gaps (path) WHERE NOT counted;
    CREATE TABLE gap_totals (               -- how many were ever noted of each instance; never falls
        instance   TEXT PRIMARY KEY,
        total      INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO gap_totals SELECT instance, count(*) FROM gaps GROUP BY instance;
    ALTER TABLE exports ADD COLUMN arrivals TEXT NOT NULL DEFAULT '[]'; -- JSON: of rows whose time is not believed
    """,
    """
    CREATE TABLE offered (                  -- whose files the last exports had
        instance   TEXT NOT NULL,
        log        TEXT NOT NULL,
        nodes      TEXT NOT NULL,           -- JSON: names
        PRIMARY KEY (instance, log)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO offered
        SELECT instance, log, json_group_array(node)
        FROM (SELECT DISTINCT instance, log, node FROM snapshots WHERE published
            EXCEPT SELECT instance, log, node FROM node_states WHERE state != 'stalled at the source')
        WHERE instance IN (SELECT instance FROM standings)
        GROUP BY instance, log;
    """,
    # Kinds of failures were the names of classes.
    """
    CREATE TABLE kinds (old TEXT PRIMARY KEY, new TEXT NOT NULL) STRICT;
    INSERT INTO kinds VALUES
        ('Unavailable', 'unavailable'), ('Unreachable', 'unreachable'), ('Throttled', 'throttled'),
        ('CredentialsRefused', 'credentials_refused'), ('NotAllowed', 'not_allowed'), ('Gone', 'gone'),
        ('Misdirected', 'misdirected'), ('ForeignAnswer', 'foreign_answer'), ('Oversized', 'oversized'),
        ('Unsupported', 'unsupported'), ('Rejected', 'rejected'), ('UnknownFile', 'unknown_file'),
        ('ExportPending', 'export_pending'), ('LeftOut', 'left_out'), ('SourceStalled', 'source_stalled'),
        ('ExportFailed', 'export_failed'), ('Interrupted', 'interrupted'), ('TooSlow', 'too_slow'),
        ('ObjectGone', 'object_gone'), ('LinkRefused', 'link_refused'), ('Changed', 'changed'),
        ('Corrupt', 'corrupt'), ('Unpublishable', 'unpublishable'), ('StorageError', 'storage_error'),
        ('LedgerDamaged', 'ledger_damaged'), ('Bug', 'bug'), ('NoRoom', 'no_room'), ('Timeout', 'timeout');
    UPDATE failures SET last_error = last_error || ' (' || kind || ')' WHERE kind NOT IN (SELECT old FROM kinds);
    UPDATE failures SET kind = coalesce((SELECT new FROM kinds WHERE old = kind), 'unknown');
    UPDATE cycles SET error = error || ' (' || error_kind || ')'
        WHERE error_kind != '' AND error_kind NOT IN (SELECT old FROM kinds);
    UPDATE cycles SET error_kind = coalesce((SELECT new FROM kinds WHERE old = error_kind), 'unknown')
        WHERE error_kind != '';
    DROP TABLE kinds;
    """,
    # Streams whose files are never renamed.
    """
    ALTER TABLE streams ADD COLUMN path TEXT NOT NULL DEFAULT '';       -- its newest file; empty: of the old layout
    ALTER TABLE streams ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;   -- 1: that is complete, and under stream_parts
    """,
    # Streams that stand for the snapshots they were made of.
    """
    ALTER TABLE snapshots ADD COLUMN kept INTEGER NOT NULL DEFAULT 1;   -- 1: goes by storage.keep alone
    ALTER TABLE streams ADD COLUMN tail BLOB NOT NULL DEFAULT x'';      -- a line without its end, which no file has
    CREATE INDEX snapshots_spent ON snapshots (series) WHERE published AND present AND NOT kept;
    CREATE INDEX stream_parts_of_series ON stream_parts (series, path);
    """,
)
VERSION = len(MIGRATIONS)
# Checking reads the whole file: done in a blink up to here, and in minutes on a slow disk where it has grown huge.
ALWAYS_CHECKED = 64 * 1024 * 1024  # bytes
LOG_TIMES = range(631_152_000_000, 4_102_444_800_000)
"""Lines are written from 1990 to 2100, in milliseconds: any other time in a log is none."""
LAST_MS = 253_402_300_799_999  # the year 9999 ends
REBUILDS = "start the daemon, which puts it aside and rebuilds it from what is on disk"
REBUILT_NOW = "it is rebuilt from what is on disk now, but for gaps and past cycles, which are lost with it"
_FAR = 1000  # versions: no ddslogd is as much newer


def ms_of(moment: datetime) -> int:
    """Return a moment as it is in the file: epoch milliseconds."""
    return min(round(moment.timestamp() * 1000), LAST_MS)


def moment_of(ms: float) -> datetime:
    """Return a moment of the file: aware, UTC; the epoch where the number is that of no moment. Never raises."""
    try:
        return EPOCH + timedelta(milliseconds=ms)
    except (OverflowError, ValueError, TypeError):
        return EPOCH


def ms_or_none(moment: datetime | None) -> int | None:
    """Return a moment as it is in the file, where there is one."""
    return None if moment is None else ms_of(moment)


def moment_or_none(ms: int | None) -> datetime | None:
    """Return a moment of the file, where there is one."""
    return None if ms is None else moment_of(ms)


def log_ms(moment: datetime | None) -> int | None:
    """Return a line's time as it is in the file; None where it is unknown, or none that a line can have."""
    ms = ms_or_none(moment)
    return ms if ms is not None and LOG_TIMES.start <= ms < LOG_TIMES.stop else None


def log_moment(ms: float | None) -> datetime | None:
    """Return a line's time of the file; None where it is unknown, or none that a line can have. Never raises."""
    believed = isinstance(ms, int | float) and LOG_TIMES.start <= ms < LOG_TIMES.stop
    return moment_of(ms) if ms is not None and believed else None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file next to a daemon that may be using it; nothing can be written. Blocks.

    Raises:
        ConfigError: Another version of ddslogd wrote it.
        LedgerDamaged: What is read is not what was written.
        StorageError: There is none, or it cannot be read.
    """
    try:
        with closing(read_only(path)) as db:
            _refuse_other_version(db, path)
            yield db
    except LedgerDamaged as exc:
        raise LedgerDamaged(f"the ledger is damaged ({exc}): {path}: {REBUILDS}") from exc
    except UNREADABLE as exc:
        refused = integrity_check.refusal(exc, path)
        if isinstance(refused, LedgerDamaged):
            raise LedgerDamaged(f"the ledger is damaged ({refused}): {path}: {REBUILDS}") from exc
        text = f"the ledger cannot be read ({exc}): {path}: has the daemon run? If it has, be the service's user"
        raise StorageError(text) from exc


def read_only(path: Path) -> sqlite3.Connection:
    """Open the file, of whatever version, next to who uses it, or where only reading is allowed. Blocks.

    Raises:
        sqlite3.Error: There is none, or it cannot be read.
    """
    uri = f"file:{quote(str(path))}?mode=ro"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA user_version")
    except sqlite3.Error as exc:
        db.close()
        if not isinstance(exc, sqlite3.OperationalError) or path.with_name(f"{path.name}-wal").exists():
            raise
        # Nobody uses it, and a reader may lack the right to make the files next to it that a user makes.
        return sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    return db


def connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the file, make it where it is missing, bring it up to this version.

    A damaged file is quarantined under another name, and an empty one takes its place.

    Returns:
        The connection, and False where the ledger is new: nothing they held before is known.

    Raises:
        ConfigError: A newer ddslogd wrote it.
        StorageError: The disk refuses.
    """
    try:
        return _opened(path)
    except LedgerDamaged as exc:
        return _begin_anew(path, exc), False


def replace(db: sqlite3.Connection, path: Path, exc: LedgerDamaged) -> sqlite3.Connection:
    """Put aside a file that was found damaged while it was in use, and open an empty one in its place.

    Raises:
        StorageError: The disk refuses.
    """
    with suppress(*UNREADABLE):
        db.close()
    return _begin_anew(path, exc)


def rescued(db: sqlite3.Connection, path: Path, reason: str) -> tuple[sqlite3.Connection, bool]:
    """Write an open file that its path does not lead to any more back to its path.

    Whatever is there instead is quarantined. Where the open file does not give its content, an empty one is opened.

    Args:
        db: Open.
        path: Where it was.
        reason: What happened to it.

    Returns:
        The connection, and False where the ledger is new.

    Raises:
        StorageError: The disk refuses.
    """
    copy = path.with_name(f"{path.name}.rescued")
    whole = _copied(db, copy)
    aside = _put_aside(path)
    with suppress(*UNREADABLE):
        db.close()
    if whole:
        with disk(path):
            copy.rename(path)
            sync_directory(path.parent)
    todo = "find out who did this; what it held was saved" if whole else f"find out who did this; {REBUILT_NOW}"
    log.error("ledger.lost", path=str(path), kept_as=aside and str(aside), reason=reason, todo=todo)
    db, known = connect(path)
    return db, known and whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """By what a file is known again while it is open, without another look into it.

    Attributes:
        main: The number of the file, and of its file system.
        wal: The same of what was written and is not in it yet; None where that is not there.
        size: Bytes of the file; it never shrinks.
    """

    main: tuple[int, int]
    wal: tuple[int, int] | None
    size: int

    @property
    def whole(self) -> bool:
        """Return whether nothing was missing."""
        return self.wal is not None

    def change(self, path: Path) -> str:
        """Return what happened to the file since, as the end of a sentence; empty for nothing. Blocks."""
        try:
            main, wal = _stat(path), _stat(_wal(path))
        except OSError:  # who looks next may see it
            return ""
        if main is None:
            return "was removed while it was in use"
        if _number(main) != self.main:
            return "was replaced by another file while it was in use"
        if main.st_size < self.size:
            return "was cut short while it was in use"
        if self.wal is not None and (wal is None or _number(wal) != self.wal):
            return "lost its -wal while it was in use"
        return ""


def marks(path: Path) -> Marks | None:
    """Return the marks of a file that is open; None where it cannot be looked at. Blocks."""
    try:
        main, wal = _stat(path), _stat(_wal(path))
    except OSError:
        return None
    return main and Marks(main=_number(main), wal=wal and _number(wal), size=main.st_size)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _number(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def check_structure(db: sqlite3.Connection) -> None:
    """Check whether the tables and indexes of this version are there.

    Raises:
        LedgerDamaged: They are not.
        sqlite3.Error: As of any statement.
    """
    integrity_check.check_structure(db, _expected())


def sign(db: sqlite3.Connection, directory: Path) -> str:
    """Write into the file which storage directory it speaks of, and a mark by which this use of it is known."""
    mark = uuid4().hex
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("directory", str(directory)), ("opened", mark)])
    return mark


def check(path: Path, mark: str) -> None:
    """Check the file next to who uses it: whether it is the one that was signed, and at all of it if it is small.

    Blocks.

    Raises:
        LedgerDamaged: It is damaged, or another was written over it.
        StorageError: It cannot be read now, which says nothing of what it holds.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)) as db:
            check_structure(db)
            if db.execute("SELECT value FROM meta WHERE key = 'opened'").fetchone() != (mark,):
                raise LedgerDamaged("another file was written over it while it was in use")
            if path.stat().st_size < ALWAYS_CHECKED:
                integrity_check.check_pages(db, indexes=False)
    except UNREADABLE as exc:
        raise integrity_check.refusal(exc, path) from exc
    except OSError as exc:
        raise StorageError(f"the ledger cannot be looked at ({exc.strerror}): {path}") from exc


def _copied(db: sqlite3.Connection, copy: Path) -> bool:
    """Copy all that an open file holds; tell whether that went well."""
    try:
        with suppress(FileNotFoundError):
            copy.unlink()
        with closing(sqlite3.connect(copy)) as target:
            db.backup(target)
            integrity_check.check_pages(target, indexes=True)
    except (*UNREADABLE, LedgerDamaged, OSError):
        return False
    return True


def _begin_anew(path: Path, exc: LedgerDamaged) -> sqlite3.Connection:
    aside = _put_aside(path)
    todo = f"see the disk; {REBUILT_NOW}"
    log.error("ledger.damaged", path=str(path), kept_as=aside and str(aside), reason=str(exc), todo=todo)
    return _opened(path)[0]


def _opened(path: Path) -> tuple[sqlite3.Connection, bool]:
    try:
        return _open(path)
    except UNREADABLE as exc:
        raise integrity_check.refusal(exc, path, at_open=True) from exc


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    with disk(path.parent):
        path.parent.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
    integrity_check.check_header(path)
    # Closing takes the WAL away. That it is there means that the last process did not close: look for damage.
    unclean = _wal(path).exists()
    with disk(path), suppress(FileExistsError):
        # SQLite would make it for others to read; what it makes next to it gets the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE_MODE))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with disk(path):
            path.chmod(PRIVATE_FILE_MODE)
            small = path.stat().st_size < ALWAYS_CHECKED
        db.execute("PRAGMA journal_mode = WAL")
        # NORMAL would lose the last moments before a power cut, and with them what is in streams already.
        db.execute("PRAGMA synchronous = FULL")
        if unclean or small:
            integrity_check.check_pages(db, indexes=small)
        known = _migrate(db, path, small=small)
        check_structure(db)
        if small:
            integrity_check.check_values(db)
    except BaseException:
        with suppress(*UNREADABLE):
            db.close()
        raise
    return db, known


@cache
def _expected() -> Structure:
    """Return what tables and indexes this version has."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for schema in MIGRATIONS:
            db.executescript(schema)
        return integrity_check.structure(db)


def _put_aside(path: Path) -> Path | None:
    """Rename the file and what belongs to it to names that were never used; None where there is nothing."""
    endings = ("-wal", "-shm", "")
    with disk(path):
        number = next(number for number in count(1) if not any(_aside(path, number, one).exists() for one in endings))
        found = [one for one in endings if path.with_name(f"{path.name}{one}").exists()]
        for ending in found:
            path.with_name(f"{path.name}{ending}").rename(_aside(path, number, ending))
    return _aside(path, number, "" if "" in found else found[0]) if found else None


def _aside(path: Path, number: int, ending: str) -> Path:
    return path.with_name(f"{path.name}.damaged-{number}{ending}")


def _migrate(db: sqlite3.Connection, path: Path, *, small: bool) -> bool:
    """Bring the schema up to this version, in one transaction; return whether there was one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 <= version < VERSION + _FAR:
        raise LedgerDamaged(f"it is of no version ({version})")
    if version > VERSION and small:
        integrity_check.check_texts(db)  # a flipped bit may have made it newer, and those next to it tell
    _refuse_newer(version, path)
    if version < VERSION:
        db.executescript(f"BEGIN; {' '.join(MIGRATIONS[version:])} PRAGMA user_version = {VERSION}; COMMIT;")
    return bool(version > 0)


def _refuse_other_version(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    _refuse_newer(version, path)
    if version < VERSION:
        text = f"an older ddslogd wrote this ledger (version {version}, not {VERSION}): start the daemon once first"
        raise LedgerOlder(path, [Complaint(line=0, column=0, path="", text=text)])


def _refuse_newer(version: int, path: Path) -> None:
    if version > VERSION:
        text = f"a newer ddslogd wrote this ledger (version {version}, this one knows {VERSION}): install that one"
        raise ConfigError(path, [Complaint(line=0, column=0, path="", text=text)])
