"""Where a file lies, and how its names are made: pure, and safe whatever the cloud calls things.

    <directory>/snapshots/<instance>/<node>/<file_name>.<updated>.log           a snapshot: whole and final
    <directory>/snapshots/<instance>/<node>/<file_name>.<updated>.slow.log      the same of the slow log
    <directory>/snapshots/<instance>/<node>/.<the same>~<total>~<modified>~<etag>.part     one that is growing
    <directory>/streams/<instance>/<node>/<born>.log      lines of the error log, each once; appended to until the next
    <directory>/streams/<instance>/<node>/<born>.slow.log     the same of the slow log
    <directory>/streams/<instance>/<node>.log             a link to the newest; ``.slow.log`` the same
    <directory>/streams/<instance>/<node>.log.<rotated>   a file of the old layout, and known to the stream still
    <directory>/{snapshots,streams}/<instance>/.owner.json    whose the directory is, see ``owner_file``

A part's name holds what proves its identity, so that a part and its proof cannot be parted by a crash. A stream's file
is never renamed, and its name is never used again: path and byte offset are the identity of a line.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import Identity

if TYPE_CHECKING:
    from ddslogd.model.snapshot import LogFile

SNAPSHOTS = "snapshots"
STREAMS = "streams"
PART = ".part"
OWNER = ".owner.json"
MAX_NAME = 255  # bytes of one name, on every file system that matters
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file names on Windows, nor its shares
_ALTERED_LENGTH = 64
_STAMPED = re.compile(r"\.(\d{8}T\d{6}\.\d{3})Z(?:\.slow)?\.log$")
_ROTATED = re.compile(r"\.(\d{8}T\d{6}\.\d{3})Z")
_ROTATED_END = re.compile(rf"{_ROTATED.pattern}\Z")
_BORN = re.compile(r"(\d{8}T\d{6}\.\d{3})Z(\.log|\.slow\.log)")
_LAST_YEAR = 9999  # no name is above one of its last millisecond
_ENDINGS = {LogKind.ERROR: ".log", LogKind.SLOW: ".slow.log"}


@lru_cache(maxsize=4096)
def segment(name: str) -> str:
    """Make one path segment of any text; different texts give different segments.

    Plain names stay as they are. Others keep what is plain in them, then ``~`` (which no plain name has) and a hash.
    """
    if _PLAIN.fullmatch(name) and not name.endswith(".") and not _DEVICE.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_ALTERED_LENGTH].lstrip("._-") or "_"
    if _DEVICE.fullmatch(readable):  # "con.txt~…" would be one still
        readable = f"_{readable}"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}~{digest[:16]}"


def stamp(moment: datetime) -> str:
    """Return a moment as it is in names: UTC, milliseconds, no colon."""
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"


def key(file: LogFile) -> str:
    """Return the file's key in the ledger: its snapshot's path, which one identity has and no other."""
    name = f"{segment(file.file_name)}.{stamp(file.updated_at)}{_ENDINGS[file.log]}"
    return f"{SNAPSHOTS}/{segment(file.instance)}/{segment(file.node)}/{name}"


def snapshot_path(file: LogFile) -> PurePosixPath:
    """Return where a file's snapshot lies, relative to the storage directory: one place for one identity."""
    return PurePosixPath(key(file))


def series(key: str) -> str:
    """Return what a snapshot continues, by its key: its node's directory and its kind of log."""
    return f"{key.rpartition('/')[0]}/*{_ENDINGS[log_kind(key)]}"


def log_kind(key: str) -> LogKind:
    """Return of which kind of log a snapshot is, by its key."""
    return LogKind.SLOW if key.endswith(_ENDINGS[LogKind.SLOW]) else LogKind.ERROR


def stream_link(key: str) -> PurePosixPath:
    """Return where the link to the newest file of a stream is, by the key of a snapshot or by the series.

    It is relative to the storage directory. Nodes ``a`` and ``a.slow`` would share a name: what ends like the name of
    another kind of log is altered. In the old layout, the file itself was there.
    """
    _, instance, node, _ = key.split("/")
    ending = _ENDINGS[log_kind(key)]
    if f"{node}.log".endswith(_ENDINGS[LogKind.SLOW]):
        node = f"{node}~"
    return PurePosixPath(STREAMS, instance, f"{node}{ending}")


