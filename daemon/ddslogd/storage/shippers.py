"""The books of the log shippers: how much of a file they have read.

    program      books                          what a file is known by
    Filebeat     registry/filebeat/             device and inode; or SHA-256 of its first 1,024 bytes; or its path
    Vector       checkpoints.json               CRC-64 of its first line; or device and inode
    Fluent Bit   the database of its option DB  inode, with a name beside it
    Promtail     positions.yaml                 its path
    rsyslog      imfile-state:<inode>:<hash>    inode and SipHash of its first 512 bytes

Nothing of theirs is changed, made, or kept from being written. Whatever is in doubt counts as not read, so that the
file is kept. The source of each fact is a file in the program's own repository.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sqlite3
import stat
import time
from collections import defaultdict
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import yaml

from ddslogd.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_TEXT: Final = 64 * 1024 * 1024  # bytes; some 200,000 files; as values it takes five times as much memory
MAX_DATABASE: Final = 256 * 1024 * 1024  # bytes; it is not read as a whole
MAX_STATE: Final = 4 * 1024 * 1024  # bytes; a state file of imfile may hold a line that has no end yet
_MAX_DEPTH: Final = 32
_TRIES: Final = 5
_PAUSE_S: Final = 0.05
_BUSY_S: Final = 0.5
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


class Shipper(StrEnum):
    """The programs whose books can be read; the values stand in the configuration."""

    FILEBEAT = "filebeat"
    VECTOR = "vector"
    FLUENT_BIT = "fluent-bit"
    PROMTAIL = "promtail"
    RSYSLOG = "rsyslog"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What a shipper said it had read when its books were read.

    Three things the books cannot tell:

    - Files that begin alike, where these are known by how they begin. Two in one directory count as not read. So would
      two in different directories be for the shipper, but these are not looked for.
    - Where files are known by path, which one of two that had the same path. What was said before the file last changed
      (in its name, too) does not count. So a file that was rotated by renaming counts as read only after its own
      new path stands in the books.
    - Whether what was read has arrived. Filebeat enters what its output has confirmed, Vector too where
      acknowledgements are on, the others what they have read.
    """

    _claims: Mapping[_Mark, tuple[_Claim, ...]]
    _kinds: frozenset[type[_Mark]]
    _holders: dict[tuple[Path, type[_Mark]], Mapping[_Mark, set[int]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # inodes; a memo: the books say nothing of what came after them

    def position(self, path: Path) -> int | None:
        """Give how many bytes of the file the shipper has read: the least where several inputs read it.

        Blocks: the file is opened, and where files are known by how they begin, once its whole directory.

        Returns:
            None where the books do not speak of this very file, or it is not sure that they do.
        """
        try:
            with _opened(path) as file:
                positions = [claim.position for claim in self._of(file) if claim.speaks_of(file)]
                size = file.status.st_size
        except OSError:
            return None
        known = [position for position in positions if position is not None]
        if not known or len(known) < len(positions) or min(known) > size:
            return None  # a file that is shorter than what was read of it is another one, or was cut
        return min(known)

    def _of(self, file: _File) -> Iterator[_Claim]:
        for kind in self._kinds:
            mark = kind.of(file)
            if mark is not None and mark in self._claims and self._is_its_own(mark, file):
                yield from self._claims[mark]

    def _is_its_own(self, mark: _Mark, file: _File) -> bool:
        if not isinstance(mark, _FirstLine | _Beginning):
            return True
        key = (file.path.parent, type(mark))
        if key not in self._holders:
            self._holders[key] = _holders(file.path.parent, type(mark))
        return self._holders[key].get(mark) == {file.status.st_ino}


def read(shipper: Shipper, registry: Path) -> Books:
    """Read a shipper's books. Blocks.

    Args:
        shipper: Whose.
        registry: Filebeat's directory ``registry`` or the one in it; Vector's ``checkpoints.json`` or its directory,
            ``<data_dir>/<source>``; Fluent Bit's database; Promtail's positions file; rsyslog's work directory.

    Raises:
        StorageError: There are none, they cannot be read, or the program writes none like these. One entry that makes
            no sense is passed over.
    """
    claims = defaultdict(list)
    try:
        for mark, claim in _entries(shipper, registry):
            claims[mark].append(claim)
    except OSError as exc:
        raise StorageError(_refusal(shipper, registry, exc)) from exc
    except ValueError as exc:
        raise StorageError(
            f"this is not what {shipper} writes: {exc}; set storage.shipper.kind and storage.shipper.registry right"
        ) from exc
    kinds = frozenset(type(mark) for mark in claims)
    return Books(_claims={mark: tuple(found) for mark, found in claims.items()}, _kinds=kinds)


def _entries(shipper: Shipper, registry: Path) -> Iterable[tuple[_Mark, _Claim]]:
    match shipper:
        case Shipper.FILEBEAT:
            return _filebeat(registry)
        case Shipper.VECTOR:
            return _vector(registry)
        case Shipper.FLUENT_BIT:
            return _fluent_bit(registry)
        case Shipper.PROMTAIL:
            return _promtail(registry)
        case Shipper.RSYSLOG:
            return _rsyslog(registry)


def _refusal(shipper: Shipper, registry: Path, exc: OSError) -> str:
    path = exc.filename or registry
    match exc:
        case FileNotFoundError() | NotADirectoryError():
            return (
                f"{shipper} keeps no books here: {path}; set storage.shipper.registry right, or wait until it has "
                f"read a first file"
            )
        case PermissionError():
            return (
                f"ddslogd may not read the books of {shipper}: {path}; add its user to the group that may, or give "
                f"its service CAP_DAC_READ_SEARCH"
            )
        case _:
            return f"{exc.strerror} ({errno.errorcode.get(exc.errno or 0, '?')}): {path}"


# --- what a file is known by ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """An open file whose position is asked for."""

    path: Path
    fd: int
    status: os.stat_result

    def head(self, size: int) -> bytes:
        return os.pread(self.fd, size, 0)


@dataclass(frozen=True, slots=True)
class _Node:
    device: int
    inode: int

    @classmethod
    def of(cls, file: _File) -> _Node | None:
        return cls(file.status.st_dev, file.status.st_ino)


@dataclass(frozen=True, slots=True)
class _Inode:
    inode: int

    @classmethod
    def of(cls, file: _File) -> _Inode | None:
        return cls(file.status.st_ino)


@dataclass(frozen=True, slots=True)
class _Path:
    path: str

    @classmethod
    def of(cls, file: _File) -> _Path | None:
        return cls(os.path.normpath(file.path.absolute()))


@dataclass(frozen=True, slots=True)
class _Beginning:
    """Filebeat's fingerprint with its defaults.

    elastic/beats, filebeat/input/filestream/fscanner.go: offset 0, length 1024. What is shorter has none, or (9.5) a
    hash of something else in its place.
    """

    sha256: str

    @classmethod
    def of(cls, file: _File) -> _Beginning | None:
        head = file.head(1024)
        return cls(hashlib.sha256(head).hexdigest()) if len(head) == 1024 else None  # noqa: PLR2004  # as above


@dataclass(frozen=True, slots=True)
class _FirstLine:
    """Vector's fingerprint with its defaults.

    vectordotdev/vector, lib/file-source-common/src/fingerprinter.rs and src/sources/file.rs: the first line with its
    end; of a longer one than max_line_bytes that much. A line without an end has none.
    """

    crc: int

    @classmethod
    def of(cls, file: _File) -> _FirstLine | None:
        head = file.head(_MAX_LINE)
        end = head.find(b"\n") + 1
        return cls(_crc64(head[:end] if end else head)) if end or len(head) == _MAX_LINE else None


_MAX_LINE: Final = 102_400  # bytes


@dataclass(frozen=True, slots=True)
class _ImfileState:
    """The name of a state file.

    rsyslog/rsyslog, plugins/imfile/imfile.c: while a file has less than 512 bytes, its inode alone. Seen with 8.2302.
    """

    inode: int
    head: str

    @classmethod
    def of(cls, file: _File) -> _ImfileState | None:
        head = file.head(512)
        return cls(file.status.st_ino, _siphash(head) if len(head) == 512 else "")  # noqa: PLR2004  # as above


_Mark = _Node | _Inode | _Path | _Beginning | _FirstLine | _ImfileState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What stands in the books behind a mark.

    Attributes:
        position: Bytes read; None where what stands there is none.
        name: The path beside an inode number without a device; empty where the mark suffices.
        written_ns: When it stood there at the latest, where the mark is a path; None where time does not matter.
    """

    position: int | None
    name: str = ""
    written_ns: int | None = None

    def speaks_of(self, file: _File) -> bool:
        if self.written_ns is not None and self.written_ns < file.status.st_ctime_ns:
            return False
        return not self.name or _may_be_called(self.name, file)


def _may_be_called(name: str, file: _File) -> bool:
    """Tell whether a name can be the file's own or the one it had before it was rotated.

    The directory does not matter: in a container it is another one. That the name may be outdated does not either.
    """
    base = name.rpartition("/")[2]
    if not f"{file.path.name}.".startswith(f"{base}."):
        return False
    try:
        there = os.stat(name)  # noqa: PTH116  # a name from outside; no path is made of it
    except (OSError, ValueError):
        return True
    return there.st_ino != file.status.st_ino or there.st_dev == file.status.st_dev  # same number, another disk


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """Open a regular file, no link; else OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        yield _File(path=path, fd=fd, status=status)
    finally:
        os.close(fd)


def _holders(directory: Path, kind: type[_Mark]) -> Mapping[_Mark, set[int]]:
    """Give the inodes of a directory's files by their marks."""
    holders = defaultdict(set)
    for path in directory.iterdir():
        with suppress(OSError), _opened(path) as file:
            mark = kind.of(file)
            if mark is not None:
                holders[mark].add(file.status.st_ino)
    return holders


# --- the programs -----------------------------------------------------------------------------------------------------

# elastic/beats. filebeat/input/file/identifier.go: filebeat::logs::native::<inode>-<device>, after "logs::" with a hash
# and "-" where the input has meta data. filebeat/input/filestream/identifier.go and internal/input-logfile/manager.go:
# filestream::<input's id>::<identity>::<value>, with "-" and a suffix where the input reads one stream of a container.
# The identity inode_marker names no device and is passed over.
_FILEBEAT_KEY: Final = re.compile(
    r"(?:filebeat::logs::(?:[0-9a-f]+-)?|filestream::.+::)(?:"
    r"native::(?P<inode>\d{1,20})-(?P<device>\d{1,20})(?:-.*)?"
    r"|fingerprint::(?P<sha256>[0-9a-f]{64})(?:-.*)?"
    r"|path::(?P<path>/.*))",
    re.DOTALL | re.ASCII,
)


def _filebeat(registry: Path) -> Iterator[tuple[_Mark, _Claim]]:
    home = registry / "filebeat" if (registry / "filebeat").is_dir() else registry
    meta = _json(home / "meta.json")
    if not isinstance(meta, dict) or meta.get("version") != "1":  # memlog/diskstore.go: storeVersion
        raise ValueError(f"no registry of version 1: {home / 'meta.json'}")
    for key, value in _filebeat_states(home).items():
        found = _FILEBEAT_KEY.fullmatch(key)
        if found is None or value.get("ttl") == 0:  # filestream/internal/input-logfile/store.go: 0 is to be removed
            continue
        cursor = value if key.startswith("filebeat::") else value.get("cursor")
        position = _position(cursor.get("offset") if isinstance(cursor, dict) else None)
        if found["path"]:
            yield _Path(os.path.normpath(found["path"])), _Claim(position=position, written_ns=_filebeat_ns(value))
        elif found["sha256"]:
            yield _Beginning(found["sha256"]), _Claim(position=position)
        else:
            yield _Node(int(found["device"]), int(found["inode"])), _Claim(position=position)


def _filebeat_ns(state: dict[str, Any]) -> int:
    """Give when a state was written, in ns since the epoch; 0 where it does not say.

    As published registries have it: two numbers, the second counts seconds, and of the first the lower 32 bits
    nanoseconds. The input log calls it ``timestamp``.
    """
    match state.get("updated", state.get("timestamp")):
        case [int(fraction), int(seconds)]:
            return seconds * 10**9 + (fraction & 0xFFFFFFFF)
        case _:
            return 0


def _filebeat_states(home: Path) -> dict[str, dict[str, Any]]:
    """Read the newest checkpoint and what was logged since; give the states by key.

    memlog/store.go: active.dat is not needed, the checkpoint with the highest number is the newest. One that is made
    while we read empties the log and takes the old one away.
    """
    for _ in range(_TRIES):
        newest = _newest_checkpoint(home)
        with suppress(FileNotFoundError):
            log = _text(home / "log.json") if (home / "log.json").exists() else ""
            states = _checkpoint(home / f"{newest}.json") if newest else {}
            if _newest_checkpoint(home) == newest:
                return _replayed(states, newest, log, home / "log.json")
    raise OSError(errno.EBUSY, "being rewritten again and again", str(home))


def _newest_checkpoint(home: Path) -> int:
    """Give the highest number of a checkpoint; 0 where there is none."""
    names = (re.fullmatch(r"(\d{1,20})\.json", path.name, re.ASCII) for path in home.iterdir())
    return max((int(name[1]) for name in names if name), default=0)


def _checkpoint(path: Path) -> dict[str, dict[str, Any]]:
    """Read an array of states, each with its key as ``_key``. memlog/diskstore.go: checkpointTmpFile."""
    states = _json(path)
    if not isinstance(states, list):
        raise ValueError(f"no array: {path}")  # noqa: TRY004  # it is the file's type that is wrong
    found = (state for state in states if isinstance(state, dict))
    return {key: state for state in found if isinstance(key := state.get("_key"), str)}


def _replayed(states: dict[str, dict[str, Any]], number: int, log: str, path: Path) -> dict[str, dict[str, Any]]:
    """Apply what was logged after a checkpoint, as far as Filebeat itself would.

    memlog/diskstore.go, loadLogFile: numbers up to the checkpoint's are old, the others follow one on the other. At
    anything else (a line that was cut when it died, or is being written) it stops with what it has.
    """
    lines = [line for line in log.split("\n")[:-1] if line.strip()]
    if lines and not isinstance(_or_none(lines[0]), dict):
        raise ValueError(f"no log of operations: {path}")
    for action, operation in zip(map(_or_none, lines[::2]), map(_or_none, lines[1::2]), strict=False):
        if not isinstance(action, dict) or not isinstance(operation, dict):
            break
        if isinstance(action.get("id"), int) and 0 <= action["id"] <= number:
            continue
        if action.get("id") != number + 1:
            break
        number += 1
        _apply(states, action.get("op"), operation.get("k"), operation.get("v"))
    return states


def _apply(states: dict[str, dict[str, Any]], op: object, key: object, value: object) -> None:
    if not isinstance(key, str):
        return
    states.pop(key, None)
    if op == "set" and isinstance(value, dict):
        states[key] = value


def _vector(registry: Path) -> Iterator[tuple[_Mark, _Claim]]:
    """Read checkpoints. vectordotdev/vector, lib/file-source-common/src/checkpointer.rs.

    Passed over are the fingerprints of older versions: ``checksum`` (of the first 256 bytes), ``unknown``, and those of
    first lines that were filled up with zeroes. Vector puts others in their place when it finds the file again.
    """
    path = registry / "checkpoints.json" if registry.is_dir() else registry
    state = _json(path)
    if not isinstance(state, dict) or state.get("version") != "1" or not isinstance(state.get("checkpoints"), list):
        raise ValueError(f"no checkpoints of version 1: {path}")
    for checkpoint in state["checkpoints"]:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get("fingerprint"), dict):
            claim = _Claim(position=_position(checkpoint.get("position")))
            for kind, value in checkpoint["fingerprint"].items():
                if mark := _vector_mark(kind, value):
                    yield mark, claim


def _vector_mark(kind: str, value: object) -> _Mark | None:
    match kind, value:
        case (("first_lines_checksum" | "first_line_checksum"), int(crc)):
            return _FirstLine(crc)
        case "dev_inode", [int(device), int(inode)]:
            return _Node(device, inode)
        case _:
            return None


def _fluent_bit(registry: Path) -> Iterator[tuple[_Mark, _Claim]]:
    """Read the table of in_tail. fluent/fluent-bit, plugins/in_tail/tail_sql.h.

    A row keeps its inode; its name is the one from before the rotation until Fluent Bit notices. There is no device.
    """
    for name, offset, inode in _rows(registry):
        if isinstance(name, str) and name and isinstance(inode, int):
            yield _Inode(inode), _Claim(position=_position(offset), name=name)


def _rows(registry: Path) -> list[tuple[object, ...]]:
    for _ in range(_TRIES):
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
    with _opened_registry(path, MAX_DATABASE) as (_, status):
        changed = (status.st_mtime_ns, status.st_size)
    log, journal = (_first_byte(path.with_name(f"{path.name}-{end}")) for end in ("wal", "journal"))
    return _Traces(live=log != 0, writing=journal != 0, changed=changed)


def _first_byte(path: Path) -> int:
    """Give a file's first byte; 0 where there is none. SQLite passes over a log or journal that begins with 0."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(1), "little")
    except FileNotFoundError:
        return 0


def _selected(path: Path, *, live: bool) -> list[tuple[object, ...]] | sqlite3.Error:
    """Query the table; give what went wrong where something did.

    With mode=ro alone SQLite makes a write-ahead log and its index beside a database that has none. Where none is
    needed, immutable does without, and without a lock too, on which Fluent Bit would lose an offset in silence. Where
    the index is missing, readonly_shm refuses to make it.
    """
    how = "readonly_shm=1" if live else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&{how}", uri=True, timeout=_BUSY_S)) as db:
            db.text_factory = os.fsdecode
            return db.execute("SELECT name, offset, inode FROM in_tail_files").fetchall()
    except sqlite3.Error as exc:
        return exc


def _promtail(registry: Path) -> Iterator[tuple[_Mark, _Claim]]:
    """Read positions. grafana/loki, clients/pkg/promtail/positions/positions.go.

    The file is written anew every sync period, changed or not. Targets that are no files have keys that no file has.
    """
    text, status = _bytes(registry)
    try:
        found = _scalars_of(yaml.parse(text, _YamlLoader), "positions")
    except (yaml.YAMLError, ValueError) as exc:
        raise ValueError(f"no YAML: {registry}") from exc
    if found is None:
        raise ValueError(f"no positions: {registry}")
    for path, value in found.items():
        position = _position(int(value)) if re.fullmatch(r"\d{1,19}", value, re.ASCII) else None
        yield _Path(os.path.normpath(path)), _Claim(position=position, written_ns=status.st_mtime_ns)


def _scalars_of(events: Iterator[Any], key: str) -> dict[str, str] | None:
    """Give the pairs of scalars in the mapping under a key of the document; None where there is none.

    Nodes are never built, so aliases cost nothing.
    """
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            break
    if not isinstance(next(events, None), yaml.MappingStartEvent):
        return None
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name, value = _past(event, events), next(events)
        if name == key and isinstance(value, yaml.MappingStartEvent):
            return dict(_pairs(events))
        _past(value, events)
    return None


def _pairs(events: Iterator[Any]) -> Iterator[tuple[str, str]]:
    """Give the pairs of scalars of the mapping that has begun."""
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key, value = _past(event, events), _past(next(events), events)
        if key is not None and value is not None:
            yield key, value


def _past(event: Any, events: Iterator[Any]) -> str | None:
    """Go past a node that begins with an event; give its text, None where it is no scalar.

    Raises:
        ValueError: It is nested deeper than anything Promtail writes; the time it takes grows with the square.
    """
    if isinstance(event, yaml.ScalarEvent):
        return str(event.value)
    depth = int(isinstance(event, yaml.CollectionStartEvent))
    while depth:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    return None


_IMFILE_STATE: Final = re.compile(r"imfile-state:(\d{1,20})(?::([0-9a-f]{16}))?", re.ASCII)


def _rsyslog(registry: Path) -> Iterator[tuple[_Mark, _Claim]]:
    """Read the state files of imfile. rsyslog/rsyslog, plugins/imfile/imfile.c; seen with 8.2302.

    Other files are passed over: those of queues, and the states of older versions, which are named by path.
    """
    names = (_IMFILE_STATE.fullmatch(path.name) for path in registry.iterdir())
    states = [(name, _imfile_state(registry / name[0])) for name in names if name]
    if not any(state for _, state in states):
        raise ValueError(f"no state files of imfile: {registry}")
    for name, state in states:
        head, called = name[2] or "", "" if name[2] else str(state.get("filename", "/"))
        yield _ImfileState(int(name[1]), head), _Claim(position=_imfile_position(state), name=called)


def _imfile_state(path: Path) -> dict[str, Any]:
    """Read a state file; empty where it is gone or makes no sense: it is written over in place."""
    with suppress(FileNotFoundError):
        state = _or_none(_text(path, MAX_STATE))
        return state if isinstance(state, dict) and "curr_offs" in state else {}
    return {}


def _imfile_position(state: dict[str, Any]) -> int | None:
    """Give the position; None while imfile has read lines, or a part of one, that it has not passed on."""
    if state.get("prev_line_segment") or state.get("prev_msg_segment"):
        return None
    return _position(state.get("curr_offs"))


# --- reading what others write ----------------------------------------------------------------------------------------


def _position(value: object) -> int | None:
    """Give a position; None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    return None


@contextmanager
def _opened_registry(path: Path, limit: int) -> Iterator[tuple[int, os.stat_result]]:
    """Open one file of a registry; ValueError where it is no file, or larger than the limit."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"no file: {path}")
        if status.st_size > limit:
            raise ValueError(f"larger than {limit // 1024 // 1024} MiB: {path}")
        yield fd, status
    finally:
        os.close(fd)


def _bytes(path: Path, limit: int = MAX_TEXT) -> tuple[bytes, os.stat_result]:
    with _opened_registry(path, limit) as (fd, status), open(fd, "rb", closefd=False) as file:
        return file.read(limit), status


def _text(path: Path, limit: int = MAX_TEXT) -> str:
    """Read a file. Bytes that are no UTF-8 become what they are in the names of files."""
    return _bytes(path, limit)[0].decode("utf-8", "surrogateescape")


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text, parse_int=_int)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"no JSON: {path}") from exc


def _or_none(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text, parse_int=_int)
    return None


def _int(text: str) -> int:
    """Read an integer; -1 for one that is longer than any position: Python refuses the longest."""
    return int(text) if len(text) <= 20 else -1  # noqa: PLR2004  # digits of 2**64


# --- checksums --------------------------------------------------------------------------------------------------------

_MASK: Final = 2**64 - 1


def _crc_row(byte: int) -> int:
    value = byte << 56
    for _ in range(8):
        value = (value << 1) ^ (0x42F0E1EBA9EA3693 if value >> 63 else 0)
        value &= _MASK
    return value


_CRC_TABLE: Final = tuple(map(_crc_row, range(256)))


def _crc64(data: bytes) -> int:
    """CRC-64/ECMA-182: not reflected, begins with zero, not inverted at the end."""
    value = 0
    for byte in data:
        value = _CRC_TABLE[value >> 56 ^ byte] ^ (value << 8 & _MASK)
    return value


def _siphash(block: bytes) -> str:
    """SipHash-2-4 of whole words under the key 00 01 … 0f, in hex as imfile writes it. Aumasson, Bernstein, 2012."""
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    v = [word ^ key[i % 2] for i, word in enumerate(_SIPHASH_BEGIN)]
    words = [int.from_bytes(block[at : at + 8], "little") for at in range(0, len(block), 8)]
    for word in (*words, len(block) % 256 << 56):
        v[3] ^= word
        _sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _sip_rounds(v, 4)
    return (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little").hex()


_SIPHASH_BEGIN: Final = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def _sip_rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        for a, b, turn in ((0, 1, 13), (2, 3, 16)):
            v[a] = v[a] + v[b] & _MASK
            v[b] = _turned(v[b], turn) ^ v[a]
        v[0] = _turned(v[0], 32)
        for a, b, turn in ((2, 1, 17), (0, 3, 21)):
            v[a] = v[a] + v[b] & _MASK
            v[b] = _turned(v[b], turn) ^ v[a]
        v[2] = _turned(v[2], 32)


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK
