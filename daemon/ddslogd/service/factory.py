"""The composition root: builds every part, from the settings."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from ddslogd.collection.adaptive_schedule import AdaptiveSchedule
from ddslogd.collection.collector import Collector
from ddslogd.collection.context import Archive
from ddslogd.collection.discovery import Discovery
from ddslogd.collection.export_history import ExportHistory
from ddslogd.collection.node_names import NodeNames
from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.collection.stream_origin import stream_origin
from ddslogd.config.live_settings import LiveSettings
from ddslogd.monitoring import control_socket
from ddslogd.monitoring.activity import Activity
from ddslogd.scheduling.engine import LocalEngine
from ddslogd.service.account_factory import open_accounts
from ddslogd.service.service import Service
from ddslogd.storage import paths
from ddslogd.storage.filesystem import PRIVATE_DIRECTORY_MODE, disk, make_private
from ddslogd.storage.ledger.snapshot_records import FILE_NAME, Ledger
from ddslogd.storage.owner_file import names_on_disk
from ddslogd.storage.recovery import Recovery
from ddslogd.storage.retention import Retention
from ddslogd.storage.snapshots.store import LOCK_FILE, Store, claim
from ddslogd.storage.streams.stream_writer import Streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.config.settings import Settings
    from ddslogd.model.cycle import Progress
    from ddslogd.model.redactor import Redactor
    from ddslogd.model.stream import Advance
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()
REBUILT = "nothing: it is rebuilt from what is on disk"
# Garbage in cycles is rare here, and looking for it at Python's pace takes a tenth of the time of small files.
GARBAGE_EVERY = (10_000, 20, 20)  # see gc.set_threshold


@asynccontextmanager
async def opened(settings: Settings, *, clock: Clock, progress: Progress, redactor: Redactor) -> AsyncIterator[Service]:
    """Build every part and open what has to be: directory, ledger, connections. In the end all is closed.

    Args:
        settings: As loaded.
        clock: Policy time.
        progress: Hears how transfers go.
        redactor: Is told every secret, so that none is printed.

    Raises:
        Locked: Another ddslogd works on the storage directory, or on the ledger's.
        ConfigError: The ledger is a newer ddslogd's, or belongs to another storage directory.
        StorageError: The disk refuses.
    """
    gc.set_threshold(*GARBAGE_EVERY)
    live = LiveSettings(settings)
    async with AsyncExitStack() as stack:
        archive = await _archive(live, clock=clock, stack=stack)
        progress = activity = Activity(clock, progress)
        accounts = await open_accounts(settings, clock=clock, progress=progress, redactor=redactor, stack=stack)
        node_registry, last_ticks = NodeRegistry(), await archive.ledger.last_ticks()
        directory = settings.storage.directory
        collector = Collector(
            accounts=accounts,
            archive=archive,
            settings=live,
            clock=clock,
            progress=progress,
            node_registry=node_registry,
            node_names=NodeNames(ledger=archive.ledger, node_registry=node_registry, directory=directory),
            export_history=ExportHistory(await archive.ledger.habits(), settings=live),
            last_ticks=last_ticks,
        )
        apis = {name: account.api for name, account in accounts.all().items()}
        discovery = Discovery(
            apis=apis,
            settings=live,
            node_registry=node_registry,
            ledger=archive.ledger,
            gone=collector.note_gone,
            names_on_disk=partial(names_on_disk, directory),
        )
        await discovery.recall()
        archive.retention.judge_by(partial(accounts.clocks, clock))
        engine = LocalEngine()
        stack.push_async_callback(engine.stop)
        yield Service(
            settings=live,
            archive=archive,
            accounts=accounts,
            collector=collector,
            discovery=discovery,
            adaptive_schedule=AdaptiveSchedule(settings=live, fleet=discovery.fleet),
            engine=engine,
            clock=clock,
            last_ticks=last_ticks,
            activity=activity,
        )


@asynccontextmanager
async def archive_of(settings: Settings, *, clock: Clock) -> AsyncIterator[Archive]:
    """Open what is on disk, and nothing else, with the ledger in line. In the end all is closed.

    Raises:
        Locked: Another ddslogd works on the storage directory, or on the ledger's.
        ConfigError: The ledger is a newer ddslogd's, or belongs to another storage directory.
        StorageError: The disk refuses.
    """
    async with AsyncExitStack() as stack:
        archive = await _archive(LiveSettings(settings), clock=clock, stack=stack)
        await archive.recovery.whole()
        yield archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What became of an instance's streams.

    Attributes:
        aside: Where the files of the old streams are now.
        short: The links of streams whose snapshots do not reach back to their first line; where there are any, nothing
            was done.
    """

    aside: tuple[Path, ...] = ()
    short: tuple[str, ...] = ()


