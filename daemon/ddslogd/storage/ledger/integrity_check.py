"""Whether a ledger's file holds what ddslogd wrote: its header, pages, schema and values, each row as it is read.

What is not what was written is damage (``LedgerDamaged``), whatever error showed it. A disk that is full, a lock, a
statement of ours that is wrong are none: the file stays where it is.

SQLite keeps no checksums of its pages. What a flipped bit turned into another plausible value is not found here; where
it contradicts the files of a stream, the stream finds it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, get_args, get_type_hints

from ddslogd.model.cycle import CycleOutcome, NodeState
from ddslogd.model.errors import LedgerDamaged, StorageError
from ddslogd.model.instance import LogKind
from ddslogd.model.stream import GapCause
from ddslogd.storage.filesystem import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")
Structure = dict[str, tuple[Any, ...]]
"""Of each table its columns, of each index its columns."""

UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises. An error message that quotes a damaged schema need not be UTF-8."""

_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}
# The host's troubles: they say nothing of what the file holds.
_OF_THE_HOST: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
_CODE: Final = 0xFF  # the rest of an extended code says more of the same
_UNDECODED: Final = "Could not decode to UTF-8"  # Python's own, without a code

# https://www.sqlite.org/fileformat2.html#the_database_header
_HEADER: Final = 100  # bytes
_FIXED: Final = (
    (0, {b"SQLite format 3\0"}),
    (18, {b"\1", b"\2"}),  # file format for writing
    (19, {b"\1", b"\2"}),  # and for reading
    (20, {b"\0"}),  # bytes reserved in each page
    (21, {b"\x40\x20\x20"}),  # fractions of payload
    (44, {bytes((0, 0, 0, number)) for number in range(5)}),  # schema format; 0 until there is a table
    (56, {b"\0\0\0\0", b"\0\0\0\1"}),  # UTF-8; 0 until there is a table
)

_CLOSED_SETS: Final = (
    ("snapshots", "log", set(LogKind)),
    ("streams", "log", set(LogKind)),
    ("gaps", "log", set(LogKind)),
    ("gaps", "cause", set(GapCause)),
    ("exports", "log", set(LogKind)),
    ("cycles", "outcome", set(CycleOutcome)),
    ("node_states", "log", set(LogKind)),
    ("node_states", "state", set(NodeState)),
    ("offered", "log", set(LogKind)),
)
_PATHS: Final = (
    ("snapshots", "key"),
    ("snapshots", "path"),
    ("snapshots", "series"),
    ("streams", "series"),
    ("streams", "reference"),
    ("streams", "path"),
    ("stream_parts", "path"),
    ("stream_parts", "series"),
)
_ODD_PATHS: Final = (  # those that need a closer look
    "SELECT {column} FROM {table} WHERE {column} LIKE '/%' OR {column} LIKE '%..%' OR instr({column}, char(0))"
)
_JSON: Final = (
    ("streams", "intent", dict),
    ("exports", "takes", list),
    ("exports", "arrivals", list),
    ("standings", "new_bytes", list),
    ("discovered", "facts", list),
    ("offered", "nodes", list),
)

_COLUMNS: Final = (
    'SELECT s.name, c.name, c.type, c."notnull", c.pk FROM sqlite_schema AS s, pragma_table_info(s.name) AS c'
    " WHERE s.type = 'table' ORDER BY s.name, c.cid"
)
_INDEXES: Final = (
    "SELECT s.name, s.tbl_name, c.name FROM sqlite_schema AS s, pragma_index_info(s.name) AS c"
    " WHERE s.type = 'index' ORDER BY s.name, c.seqno"
)


def row_reader(read: Callable[P, T]) -> Callable[P, T]:
    """Let a function that makes something of a row raise ``LedgerDamaged`` where the row is none that was written."""

    @wraps(read)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
            raise LedgerDamaged(f"a row is none that ddslogd wrote ({type(exc).__name__}: {exc})") from exc

    return run


def typed(row: Sequence[Any], *types: type | tuple[type, ...]) -> Sequence[Any]:
    """Return a row whose values have these types.

    Raises:
        LedgerDamaged: One has another.
    """
    if len(row) != len(types) or not all(map(isinstance, row, types)):
        raise LedgerDamaged(f"a row holds {', '.join(type(value).__name__ for value in row)}")
    return row


def types_of(row: type[tuple[Any, ...]]) -> tuple[type | tuple[type, ...], ...]:
    """Return the types of a row's columns, as the class that names them has them, for ``typed``."""
    return tuple(get_args(column) or column for column in get_type_hints(row).values())


def relative(path: str) -> str:
    """Return a path that stays within the storage directory.

    Raises:
        LedgerDamaged: It leaves it, or is no path.
    """
    if "\0" in path or path.startswith("/") or (".." in path and ".." in path.split("/")):
        raise LedgerDamaged(f"{path!r} is no path within the storage directory")
    return path


def refusal(exc: sqlite3.Error | UnicodeDecodeError, path: Path, *, at_open: bool = False) -> StorageError:
    """Return the error that says what SQLite's error means: damage, or a file that cannot be used now.

    Args:
        exc: SQLite's.
        path: The file.
        at_open: No statement was run but those that every start runs: one that fails found damage.
    """
    found = _is_damage(exc) or (at_open and _code(exc) not in {None, *_OF_THE_HOST})
    text = str(exc) if isinstance(exc, sqlite3.Error) else "its schema is no text"
    return LedgerDamaged(text) if found else StorageError(f"the ledger cannot be used ({text}): {path}")


def check_header(path: Path) -> None:
    """Check the file's first bytes, those that no version writes otherwise. Blocks.

    Not while the file is open: closing it would take away the locks that SQLite holds for this process.

    Raises:
        LedgerDamaged: They are others.
        StorageError: The disk refuses.
    """
    with disk(path):
        if not path.exists():
            return
        with path.open("rb") as file:
            header = file.read(_HEADER)
    if header and not all(any(header.startswith(one, at) for one in good) for at, good in _FIXED):
        raise LedgerDamaged("it does not begin as a database")


def check_pages(db: sqlite3.Connection, *, indexes: bool) -> None:
    """Let SQLite look at every page.

    Args:
        db: Open.
        indexes: Whether each index is compared with its table, too, which takes several times as long.

    Raises:
        LedgerDamaged: They are not in order.
        sqlite3.Error: As of any statement.
    """
    (said,) = db.execute("PRAGMA integrity_check(1)" if indexes else "PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise LedgerDamaged(str(said))


def check_structure(db: sqlite3.Connection, expected: Structure) -> None:
    """Compare tables and indexes with those that there have to be; others may be there next to them.

    Raises:
        LedgerDamaged: One is missing, or is another.
        sqlite3.Error: As of any statement.
    """
    found = structure(db)
    for name, columns in expected.items():
        if found.get(name) != columns:
            raise LedgerDamaged(f"{name} is not as ddslogd made it")


def structure(db: sqlite3.Connection) -> Structure:
    """Return what tables and indexes there are."""
    found: dict[str, list[Any]] = {}
    for query in (_COLUMNS, _INDEXES):
        for name, *what in db.execute(query):
            found.setdefault(name, []).append(tuple(what))
    return {name: tuple(columns) for name, columns in found.items()}


def check_texts(db: sqlite3.Connection) -> None:
    """Read every value of every table: what is a text has to be UTF-8.

    Raises:
        sqlite3.Error: As of any statement; for a text that is none, too: see ``refusal``.
    """
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        quoted = table.replace('"', '""')
        deque(db.execute(f'SELECT * FROM "{quoted}"'), maxlen=0)  # noqa: S608  # quoted


def check_values(db: sqlite3.Connection) -> None:
    """Read every value: texts have to be UTF-8, words those that there are, JSON what it is to be.

    Raises:
        LedgerDamaged: One is not.
        sqlite3.Error: As of ``check_texts``.
    """
    check_texts(db)
    for table, column, words in _CLOSED_SETS:
        for (word,) in db.execute(f"SELECT DISTINCT {column} FROM {table}"):  # noqa: S608  # constants
            if word not in words:
                raise LedgerDamaged(f"{table}.{column} is {word!r}")
    for table, column in _PATHS:
        for (path,) in db.execute(_ODD_PATHS.format(column=column, table=table)):
            relative(path)
    for table, column, kind in _JSON:
        for (text,) in db.execute(f"SELECT {column} FROM {table} WHERE {column} != ''"):  # noqa: S608  # constants
            _check_json(text, kind)


@row_reader
def _check_json(text: str, kind: type) -> None:
    if not isinstance(json.loads(text), kind):
        msg = f"{text[:40]!r} is no JSON {kind.__name__}"
        raise ValueError(msg)  # noqa: TRY004  # the text is wrong, not the call


def _is_damage(exc: sqlite3.Error | UnicodeDecodeError) -> bool:
    if isinstance(exc, UnicodeDecodeError):
        return True
    code = _code(exc)
    return str(exc).startswith(_UNDECODED) if code is None else code in _DAMAGE


def _code(exc: Exception) -> int | None:
    code = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else int(code) & _CODE
