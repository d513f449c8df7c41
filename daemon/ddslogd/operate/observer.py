"""Looks at everything: what ledger and disk hold, and in a running daemon what its parts do. All of it off the loop."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from ddslogd import __version__
from ddslogd.operate.activity import Counts
from ddslogd.operate.status import Disk, Yardstick, judged
from ddslogd.storage import database, layout, standing
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger import FILE_NAME
from ddslogd.storage.room import room_at
from ddslogd.storage.store import is_claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from ddslogd.cloud.tally import Tally
    from ddslogd.config import Settings, Storage
    from ddslogd.models import Instance
    from ddslogd.operate.activity import Activity
    from ddslogd.operate.status import Live, Status
    from ddslogd.pacing import Clock
    from ddslogd.storage.standing import Books

KEPT_S = 1.0  # what the ledger holds is read no more often


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What an observer asks of a running daemon.

    Attributes:
        settings: Gives those in force.
        fleet: Gives all instances.
        live: Gives what only the daemon knows.
        parts: Gives the files that are not whole yet.
        tallies: Gives what happened on each cloud, by its name.
        activity: Of transfers and cycles.
    """

    settings: Callable[[], Settings]
    fleet: Callable[[], tuple[Instance, ...]]
    live: Callable[[], Live]
    parts: Callable[[], tuple[Path, ...]]
    tallies: Callable[[], Mapping[str, Tally]]
    activity: Activity


class Observer:
    """Gives the status of a running daemon, whenever it is asked."""

    def __init__(self, daemon: Daemon, *, clock: Clock, kept_s: float = KEPT_S) -> None:
        """Prepare.

        Args:
            daemon: What is looked at.
            clock: For now.
            kept_s: For so many seconds what was read of the ledger will do.
        """
        self._daemon = daemon
        self._clock = clock
        self._kept_s = kept_s
        self._books: Books | None = None
        self._read_at = 0.0
        self._one = asyncio.Lock()  # who comes while it is read shares it

    async def status(self, *, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        """Give the status now.

        Args:
            nodes_of: With the nodes of this instance.
            all_nodes: With the nodes of all.

        Raises:
            ConfigError: Another version of ddslogd wrote the ledger.
            StorageError: The ledger cannot be read, or the disk does not say how full it is.
        """
        settings = self._daemon.settings()
        books = await self._read(settings, nodes_of=nodes_of, all_nodes=all_nodes)
        fleet, live, parts = self._daemon.fleet(), self._daemon.live(), self._daemon.parts()
        now = self._clock.now()

        def judge() -> Status:
            return _judged(settings, fleet, books, live, _disk_of(settings.storage, parts), now=now)

        return await asyncio.to_thread(judge)

    def counts(self) -> Counts:
        """Give what has been counted since the start."""
        known = {instance.name for instance in self._daemon.fleet()}
        activity = self._daemon.activity
        return Counts(
            yields={name: one for name, one in activity.yields.items() if name in known},
            tallies=dict(self._daemon.tallies()),
            resumed=activity.resumed,
            received=activity.received,
            bytes_per_second=activity.bytes_per_second(),
        )

    async def _read(self, settings: Settings, *, nodes_of: str | None, all_nodes: bool) -> Books:
        if nodes_of is not None or all_nodes:
            return await asyncio.to_thread(_books, settings.storage, nodes_of=nodes_of, all_nodes=all_nodes)
        async with self._one:
            if self._books is None or monotonic() - self._read_at >= self._kept_s:
                self._books = await asyncio.to_thread(_books, settings.storage)
                self._read_at = monotonic()
            return self._books


def recorded(settings: Settings, *, now: datetime) -> Status:
    """Give the status where no daemon can be asked: what the ledger holds. Blocks.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: There is none, or the disk refuses.
    """
    books = _books(settings.storage)
    parts = _parts(settings.storage.directory)
    room, unasked = _disk_of(settings.storage, parts), is_claimed(settings.storage.directory)
    return _judged(settings, _fleet(settings, books), books, None, room, now=now, unasked=unasked)


def cleaned(status: Status, clean: Callable[[str], str]) -> Status:
    """Take secrets out of the texts that came from outside."""
    return replace(
        status,
        instances=tuple(
            replace(
                one,
                why=clean(one.why),
                last_cycle=one.last_cycle and replace(one.last_cycle, error=clean(one.last_cycle.error)),
                failures=tuple(replace(failing, reason=clean(failing.reason)) for failing in one.failures),
            )
            if one.why or one.failures or (one.last_cycle and one.last_cycle.error)
            else one
            for one in status.instances
        ),
        clouds=tuple(replace(cloud, unlisted=clean(cloud.unlisted)) for cloud in status.clouds),
    )


def _books(storage: Storage, *, nodes_of: str | None = None, all_nodes: bool = False) -> Books:
    with database.reading(storage.state / FILE_NAME) as db:
        return standing.books(db, nodes_of=nodes_of, all_nodes=all_nodes)


def _judged(
    settings: Settings,
    fleet: Iterable[Instance],
    books: Books,
    live: Live | None,
    room: Disk,
    *,
    now: datetime,
    unasked: bool = False,
) -> Status:
    yardstick = Yardstick(factor=settings.health.target_factor, fresh_for=settings.export.fresh_for)
    return judged(fleet, books, live, room, now=now, yardstick=yardstick, version=__version__, unasked=unasked)


def _fleet(settings: Settings, books: Books) -> Iterator[Instance]:
    """Give the instances that are named, and those that were discovered before."""
    named = {instance.name for instance in settings.fleet()}
    yield from settings.fleet()
    for cloud, id_, name in books.names:
        entries = settings.discover_entries(cloud) if cloud in settings.clouds else ()
        if name not in named and entries:  # which entry took it is not known: with several, the first one's schedule
            yield settings.discovered(entries[0][1], id_=id_, name=name, cloud=cloud)


def _disk_of(storage: Storage, parts: Iterable[Path]) -> Disk:
    with disk(storage.directory):
        room = room_at(storage.directory)
    sizes = [size for part in parts if (size := _size(part)) is not None]
    return Disk(
        directory=str(storage.directory),
        free=room.free,
        total=room.total,
        keep_free=storage.keep_free,
        parts=len(sizes),
        parts_bytes=sum(sizes),
        below=room.free < storage.keep_free,
    )


def _size(part: Path) -> int | None:
    try:
        return part.stat().st_size
    except OSError:  # it is whole meanwhile, or gone
        return None


def _parts(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory / layout.SNAPSHOTS):
        yield from (Path(parent, name) for name in names if layout.read_part_name(name) is not None)