def stream_directory(key: str) -> PurePosixPath:
    """Return where the files of a stream are, by the key of a snapshot or by the series; as ``stream_link`` does.

    A name that ends with the same letter as a link's is altered. The directory of node ``a.log`` would meet the link of
    node ``a``; and rsyslog follows a link in the place of a directory, unless its pattern ends with ``[!g]``.
    """
    _, instance, node, _ = key.split("/")
    return PurePosixPath(STREAMS, instance, f"{node}~" if node.lower().endswith("g") else node)


def stream_file(key: str, moment: datetime) -> PurePosixPath:
    """Return the path of the file of a stream that begins at a moment, by the key of a snapshot or by the series."""
    return stream_directory(key) / f"{stamp(moment)}{_ENDINGS[log_kind(key)]}"


def born_at(name: str, *, log: LogKind) -> datetime | None:
    """Return when a file of a stream of a kind began, by its name; None where it is no such file."""
    found = _BORN.fullmatch(name)
    moment = _moment(found[1]) if found and found[2] == _ENDINGS[log] else None
    return moment if moment and moment.year < _LAST_YEAR else None


def old_rotated_path(link: PurePosixPath, moment: datetime) -> PurePosixPath:
    """Return the name that a stream's file of the old layout takes when it is renamed."""
    return link.with_name(f"{link.name}.{stamp(moment)}")


def is_any_old_rotated(name: str) -> bool:
    """Return whether this may be a name that a stream's file of the old layout took, whatever it was called."""
    return _ROTATED_END.search(name) is not None


def is_old_rotated(name: str, *, of: str) -> bool:
    """Return whether this is a name that a stream's file of the old layout took, when it was called ``of``."""
    found = _ROTATED.fullmatch(name.removeprefix(of))
    return found is not None and _moment(found[1]) is not None


def file_name(final_name: str) -> str:
    """Read back the cloud's name of the file, as far as it is in a snapshot's name."""
    return _STAMPED.sub("", final_name)


def is_snapshot_name(name: str) -> bool:
    """Return whether a snapshot can have this name."""
    return name.endswith(".log") and not name.startswith(".") and updated_at(name) is not None


def updated_at(final_name: str) -> datetime | None:
    """Read back the moment that is in a snapshot's name; None where none does."""
    found = _STAMPED.search(final_name)
    return _moment(found[1]) if found else None


def _moment(text: str) -> datetime | None:
    date, time = int(text[:8]), int(text[9:15])  # strptime takes ten times as long, and there may be a million of them
    try:
        return datetime(
            date // 10000,
            date // 100 % 100,
            date % 100,
            time // 10000,
            time // 100 % 100,
            time % 100,
            int(text[16:]) * 1000,
            tzinfo=UTC,
        )
    except ValueError:
        return None


def part_name(final_name: str, identity: Identity) -> str:
    """Return the hidden name of a snapshot that is growing; without the identity where it does not fit."""
    if identity.total is not None:
        proof = (str(identity.total), identity.last_modified, identity.etag)
        name = "~".join((f".{final_name}", *map(_quoted, proof))) + PART
        if len(name) <= MAX_NAME:
            return name
    return f".{final_name}{PART}"


def _quoted(text: str) -> str:
    # "~" divides the fields; a header may hold bytes that are no UTF-8, which aiohttp gives as surrogates.
    return quote(text, safe="", errors="surrogateescape").replace("~", "%7E")


def read_part_name(name: str) -> tuple[str, Identity | None] | None:
    """Read a part's name: the final name and the identity, if it holds one; None where it is no part's name."""
    if not (name.startswith(".") and name.endswith(PART)):
        return None
    final_name, *proof = name[1 : -len(PART)].rsplit("~", 3)
    # A final name may hold "~" itself, but ends in ".log", which no field of the proof does.
    if len(proof) == 3 and final_name.endswith(".log") and proof[0].isdecimal():  # noqa: PLR2004  # as written above
        total, last_modified, etag = (unquote(text, errors="surrogateescape") for text in proof)
        return final_name, Identity(etag=etag, total=int(total), last_modified=last_modified)
    return name[1 : -len(PART)], None
