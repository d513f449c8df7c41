"""Where a file lies, and how its names are made: pure, and safe whatever the cloud calls things.

    <directory>/snapshots/<instance>/<node>/<file_name>.<updated>.log           a snapshot: whole and final
    <directory>/snapshots/<instance>/<node>/<file_name>.<updated>.slow.log      the same of the slow log
    <directory>/snapshots/<instance>/<node>/.<the same>~<total>~<modified>~<etag>.part     one that is growing
    <directory>/streams/<instance>/<node>.log             all lines of the error log, each once; appended to
    <directory>/streams/<instance>/<node>.slow.log        the same of the slow log
    <directory>/streams/<instance>/<node>.log.<rotated>   what was appended to until then

A part's name holds what proves its identity, so that a part and its proof cannot be parted by a crash.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from ddslogd.models import Identity, LogKind

if TYPE_CHECKING:
    from ddslogd.models import LogFile

SNAPSHOTS = "snapshots"
STREAMS = "streams"
PART = ".part"
MAX_NAME = 255  # bytes of one name, on every file system that matters
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file names on Windows, nor its shares
_ALTERED_LENGTH = 64
_STAMPED = re.compile(r"\.(\d{8}T\d{6}\.\d{3})Z(?:\.slow)?\.log$")
_ROTATED = re.compile(r"\.(\d{8}T\d{6}\.\d{3})Z")
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
    """Give a moment as it stands in names: UTC, milliseconds, no colon."""
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"


def key(file: LogFile) -> str:
    """Give the file's key in the ledger: its snapshot's path, which one identity has and no other."""
    name = f"{segment(file.file_name)}.{stamp(file.updated_at)}{_ENDINGS[file.log]}"
    return f"{SNAPSHOTS}/{segment(file.instance)}/{segment(file.node)}/{name}"


def snapshot_path(file: LogFile) -> PurePosixPath:
    """Give where a file's snapshot lies, relative to the storage directory: one place for one identity."""
    return PurePosixPath(key(file))


def series(key: str) -> str:
    """Give what a snapshot continues, by its key: its node's directory and its kind of log."""
    return f"{key.rpartition('/')[0]}/*{_ENDINGS[log_kind(key)]}"


def log_kind(key: str) -> LogKind:
    """Tell of which kind of log a snapshot is, by its key."""
    return LogKind.SLOW if key.endswith(_ENDINGS[LogKind.SLOW]) else LogKind.ERROR


def stream_path(key: str) -> PurePosixPath:
    """Give where the stream of a snapshot's node and kind is, by the snapshot's key, relative to the storage directory.

    Nodes ``a`` and ``a.slow`` would share a name: what ends like the name of another kind of log is altered.
    """
    _, instance, node, _ = PurePosixPath(key).parts
    ending = _ENDINGS[log_kind(key)]
    if f"{node}.log".endswith(_ENDINGS[LogKind.SLOW]):
        node = f"{node}~"
    return PurePosixPath(STREAMS, instance, f"{node}{ending}")


def rotated_path(stream: PurePosixPath, moment: datetime) -> PurePosixPath:
    """Give the name that a stream's file takes when it is rotated away."""
    return stream.with_name(f"{stream.name}.{stamp(moment)}")


def rotated_at(name: str, *, of: str) -> datetime | None:
    """Read back when a file was rotated away from the live file ``of``; None where it is no such file."""
    found = _ROTATED.fullmatch(name.removeprefix(of))
    return _moment(found[1]) if found else None


def file_name(final_name: str) -> str:
    """Read back the cloud's name of the file, as far as it stands in a snapshot's name."""
    return _STAMPED.sub("", final_name)


def is_snapshot_name(name: str) -> bool:
    """Tell whether a snapshot can have this name."""
    return name.endswith(".log") and not name.startswith(".") and updated_at(name) is not None


def updated_at(final_name: str) -> datetime | None:
    """Read back the moment that stands in a snapshot's name; None where none does."""
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
    """Give the hidden name of a snapshot that is growing; without the identity where it does not fit."""
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
