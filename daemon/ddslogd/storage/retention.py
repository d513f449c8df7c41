"""Keeps a storage directory within its limits: removes what the plan names, and enters it as gone.

Never what the next export is compared with, never what its stream has not taken yet, never the newest file of a stream.
What a shipper has not read goes only when the disk is nearly full; that is a gap then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.model.stream import Gap, GapCause
from ddslogd.scheduling.clock import EPOCH
from ddslogd.storage import paths
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.file_age import Ages
from ddslogd.storage.filesystem import disk, unbroken
from ddslogd.storage.ledger.stream_records import StreamBook
from ddslogd.storage.retention_plan import Kept, Reason, Removal, Shelf, plan
from ddslogd.storage.shippers.read_positions import NothingRead, Registry, read_registry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Container, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.config.settings import Storage
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.ledger.snapshot_records import Ledger

log = structlog.get_logger()

BATCH = 500  # files that are looked at, or removed, together
NOT_AGAIN_FOR = timedelta(minutes=1)  # where many cycles begin and find no room


class Retention:
    """Keeps a storage directory within its limits."""

    def __init__(self, settings: LiveSettings, *, ledger: Ledger, clock: Clock, reserve: Reserve | None = None) -> None:
        """Prepare.

        Args:
            settings: The directory, its limits, and whether there are streams, which hold what snapshots hold.
            ledger: Open.
            clock: Says how old a file is.
            reserve: Knows what there was too little room for; None where nobody does.
        """
        self._reserve = reserve or Reserve()
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read_clocks: Callable[[], Mapping[str, timedelta]] | None = None
        self._stopped: set[str] = set()  # clouds of whose files none counts as too old, as was reported
        self._ran_at = EPOCH
        self._told = False  # that the shipper's registry cannot be read

    @property
    def _storage(self) -> Storage:
        return self._settings.current.storage

    @property
    def _streamed(self) -> bool:
        return self._settings.current.stream.enabled

    def judge_by(self, clocks: Callable[[], Mapping[str, timedelta]]) -> None:
        """Count ages by the clouds' clocks from now on.

        Args:
            clocks: Returns how far each cloud's clock that has been read is ahead of the host's.
        """
        self._read_clocks = clocks

    async def make_room(self) -> None:
        """Run, unless that was just done and nothing was refused since.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        async with self._lock:
            if self._reserve.lacking or abs(self._clock.now() - self._ran_at) >= NOT_AGAIN_FOR:
                await self._run()

    async def run(self) -> tuple[Removal, ...]:
        """Remove what may go, and say so, once.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        async with self._lock:
            return await self._run()

    async def drop_superseded(self, instance: str) -> None:
        """Remove the snapshots of an instance, by its name, that nothing needs any more, unless all are to stay.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        kept = self._settings.current.kept_snapshots
        if kept == "all":
            return
        ages, directory = Ages(now=self._clock.now()), f"{paths.SNAPSHOTS}/{paths.segment(instance)}"

        def ask(db: sqlite3.Connection) -> list[Kept]:
            return list(Shelf(db, ages, streamed=True, kept=kept).snapshots(directory=directory, spent=True))

        spent = await self._ledger.run(ask)
        await self._remove([Removal(file=file, reason=Reason.SUPERSEDED) for file in spent])

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
        registry, now = await asyncio.to_thread(self._registry), self._clock.now()
        read = self._read_clocks() if self._read_clocks else None
        removals, stopped = await asyncio.to_thread(
            plan,
            self._storage,
            streamed=self._streamed,
            registry=registry,
            now=now,
            read=read,
            stuck=stuck,
            lacking=self._reserve.lacking,
        )
        self._report_stopped(stopped)
        return removals

    def _report_stopped(self, stopped: Mapping[str, timedelta]) -> None:
        """Report once whose files do not count as too old, and once that they do again."""
        keep = self._storage.keep
        if not any(keep.limits(of).age for of in (keep.snapshots, keep.streams)):
            stopped = {}
        for cloud in sorted(stopped.keys() - self._stopped):
            log.warning(
                "retention.age_stopped",
                cloud=cloud,
                cloud_is_ahead_s=round(stopped[cloud].total_seconds()),
                todo="set this host's clock (NTP), or see the cloud's; until then none of its files counts as too old",
            )
        for cloud in sorted(self._stopped - stopped.keys()):
            log.info("retention.age_goes_on", cloud=cloud)
        self._stopped = set(stopped)

    def _registry(self) -> Registry:
        """Read what the shipper has read; where that cannot be done, nothing counts as read."""
        try:
            registry = read_registry(self._storage)
        except StorageError as exc:
            if not self._told:
                log.warning("shipper.unreadable", kind=self._storage.shipper.kind, reason=str(exc))
            self._told = True
            return NothingRead()
        self._told = False
        return registry

    async def _forget_what_others_removed(self) -> None:
        """Take the files out of the ledger that an operator has removed: they make no room any more."""
        book = StreamBook(self._ledger)
        gone = await asyncio.to_thread(_gone, self._storage.directory, await book.parts())
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
        """Record what is lost, remove the files, note that they are gone; return the paths of those that are."""
        book, now = StreamBook(self._ledger), self._clock.now()
        unshipped = [removal.file for removal in removals if removal.unshipped]
        if unshipped:
            await book.enter_gaps([(file.series, _loss(file, now)) for file in unshipped])
        gone = await asyncio.to_thread(_unlink, self._storage.directory, [removal.file for removal in removals])
        await book.forget_files(gone)
        kept = {file.path for file in unshipped}.difference(gone)
        if kept:
            await book.take_back(sorted(kept))
        return gone


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
