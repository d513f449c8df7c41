"""What may go, and when: what is too old, what is too much, and what has to make room; the oldest first.

Never what the next export is compared with, never what its stream has not taken yet, never the live file of a stream.
What a shipper has not read goes only when the disk is nearly full; that is a gap then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from ddslogd.errors import StorageError
from ddslogd.models import Gap, GapCause, LogKind
from ddslogd.pacing import EPOCH
from ddslogd.storage import database, shippers
from ddslogd.storage.database import moment_of, moment_or_none
from ddslogd.storage.filesystem import disk, unbroken
from ddslogd.storage.ledger import FILE_NAME
from ddslogd.storage.room import room_at
from ddslogd.storage.shippers import Shipper
from ddslogd.storage.streambook import StreamBook

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.config import Storage
    from ddslogd.pacing import Clock
    from ddslogd.storage.ledger import Ledger

log = structlog.get_logger()

BATCH = 500  # files that are looked at, or removed, together
NOT_AGAIN_FOR = timedelta(minutes=1)  # where many cycles begin and find no room


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
        at: By which its age is told: when the cloud made the snapshot, or when the stream's file was rotated away.
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


class Retention:
    """Keeps a storage directory within its limits."""

    def __init__(self, settings: Storage, *, ledger: Ledger, streamed: bool, clock: Clock) -> None:
        """Prepare.

        Args:
            settings: The directory, and its limits.
            ledger: Open.
            streamed: Whether there are streams, which hold what snapshots hold.
            clock: Says how old a file is.
        """
        self._settings = settings
        self._ledger = ledger
        self._streamed = streamed
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ran_at = EPOCH
        self._told = False  # that the shipper's books cannot be read

    def take_over(self, settings: Storage, *, streamed: bool) -> None:
        """Go by other limits from the next run on."""
        self._settings = settings
        self._streamed = streamed

    async def make_room(self) -> None:
        """Run, unless that was just done.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        async with self._lock:
            if abs(self._clock.now() - self._ran_at) >= NOT_AGAIN_FOR:
                await self._run()

    async def run(self) -> tuple[Removal, ...]:
        """Remove what may go, and say so, once.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        async with self._lock:
            return await self._run()

    async def drop_superseded(self, series: str) -> None:
        """Where only the latest snapshots are wanted: remove those of a series that nothing needs any more.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        if self._settings.snapshots != "latest":
            return
        old = await self._ledger.run(lambda db: list(_Shelf(db, streamed=self._streamed).snapshots(series=series)))
        await self._remove([Removal(file=file, reason=Reason.SUPERSEDED) for file in old])

    async def _run(self) -> tuple[Removal, ...]:
        self._ran_at = self._clock.now()
        await self._forget_what_others_removed()
        chosen = await self._planned()
        removed = await self._remove(chosen)
        if len(removed) < len(chosen):  # others go in their place
            stuck = {removal.file.path for removal in chosen} - {removal.file.path for removal in removed}
            removed += await self._remove(await self._planned(stuck))
        if removed:
            unshipped = sum(removal.unshipped for removal in removed)
            log.log(
                logging.WARNING if unshipped else logging.INFO,
                "retention.removed",
                removed_bytes=sum(removal.file.size for removal in removed),
                unshipped=unshipped,
                **Counter(removal.reason.value for removal in removed),
            )
        return removed

    async def _planned(self, stuck: Container[str] = ()) -> tuple[Removal, ...]:
        books, now = await asyncio.to_thread(self._books), self._clock.now()
        return await asyncio.to_thread(
            planned, self._settings, streamed=self._streamed, books=books, now=now, stuck=stuck
        )

    def _books(self) -> Books:
        """Read what the shipper has read; where that cannot be done, nothing counts as read."""
        try:
            books = read_books(self._settings)
        except StorageError as exc:
            if not self._told:
                log.warning("shipper.unreadable", kind=self._settings.shipper.kind, reason=str(exc))
            self._told = True
            return NothingRead()
        self._told = False
        return books

    async def _forget_what_others_removed(self) -> None:
        """Take the files out of the books that an operator has removed: they make no room any more."""
        book = StreamBook(self._ledger)
        gone = await asyncio.to_thread(_gone, self._settings.directory, await book.parts())
        if gone:
            await book.forget_files(gone)

    async def _remove(self, removals: Sequence[Removal]) -> tuple[Removal, ...]:
        """Remove files, first those that nobody misses; give those that are gone."""
        gone: set[str] = set()
        for unshipped in (False, True):
            group = [removal for removal in removals if removal.unshipped is unshipped]
            for start in range(0, len(group), BATCH):
                gone.update(await self._remove_batch(group[start : start + BATCH]))
        return tuple(removal for removal in removals if removal.file.path in gone)

    @unbroken
    async def _remove_batch(self, removals: Sequence[Removal]) -> list[str]:
        """Note what is lost, remove the files, note that they are gone; give the paths of those that are."""
        book, now = StreamBook(self._ledger), self._clock.now()
        unshipped = [removal.file for removal in removals if removal.unshipped]
        if unshipped:
            await book.enter_gaps([(file.series, _loss(file, now)) for file in unshipped])
        gone = await asyncio.to_thread(_unlink, self._settings.directory, [removal.file for removal in removals])
        await book.forget_files(gone)
        kept = {file.path for file in unshipped}.difference(gone)
        if kept:
            await book.take_back(sorted(kept))
        return gone


