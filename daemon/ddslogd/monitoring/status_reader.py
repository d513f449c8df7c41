"""Looks at everything: what ledger and disk hold, and in a running daemon what its parts do. All of it off the loop."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ddslogd import __version__
from ddslogd.model.units import iso_time
from ddslogd.monitoring.activity import Counts
from ddslogd.monitoring.freshness import Yardstick, judged
from ddslogd.monitoring.status import Disk
from ddslogd.storage import paths
from ddslogd.storage.disk_space import room_at
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger import database, gap_records, status_queries, stream_records
from ddslogd.storage.ledger.gap_records import MERGED, NOT_OVER
from ddslogd.storage.ledger.snapshot_records import FILE_NAME
from ddslogd.storage.snapshots.store import is_claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ddslogd.config.settings import Settings, Storage
    from ddslogd.huaweicloud.call_stats import CallStats
    from ddslogd.model.instance import Instance
    from ddslogd.model.stream import Gap
    from ddslogd.monitoring.activity import Activity
    from ddslogd.monitoring.status import Live, Status
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.ledger.status_queries import LedgerFacts, NodeFacts

KEPT_S = 1.0  # what the ledger holds is read no more often


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What an observer asks of a running daemon.

    Attributes:
        settings: Gives those in force.
        fleet: Gives all instances.
        live: Gives what only the daemon knows.
        parts: Gives the files that are not whole yet.
        call_stats: Gives what happened on each cloud, by its name.
        activity: Of transfers and cycles.
    """

    settings: Callable[[], Settings]
    fleet: Callable[[], tuple[Instance, ...]]
    live: Callable[[], Live]
    parts: Callable[[], tuple[Path, ...]]
    call_stats: Callable[[], Mapping[str, CallStats]]
    activity: Activity


class Observer:
    """Reads the status of a running daemon, whenever it is asked.

    Attributes:
        kept_s: For so many seconds what was read of the ledger will do.
    """

    def __init__(self, daemon: Daemon, *, clock: Clock, kept_s: float = KEPT_S) -> None:
        """Prepare.

        Args:
            daemon: What is looked at.
            clock: For now.
            kept_s: See there.
        """
        self._daemon = daemon
        self._clock = clock
        self.kept_s = kept_s
        self._books: LedgerFacts | None = None
        self._read_at = 0.0
        self._one = asyncio.Lock()  # who comes while it is read shares it

    async def status(self, *, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        """Return the status now.

        Args:
            nodes_of: With the nodes of this instance.
            all_nodes: With the nodes of all.

        Raises:
            ConfigError: Another version of ddslogd wrote the ledger.
            StorageError: The ledger cannot be read, or the disk does not say how full it is.
        """
        settings = self._daemon.settings()
        facts = await self._read(settings, nodes_of=nodes_of, all_nodes=all_nodes)
        fleet, live, parts = self._daemon.fleet(), self._daemon.live(), self._daemon.parts()
        now = self._clock.now()

        def judge() -> Status:
            return _judged(settings, fleet, facts, live, _disk_of(settings.storage, parts), now=now)

        return await asyncio.to_thread(judge)

    async def gaps(self, since: datetime | None, instances: tuple[str, ...]) -> dict[str, Any]:
        """Return the gaps that were noticed since a time, or ever, of some instances, or of all.

        Raises:
            ConfigError: Another version of ddslogd wrote the ledger.
            StorageError: The ledger cannot be read.
        """
        storage = self._daemon.settings().storage
        return await asyncio.to_thread(recorded_gaps, storage, since=since, instances=instances)

    def counts(self) -> Counts:
        """Return what has been counted since the start."""
        known = {instance.name for instance in self._daemon.fleet()}
        activity = self._daemon.activity
        return Counts(
            yields={name: one for name, one in activity.yields.items() if name in known},
            call_stats=dict(self._daemon.call_stats()),
            resumed=activity.resumed,
            received=activity.received,
        )

    async def _read(self, settings: Settings, *, nodes_of: str | None, all_nodes: bool) -> LedgerFacts:
        if nodes_of is not None or all_nodes:
            return await asyncio.to_thread(
                _facts, settings.storage, now=self._clock.now(), nodes_of=nodes_of, all_nodes=all_nodes
            )
        async with self._one:
            if self._books is None or monotonic() - self._read_at >= self.kept_s:
                self._books = await asyncio.to_thread(_facts, settings.storage, now=self._clock.now())
                self._read_at = monotonic()
            return self._books


def recorded(settings: Settings, *, now: datetime) -> Status:
    """Return the status where no daemon can be asked: what the ledger holds. Blocks.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: There is none, or the disk refuses.
    """
    facts = _facts(settings.storage, now=now)
    parts = _parts(settings.storage.directory)
    room, unasked = _disk_of(settings.storage, parts), is_claimed(settings.storage.directory)
    return _judged(settings, _fleet(settings, facts), facts, None, room, now=now, unasked=unasked)


def recorded_gaps(storage: Storage, *, since: datetime | None, instances: tuple[str, ...]) -> dict[str, Any]:
    """Return the gaps that the ledger holds, and which of the instances it does not know. Blocks.

    Raises:
        ConfigError: Another version of ddslogd wrote the ledger.
        StorageError: There is none, or it cannot be read.
    """
    with database.reading(storage.state / FILE_NAME) as db:
        unknown = sorted(set(instances) - stream_records.instances(db)) if instances else []
        found = gap_records.gaps(db, since=since, instances=instances)
    return {"directory": str(storage.directory), "unknown": unknown, "gaps": gap_objects(found)}


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
                nodes=tuple(_cleaned_node(node, clean) for node in one.nodes),
            )
            if one.why or one.failures or (one.last_cycle and one.last_cycle.error)
            else one
            for one in status.instances
        ),
        clouds=tuple(replace(cloud, unlisted=clean(cloud.unlisted)) for cloud in status.clouds),
    )


