"""Fluent Bit's database."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ddslogd.storage.shippers.bounded_read import opened_registry, read_position
from ddslogd.storage.shippers.file_identity import Inode, Mark, Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_DATABASE: Final = 256 * 1024 * 1024  # bytes; it is not read as a whole
MAX_ROWS: Final = 1_000_000  # of a database: files
TRIES: Final = 5
_PAUSE_S: Final = 0.05
_BUSY_S: Final = 0.5
_QUERY_S: Final = 10.0  # a table of a million rows takes one; what takes longer never ends
_STEPS: Final = 10_000  # of SQLite's machine, between two looks at the time
_PLAIN_TABLE: Final = re.compile(r"CREATE\s+TABLE\b(?!.*\b(?:GENERATED|AS)\s*\()", re.IGNORECASE | re.DOTALL)


def fluent_bit_positions(registry: Path) -> Iterator[tuple[Mark, Position]]:
    """Read the table of in_tail. fluent/fluent-bit, plugins/in_tail/tail_sql.h.

    A row keeps its inode; its name is the one from before the rotation until Fluent Bit notices. There is no device.
    """
    for name, offset, inode in _rows(registry):
        if isinstance(name, str) and name and isinstance(inode, int):
            yield Inode(inode), Position(position=read_position(offset), name=name)


def _rows(registry: Path) -> list[tuple[object, ...]]:
    for _ in range(TRIES):
        before = _traces(registry)
        if not before.writing:
            rows = _selected(registry, live=before.live)
            if before.live or _traces(registry) == before:
                return _checked(rows, registry)
        time.sleep(_PAUSE_S)
    raise OSError(errno.EBUSY, "being written again and again, or left by a Fluent Bit that died", str(registry))


def _checked(rows: list[tuple[object, ...]] | sqlite3.Error, registry: Path) -> list[tuple[object, ...]]:
    if isinstance(rows, list):
        return rows
    if rows.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN}:
        raise OSError(errno.EBUSY, f"{rows}; {_HELD}", str(registry)) from rows
    raise ValueError(f"{rows}: {registry}") from rows


_HELD: Final = "held by Fluent Bit alone (set its DB.locking to false), or left by one that died (start it)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traces:
    """What can be seen of a database that another process may write.

    Attributes:
        live: It has a write-ahead log with something in it, to be read under SQLite's locks.
        writing: A transaction is being written into the file itself, or was cut.
        changed: Differs where something was written in between.
    """

    live: bool
    writing: bool
    changed: tuple[int, int]


def _traces(path: Path) -> _Traces:
    """Look at a database.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none.
    """
    with opened_registry(path, MAX_DATABASE) as (_, status):
        changed = (status.st_mtime_ns, status.st_size)
    log, journal = (_first_byte(path.with_name(f"{path.name}-{end}")) for end in ("wal", "journal"))
    return _Traces(live=log != 0, writing=journal != 0, changed=changed)


def _first_byte(path: Path) -> int:
    """Return a file's first byte; 0 where there is none. SQLite passes over a log or journal that begins with 0.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no file: a pipe would be waited for.
    """
    try:
        with opened_registry(path, MAX_DATABASE) as (fd, _):
            return int.from_bytes(os.pread(fd, 1, 0), "little")
    except FileNotFoundError:
        return 0


def _selected(path: Path, *, live: bool) -> list[tuple[object, ...]] | sqlite3.Error:
    """Query the table; give what went wrong where something did.

    With mode=ro alone SQLite makes a write-ahead log and its index next to a database that has none. Where none is
    needed, immutable does without, and without a lock too, on which Fluent Bit would lose an offset in silence. Where
    the index is missing, readonly_shm refuses to make it.
    """
    how = "readonly_shm=1" if live else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&{how}", uri=True, timeout=_BUSY_S)) as db:
            db.text_factory = os.fsdecode
            end = time.monotonic() + _QUERY_S
            db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
            kind = db.execute("SELECT type, sql FROM sqlite_master WHERE name = 'in_tail_files'").fetchone()
            if kind is not None and (kind[0] != "table" or not _PLAIN_TABLE.match(str(kind[1]))):
                raise ValueError(f"in_tail_files is no plain table: {path}")
            rows = db.execute("SELECT name, offset, inode FROM in_tail_files LIMIT ?", (MAX_ROWS + 1,)).fetchall()
    except sqlite3.Error as exc:
        return exc
    if len(rows) > MAX_ROWS:
        raise ValueError(f"more than {MAX_ROWS} rows: {path}")
    return rows