class Books(Protocol):
    """What a shipper has read."""

    def position(self, path: Path) -> int | None:
        """Give how many bytes of a file were read; None where that is not known."""


class AllRead:
    """There is no shipper that we know of: limits alone decide."""

    def position(self, path: Path) -> int:
        """Give more than any file has."""
        del path
        return sys.maxsize


class NothingRead:
    """There is a shipper, and its books cannot be read."""

    def position(self, path: Path) -> None:
        """Give nothing."""
        del path


def read_books(settings: Storage) -> Books:
    """Read the books of the shipper that the settings name. Blocks.

    Raises:
        StorageError: They cannot be read.
    """
    shipper = settings.shipper
    if shipper.kind == "none" or shipper.registry is None:
        return AllRead()
    return shippers.read(Shipper(shipper.kind), shipper.registry)


def planned(
    settings: Storage, *, streamed: bool, books: Books, now: datetime, stuck: Container[str] = ()
) -> tuple[Removal, ...]:
    """Say what may go now. Blocks, and reads the ledger's file by itself, so that its thread is not kept waiting.

    Args:
        settings: The directory, and its limits.
        streamed: Whether there are streams.
        books: What the shipper has read.
        now: By which files are old.
        stuck: The paths of files that could not be removed.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: The disk or the ledger refuses.
    """
    with database.reading(settings.state / FILE_NAME) as db:
        shelf = _Shelf(db, streamed=streamed, stuck=stuck)
        return _Plan(settings, shelf, books, free=_free(settings.directory)).made(now)


class _Shelf:
    """The files that may go, by the ledger; oldest first."""

    def __init__(self, db: sqlite3.Connection, *, streamed: bool, stuck: Container[str] = ()) -> None:
        self._db = db
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
        files = self.snapshots() if kind is FileKind.SNAPSHOT else self.parts()
        return (file for file in files if file.path not in self._stuck)

    def snapshots(self, *, series: str = "") -> Iterator[Kept]:
        """Give the snapshots, but for those not taken, the newest of each series, and what its stream compares with."""
        scope = "s.series = ?" if series else "? = ''"  # an index finds one series
        rows = self._db.execute(
            "SELECT key, series, instance, log, node, size, updated_ms, first_ms, last_ms FROM snapshots AS s"  # noqa: S608  # one of two constants
            f" WHERE {scope} AND published AND present AND (taken OR NOT ?)"
            " AND NOT EXISTS (SELECT 1 FROM streams WHERE streams.series = s.series AND reference = s.key)"
            " AND key != (SELECT path FROM snapshots AS n WHERE n.series = s.series AND n.published"
            " ORDER BY n.updated_ms DESC LIMIT 1) ORDER BY updated_ms, key",
            (series, self.streamed),
        )
        return (_kept(FileKind.SNAPSHOT, row) for row in rows)

    def parts(self) -> Iterator[Kept]:
        """Give the files that streams have rotated away."""
        rows = self._db.execute(
            "SELECT path, p.series, instance, log, node, p.size, rotated_ms, p.first_ms, p.last_ms"
            " FROM stream_parts AS p JOIN streams USING (series) ORDER BY rotated_ms, path"
        )
        return (_kept(FileKind.STREAM, row) for row in rows)