def _cleaned_node(node: NodeFacts, clean: Callable[[str], str]) -> NodeFacts:
    return replace(node, failure=replace(node.failure, reason=clean(node.failure.reason))) if node.failure else node


def _facts(storage: Storage, *, now: datetime, nodes_of: str | None = None, all_nodes: bool = False) -> LedgerFacts:
    with database.reading(storage.state / FILE_NAME) as db:
        return status_queries.books(db, now=now, nodes_of=nodes_of, all_nodes=all_nodes)


def _judged(
    settings: Settings,
    fleet: Iterable[Instance],
    facts: LedgerFacts,
    live: Live | None,
    room: Disk,
    *,
    now: datetime,
    unasked: bool = False,
) -> Status:
    yardstick = Yardstick(factor=settings.health.target_factor, fresh_for=settings.export.fresh_for)
    status = judged(fleet, facts, live, room, now=now, yardstick=yardstick, version=__version__, unasked=unasked)
    return replace(status, host=socket.gethostname())  # each time: it may get another name while the daemon runs


def _fleet(settings: Settings, facts: LedgerFacts) -> Iterator[Instance]:
    """Yield the instances that are named, and those that were discovered before."""
    named = {instance.name for instance in settings.fleet()}
    yield from settings.fleet()
    for cloud, id_, name in facts.names:
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
    for parent, _, names in os.walk(directory / paths.SNAPSHOTS):
        yield from (Path(parent, name) for name in names if paths.read_part_name(name) is not None)


def gap_objects(gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    """Return an object for each gap; times are ISO 8601, or null where they are not known."""
    return [
        {
            "instance": gap.instance,
            "node": gap.node,
            "log": gap.log.value,
            "from": iso_time(gap.after),
            "to": iso_time(gap.until),
            "cause": gap.cause.value,
            "noted": iso_time(gap.noted_at),
            "begins_within_a_line": gap.cut,
            "file": None if gap.path in {NOT_OVER, MERGED} else gap.path,
            **({"number": gap.number, "first_noted": iso_time(gap.first_noted_at)} if gap.number > 1 else {}),
        }
        for gap in gaps
    ]
