"""Which files go, oldest first. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ddslogd.model.instance import LogKind
from ddslogd.scheduling.clock import EPOCH
from ddslogd.storage.disk_space import room_at
from ddslogd.storage.file_age import Ages, ages
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.database import log_moment, moment_of
from ddslogd.storage.ledger.integrity_check import row_reader
from ddslogd.storage.ledger.snapshot_records import FILE_NAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Iterator, Mapping
    from datetime import datetime, timedelta
    from pathlib import Path

    from ddslogd.config.settings import Storage
    from ddslogd.storage.shippers.read_positions import Registry


NOT_COMPARED = (
    "NOT EXISTS (SELECT 1 FROM streams WHERE streams.series = s.series AND reference = s.key)"
    " AND key != (SELECT path FROM snapshots AS n WHERE n.series = s.series AND n.published"
    " ORDER BY n.updated_ms DESC LIMIT 1)"
)
"""The next export is not compared with a snapshot."""
STOOD_FOR = "EXISTS (SELECT 1 FROM streams WHERE streams.series = s.series AND intent = '' AND reference != s.key)"
"""A stream stands for a snapshot, or has come further than it."""
LATER = "s.size + (SELECT coalesce(sum(size), 0) FROM stream_parts AS l WHERE l.series = p.series AND l.path > p.path)"
"""Bytes of a stream behind a closed file of it: its names are in order."""
LAST_WINDOW = (
    "(SELECT size FROM snapshots AS n WHERE n.series = p.series AND n.published ORDER BY n.updated_ms DESC LIMIT 1)"
)
"""Bytes of the last export of a stream."""


class FileKind(StrEnum):
    """What limits apply to, in the order in which they make room: what snapshots hold, streams hold too."""

    SNAPSHOT = "snapshot"
    STREAM = "stream"


class Reason(StrEnum):
    """Why a file goes."""

    AGE = "age"
    SIZE = "size"
    ROOM = "room"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file that is on disk and that nothing needs any more.

    Attributes:
        path: Relative to the storage directory.
        size: Bytes.
        at: By which its age is told: when the cloud made the snapshot, or it came, whichever was first; when the
            stream's file was closed, or its last line was written.
        first_at: The first time that its lines tell.
        last_at: The last one.
    """

    kind: FileKind
    path: str
    series: str
    instance: str
    log: LogKind
    node: str
    size: int
    at: datetime
    first_at: datetime | None
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A file that goes, and why.

    Attributes:
        unshipped: Whether the shipper had yet to read it, as far as is known.
    """

    file: Kept
    reason: Reason
    unshipped: bool = False


def planned(
    settings: Storage, *, streamed: bool, registry: Registry, now: datetime, stuck: Container[str] = ()
) -> tuple[Removal, ...]:
    """Return what may go now, by the host's clock, unless a cloud's is known to differ from it by more than a day.

    Blocks, and reads the ledger's file by itself, so that its thread is not kept waiting.

    Args:
        settings: The directory, and its limits.
        streamed: Whether there are streams.
        registry: What the shipper has read.
        now: By which files are old.
        stuck: The paths of files that could not be removed.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: The disk or the ledger refuses.
    """
    return plan(settings, streamed=streamed, registry=registry, now=now, read=None, stuck=stuck)[0]


def plan(
    settings: Storage,
    *,
    streamed: bool,
    registry: Registry,
    now: datetime,
    read: Mapping[str, timedelta] | None,
    stuck: Container[str],
    lacking: int = 0,
) -> tuple[tuple[Removal, ...], Mapping[str, timedelta]]:
    """Return what may go, and the clouds whose files do not count as too old, with how far their clocks are ahead."""
    with database.reading(settings.state / FILE_NAME) as db:
        kept = settings.snapshots if streamed else "all"
        shelf = Shelf(db, ages(db, now=now, read=read), streamed=streamed, kept=kept, stuck=stuck)
        removals = _Plan(settings, shelf, registry, free=free_bytes(settings.directory), lacking=lacking).made()
        return removals, shelf.ages.stopped


class Shelf:
    """The files that may go, by the ledger; oldest first.

    Attributes:
        ages: Of its files.
        streamed: Whether there are streams.
        kept: Which snapshots stay, as of ``storage.snapshots``.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        ages: Ages,
        *,
        streamed: bool,
        kept: str,
        stuck: Container[str] = (),
    ) -> None:
        self._db = db
        self.kept = kept
        self.ages = ages
        self.streamed = streamed
        self._stuck = stuck

    def total(self, kind: FileKind) -> int:
        """Sum the bytes of all files of a kind, those that may not go included."""
        query = {
            FileKind.SNAPSHOT: "SELECT coalesce(sum(size), 0) FROM snapshots WHERE published AND present",
            FileKind.STREAM: "SELECT coalesce((SELECT sum(size) FROM streams), 0)"
            " + coalesce((SELECT sum(size) FROM stream_parts), 0)",
        }[kind]
        (size,) = self._db.execute(query).fetchone()
        return int(size)

    def files(self, kind: FileKind) -> Iterator[Kept]:
        """Return the files of a kind that may go."""
        files = self.snapshots() if kind is FileKind.SNAPSHOT else self.parts()
        return (file for file in files if file.path not in self._stuck)

    def spent(self) -> Iterator[Kept]:
        """Return the snapshots that nothing needs any more."""
        return (file for file in self.snapshots(spent=True) if file.path not in self._stuck)

    def snapshots(self, *, directory: str = "", spent: bool = False) -> Iterator[Kept]:
        """Yield snapshots, but for those not taken, the newest of each series, and what its stream compares with.

        Of these two, what a stream stands for may go, too, where none is to stay.

        Args:
            directory: Of an instance, relative to the storage directory; empty for all.
            spent: But for those that go for their age, or to make room, only.
        """
        scope = "s.series > ? AND s.series < ?" if directory else "? = ? || '/'"  # an index finds one instance
        rows = self._db.execute(
            "SELECT key, series, instance, log, node, size, min(updated_ms, stored_ms), first_ms, last_ms"  # noqa: S608  # constants
            " FROM snapshots AS s"
            f" WHERE {scope} AND published AND present AND (taken OR NOT ?)"
            f" AND {STOOD_FOR if self.kept == 'none' else NOT_COMPARED}{' AND NOT kept' if spent else ''}"
            " ORDER BY min(updated_ms, stored_ms), key",
            (f"{directory}/", f"{directory}0" if directory else "", self.streamed),
        )
        return (read_kept(FileKind.SNAPSHOT, row) for row in rows)

    def parts(self) -> Iterator[Kept]:
        """Return the closed files of streams, but for the newest of each: it says where a stream goes on.

        And but for those that have a part of the last export, where a stream stands for that.
        """
        rows = self._db.execute(
            "SELECT p.path, series, instance, log, node, p.size, rotated_ms, p.first_ms, p.last_ms"  # noqa: S608  # constants
            " FROM stream_parts AS p JOIN streams AS s USING (series) WHERE p.path != s.path"
            f" AND (reference NOT LIKE 'streams/%' OR {LATER} >= {LAST_WINDOW})"
            " ORDER BY rotated_ms, p.path"
        )
        files = (read_kept(FileKind.STREAM, row) for row in rows)
        # The host's clock said when it was closed, and may have been wrong: not before its last line, nor ahead.
        dated = (replace(one, at=self.ages.newest_of(one.instance, (one.at, one.last_at))) for one in files)
        return iter(sorted(dated, key=lambda one: one.at))