class _Plan:
    """What goes, as it is being chosen."""

    def __init__(self, settings: Storage, shelf: _Shelf, books: Books, *, free: int) -> None:
        self._settings = settings
        self._shelf = shelf
        self._books = books
        self._chosen: dict[str, Removal] = {}
        self._sizes = {kind: shelf.total(kind) for kind in FileKind}
        self._short = settings.keep_free - free
        self._starving = settings.keep_free // 2 - free

    def made(self, now: datetime) -> tuple[Removal, ...]:
        for kind in FileKind:
            self._over_limits(kind, now)
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

    def _over_limits(self, kind: FileKind, now: datetime) -> None:
        """Choose what is too old, and the oldest while there is too much."""
        keep = self._settings.keep
        limits = keep.limits(keep.snapshots if kind is FileKind.SNAPSHOT else keep.streams)
        before = now - limits.age if limits.age else EPOCH
        superseded = kind is FileKind.SNAPSHOT and self._settings.snapshots == "latest"
        for file in self._shelf.files(kind):
            too_old, too_much = file.at < before, limits.size is not None and self._sizes[kind] > limits.size
            if not (too_old or too_much or superseded):
                break
            if self._was_read(file):
                self._choose(file, Reason.AGE if too_old else Reason.SIZE if too_much else Reason.SUPERSEDED)

    def _left(self, kind: FileKind) -> Iterator[Kept]:
        return (file for file in self._shelf.files(kind) if file.path not in self._chosen)

    def _was_read(self, file: Kept) -> bool:
        if file.kind is FileKind.SNAPSHOT and self._shelf.streamed:
            return True  # by its stream: there is nothing else to read in it
        position = self._books.position(self._settings.directory / file.path)
        return position is not None and position >= file.size

    def _choose(self, file: Kept, reason: Reason, *, unshipped: bool = False) -> None:
        self._chosen[file.path] = Removal(file=file, reason=reason, unshipped=unshipped)
        self._sizes[file.kind] -= file.size
        self._short -= file.size
        self._starving -= file.size


def _kept(kind: FileKind, row: tuple[Any, ...]) -> Kept:
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
        first_at=moment_or_none(first),
        last_at=moment_or_none(last),
    )


def _free(directory: Path) -> int:
    with disk(directory):
        return room_at(directory).free


def _loss(file: Kept, now: datetime) -> Gap:
    return Gap(
        instance=file.instance,
        log=file.log,
        node=file.node,
        after=file.first_at,
        until=file.last_at,
        cause=GapCause.EVICTED_UNSHIPPED,
        noted_at=now,
        cut=False,
        path=file.path,
    )


def _gone(directory: Path, paths: Sequence[str]) -> list[str]:
    with disk(directory):
        return [path for path in paths if not os.path.lexists(directory / path)]


def _unlink(directory: Path, files: Sequence[Kept]) -> list[str]:
    """Remove files; give the paths of those that are gone. What cannot be removed is told of, and tried again."""
    gone = []
    for file in files:
        try:
            (directory / file.path).unlink(missing_ok=True)
        except OSError as exc:
            log.warning("retention.failed", path=file.path, reason=str(exc.strerror))
        else:
            gone.append(file.path)
    return gone
