"""The ledger's database file: its schema, how it is opened, and what happens to a damaged one."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from ddslogd.errors import Complaint, ConfigError, StorageError
from ddslogd.storage.filesystem import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
)
VERSION = len(MIGRATIONS)
# Checking reads the whole file: done in a blink up to here, and in minutes on a slow disk where it has grown huge.
ALWAYS_CHECKED = 64 * 1024 * 1024  # bytes


def ms_of(moment: datetime) -> int:
    """Give a moment as it stands in the file: epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def moment_of(ms: int) -> datetime:
    """Read a moment of the file: aware, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def ms_or_none(moment: datetime | None) -> int | None:
    """Give a moment as it stands in the file, where there is one."""
    return None if moment is None else ms_of(moment)


def moment_or_none(ms: int | None) -> datetime | None:
    """Read a moment of the file, where there is one."""
    return None if ms is None else moment_of(ms)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file beside a daemon that may be using it; nothing can be written. Blocks.

    Raises:
        ConfigError: Another version of ddslogd wrote it.
        StorageError: There is none, or it cannot be read.
    """
    try:
        with closing(read_only(path)) as db:
            _refuse_other_version(db, path)
            yield db
    except sqlite3.Error as exc:
        text = f"the ledger cannot be read ({exc}): {path}: has the daemon run? If it has, be the service's user"
        raise StorageError(text) from exc


def read_only(path: Path) -> sqlite3.Connection:
    """Open the file, of whatever version, beside who uses it, or where only reading is allowed. Blocks.

    Raises:
        sqlite3.Error: There is none, or it cannot be read.
    """
    uri = f"file:{quote(str(path))}?mode=ro"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        db.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # Nobody uses it, and a reader may lack the right to make the files beside it that a user makes.
        return sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    return db


def connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the file, make it where it is missing, bring it up to this version.

    A damaged file is put aside under another name, and an empty one takes its place.

    Returns:
        The connection, and False where the books are new: nothing they held before is known.

    Raises:
        ConfigError: A newer ddslogd wrote it.
        StorageError: The disk refuses.
    """
    try:
        return _open(path)
    except sqlite3.OperationalError as exc:  # locked, full, not to be opened: not damaged
        raise StorageError(f"the ledger cannot be used ({exc}): {path}") from exc
    except sqlite3.DatabaseError as exc:
        return _begin_anew(path, exc, todo="see the disk; what is on disk is entered now"), False


def is_damage(exc: sqlite3.Error) -> bool:
    """Tell whether the file itself is broken, rather than locked, full, or asked for the wrong thing."""
    # sqlite3 has subclasses for all but SQLITE_CORRUPT and SQLITE_NOTADB.
    return type(exc) is sqlite3.DatabaseError


def replace(db: sqlite3.Connection, path: Path, exc: sqlite3.Error) -> sqlite3.Connection:
    """Put aside a file that was found damaged while it was in use, and open an empty one in its place.

    Raises:
        StorageError: The disk refuses.
    """
    with suppress(sqlite3.Error):
        db.close()
    return _begin_anew(path, exc, todo="see the disk; the next start enters what is on disk")


def _begin_anew(path: Path, exc: sqlite3.Error, *, todo: str) -> sqlite3.Connection:
    aside = _put_aside(path)
    log.error("ledger.damaged", path=str(path), kept_as=str(aside), reason=str(exc), todo=todo)
    try:
        return _open(path)[0]
    except sqlite3.Error as again:
        raise StorageError(f"the ledger cannot be used ({again}): {path}") from again


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    with disk(path.parent):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    # Closing takes the WAL away. That it is there means that the last process did not close: look for damage.
    unclean = path.with_name(f"{path.name}-wal").exists()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with disk(path):
            path.chmod(0o640)
            small = path.stat().st_size < ALWAYS_CHECKED
        db.execute("PRAGMA journal_mode = WAL")
        # NORMAL would lose the last moments before a power cut, and with them what is in streams already.
        db.execute("PRAGMA synchronous = FULL")
        if unclean or small:
            _check(db)
        known = _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db, known


def _check(db: sqlite3.Connection) -> None:
    (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise sqlite3.DatabaseError(said)


def _put_aside(path: Path) -> Path:
    """Rename the file and what belongs to it to names that were never used."""
    number = next(number for number in count(1) if not path.with_name(f"{path.name}.damaged-{number}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    with disk(path):
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(f"{path.name}{suffix}").rename(aside.with_name(f"{aside.name}{suffix}"))
    return aside


def _migrate(db: sqlite3.Connection, path: Path) -> bool:
    """Bring the schema up to this version; tell whether there was one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    _refuse_newer(version, path)
    for number in range(version, VERSION):
        db.executescript(f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
    return bool(version > 0)


def _refuse_other_version(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    _refuse_newer(version, path)
    if version < VERSION:
        text = f"an older ddslogd wrote this ledger (version {version}, not {VERSION}): start the daemon once first"
        raise ConfigError(path, [Complaint(line=0, column=0, path="", text=text)])


def _refuse_newer(version: int, path: Path) -> None:
    if version > VERSION:
        text = f"a newer ddslogd wrote this ledger (version {version}, this one knows {VERSION}): install that one"
        raise ConfigError(path, [Complaint(line=0, column=0, path="", text=text)])