class _Plan:
    """What goes, as it is being chosen."""

    def __init__(self, settings: Storage, shelf: Shelf, registry: Registry, *, free: int, lacking: int) -> None:
        self._settings = settings
        self._shelf = shelf
        self._registry = registry
        self._chosen: dict[str, Removal] = {}
        self._sizes = {kind: shelf.total(kind) for kind in FileKind}
        self._short = max(settings.keep_free - free, lacking)
        self._starving = settings.keep_free // 2 - free

    def made(self) -> tuple[Removal, ...]:
        for kind in FileKind:
            self._over_limits(kind)
        for kind in FileKind:
            for file in self._left(kind):
                if self._short <= 0:
                    break
                if self._was_read(file):
                    self._choose(file, Reason.ROOM)
        for kind in FileKind:
            for file in self._left(kind):
                if self._starving <= 0:
                    break
                self._choose(file, Reason.ROOM, unshipped=True)
        return tuple(self._chosen.values())

    def _over_limits(self, kind: FileKind) -> None:
        """Choose what is too old, and the oldest while there is too much."""
        keep = self._settings.keep
        limits = keep.limits(keep.snapshots if kind is FileKind.SNAPSHOT else keep.streams)
        before = self._shelf.ages.latest - limits.age if limits.age else EPOCH
        for file in self._shelf.files(kind):
            too_much = limits.size is not None and self._sizes[kind] > limits.size
            if not (file.at < before or too_much):
                break
            too_old = limits.age is not None and self._is_older(file, limits.age)
            if (too_old or too_much) and self._was_read(file):
                self._choose(file, Reason.AGE if too_old else Reason.SIZE)
        if kind is FileKind.SNAPSHOT and self._shelf.kept != "all":
            for file in self._shelf.spent():
                if file.path not in self._chosen and self._was_read(file):
                    self._choose(file, Reason.SUPERSEDED)

    def _is_older(self, file: Kept, age: timedelta) -> bool:
        now = self._shelf.ages.now_for(file.instance)
        return now is not None and file.at < now - age

    def _left(self, kind: FileKind) -> Iterator[Kept]:
        return (file for file in self._shelf.files(kind) if file.path not in self._chosen)

    def _was_read(self, file: Kept) -> bool:
        if file.kind is FileKind.SNAPSHOT and self._shelf.streamed:
            return True  # by its stream: there is nothing else to read in it
        position = self._registry.position(self._settings.directory / file.path)
        return position is not None and position >= file.size

    def _choose(self, file: Kept, reason: Reason, *, unshipped: bool = False) -> None:
        self._chosen[file.path] = Removal(file=file, reason=reason, unshipped=unshipped)
        self._sizes[file.kind] -= file.size
        self._short -= file.size
        self._starving -= file.size


@row_reader
def read_kept(kind: FileKind, row: tuple[Any, ...]) -> Kept:
    """Read a row of the ledger: by position, since by name a million of them take a ninth longer."""
    path, series, instance, logs, node, size, at, first, last = row
    return Kept(
        kind=kind,
        path=path,
        series=series,
        instance=instance,
        log=LogKind(logs),
        node=node,
        size=size,
        at=moment_of(at),
        first_at=log_moment(first),
        last_at=log_moment(last),
    )


def free_bytes(directory: Path) -> int:
    """Return how much is free on a directory's file system; blocks."""
    with disk(directory):
        return room_at(directory).free