async def rebuilt(
    settings: Settings, name: str, *, shorter: bool, clock: Clock, note: Callable[[Advance], None]
) -> Rebuilt | None:
    """Make the streams of an instance again, from the snapshots on disk.

    Args:
        settings: With streams enabled.
        name: Of an instance of the configuration, or of one that was collected from before.
        shorter: Whether new streams may begin later than the old ones.
        clock: For names and notes.
        note: Hears what each snapshot brought.

    Returns:
        What became of them; None where there are no snapshots of such an instance.

    Raises:
        Locked: Another ddslogd works on the directory.
        ConfigError: As of ``archive_of``.
        StorageError: The disk refuses.
    """
    instance = next((one for one in settings.fleet() if name in {one.name, one.id}), None)
    origin = stream_origin(instance, name, settings)
    async with archive_of(settings, clock=clock) as archive:
        streams = archive.streams
        series = await streams.book.series_of(instance.name if instance else name)
        if not series:
            return None
        short = () if shorter else [one for one in series if not await streams.is_covered(one)]
        if short:
            return Rebuilt(short=tuple(paths.stream_link(one).as_posix() for one in short))
        aside = [await streams.rebuild(one, origin=origin, note=note) for one in series]
    return Rebuilt(aside=tuple(dict.fromkeys(path for path in aside if path is not None)))


async def _storage(live: LiveSettings, *, clock: Clock, stack: AsyncExitStack) -> tuple[Store, Ledger, Recovery]:
    """Open directory and ledger; where the ledger is new, it is brought in line with what is on disk."""
    settings, storage = live.current, live.current.storage
    store = Store(storage.directory, settings=live)
    stack.callback(store.close)
    await asyncio.to_thread(store.open, clock.now())
    _claim_state(settings, stack)
    ledger = Ledger(storage.state)
    stack.push_async_callback(ledger.close)
    known = await ledger.open()
    await ledger.belong_to(storage.directory)
    names = [instance.name for instance in settings.fleet()]
    recovery = Recovery(store, ledger, names=names, clock=clock)
    await recovery.promises()
    if not known:
        if await asyncio.to_thread(store.has_snapshots):
            log.error("ledger.missing", directory=str(storage.state), todo=REBUILT)
        await recovery.whole()
    if not any(settings.discover_entries(cloud) for cloud in settings.clouds):  # else it is not known yet who is there
        await ledger.forget_instances(set(names))
    return store, ledger, recovery


async def _archive(live: LiveSettings, *, clock: Clock, stack: AsyncExitStack) -> Archive:
    """Open all that is on disk; the streams are there also where they are not enabled, and may be later."""
    store, ledger, recovery = await _storage(live, clock=clock, stack=stack)
    streams = Streams(
        live.current.storage.directory,
        ledger=ledger,
        settings=live,
        clock=clock,
        directories=store.directories,
        reserve=store.reserve,
    )
    stack.callback(streams.close)
    retention = Retention(live, ledger=ledger, clock=clock, reserve=store.reserve)
    return Archive(store=store, ledger=ledger, recovery=recovery, streams=streams, retention=retention)


def _claim_state(settings: Settings, stack: AsyncExitStack) -> None:
    """Claim the ledger's directory too, since two directories of logs may not share a ledger; take it from others."""
    state, logs = settings.storage.state, settings.storage.directory.resolve()
    if state.resolve() != logs:  # else it is claimed already
        stack.callback(os.close, claim(state, mode=PRIVATE_DIRECTORY_MODE))
    alone = not logs.is_relative_to(state.resolve())  # else readers of the logs have to get through it
    with disk(state):
        make_private(state, names=(FILE_NAME, LOCK_FILE, control_socket.NAME), itself=alone)
