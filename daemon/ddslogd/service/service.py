"""The service: runs the parts that the factory built, until it is stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from ddslogd import __version__
from ddslogd.collection.selection import node_ids_of
from ddslogd.collection.stream_origin import stream_origin
from ddslogd.huaweicloud.call_stats import Accepted
from ddslogd.model.errors import CloudError, ConfigError, NotOwned, StorageError
from ddslogd.monitoring import freshness, status, status_client
from ddslogd.monitoring.activity import Activity, LoopLag
from ddslogd.monitoring.status import Live
from ddslogd.monitoring.status_reader import KEPT_S, Daemon, Observer
from ddslogd.scheduling.scheduler import Chore, Scheduler
from ddslogd.service.account_status import account_status
from ddslogd.service.reload import put_in_force
from ddslogd.service.systemd import Notifier
from ddslogd.storage.ledger.stream_records import StreamBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from ddslogd.collection.adaptive_schedule import AdaptiveSchedule
    from ddslogd.collection.collector import Collector
    from ddslogd.collection.context import Archive
    from ddslogd.collection.discovery import Discovery
    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.config.settings import Settings
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.export import Selection
    from ddslogd.model.instance import Instance
    from ddslogd.model.stream import Advance
    from ddslogd.scheduling.clock import Clock
    from ddslogd.scheduling.engine import Engine
    from ddslogd.service.account_pool import Accounts

log = structlog.get_logger()

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
LOOK_EVERY_S = 15.0  # at the ledger's file: a few milliseconds, or 100 where it is large
STATUS_WITHOUT_NEWS_S = 30.0
STATUS_MOST = 0.01  # of the time goes into looking how it goes: with thousands of instances it takes a while
STATUS_PAUSE_S = 300.0  # but no longer


class Service:
    """All parts, built and open; ``opened`` makes one.

    Attributes:
        observer: Looks at it; one for all, so that what is read for one will do for the others.
    """

    def __init__(  # noqa: PLR0913  # the parts that it runs, each by its name
        self,
        *,
        settings: LiveSettings,
        archive: Archive,
        accounts: Accounts,
        collector: Collector,
        discovery: Discovery,
        adaptive_schedule: AdaptiveSchedule,
        engine: Engine,
        clock: Clock,
        last_ticks: Mapping[str, datetime],
        activity: Activity,
    ) -> None:
        self._activity = activity
        self._lag = LoopLag()
        self._scheduler: Scheduler | None = None
        self._started_at = clock.now()
        self._settings = settings
        self._archive = archive
        self._accounts = accounts
        self._collector = collector
        self._discovery = discovery
        self._clock = clock
        self._last_ticks = last_ticks
        self._adaptive_schedule = adaptive_schedule
        self._engine = engine
        self._news = asyncio.Event()
        self._config = status.Configuration(loaded_at=self._started_at)
        self._unreachable: Callable[[], str] = str
        self._refused = ""  # why the ledger could not be looked at the last time
        self.observer = Observer(self.daemon(), clock=clock)

    async def serve(
        self,
        *,
        notifier: Notifier | None = None,
        chores: Iterable[Chore] = (),
        unreachable: Callable[[], str] = str,
    ) -> None:
        """Run the cycles of every instance that the engine owns at their runs, until cancelled.

        Args:
            notifier: Is told how it goes, and that the scheduler's loop turns.
            chores: What else is done next to the cycles.
            unreachable: Gives why page or commands cannot reach it, for the notifier; empty where they can.
        """
        self._unreachable = unreachable
        notifier = notifier or Notifier()
        if notifier.listens:
            chores = [*chores, Chore(name="status", every=timedelta(0), run=partial(self._tell, notifier))]
        self._scheduler = scheduler = Scheduler(
            cycle=self._cycle,
            clock=self._clock,
            last_ticks=self._last_ticks,
            fleet=self._refreshed,
            engine=self._engine,
            refresh=self._settings.current.schedule.refresh,
            instead=self._adaptive_schedule.next,
            chores=[
                Chore(name="retention", every=HOUR, run=self._prune),
                Chore(name="stream", every=HOUR, run=self._catch_up),
                Chore(name="shared causes", every=MINUTE, run=self._collector.cycle_log.report_shared_causes),
                *chores,
            ],
            beat=notifier.beat,
            beat_every=notifier.beat_every,
        )
        fleet = self._discovery.fleet()
        clouds = self._settings.current.clouds
        log.info("service.started", version=__version__, instances=len(fleet), clouds=len(clouds))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lag.probe(), name="loop lag")
                group.create_task(self._watch_ledger(), name="ledger")
                await scheduler.serve(fleet)
        finally:
            log.info("service.stopped")

    async def reload(self, settings: Settings) -> None:
        """Go by other settings, without a break: what they leave as it is goes on undisturbed.

        Each running cycle ends by the settings and the account that it began with. The cycles of instances that change
        or go are cancelled.

        Raises:
            ConfigError: They cannot be used, or not without a restart. Then all stays as it is.
        """
        changes = await put_in_force(
            settings,
            live=self._settings,
            accounts=self._accounts,
            discovery=self._discovery,
            scheduler=self._scheduler,
        )
        self._config = status.Configuration(loaded_at=self._clock.now())
        self._news.set()
        log.info("config.reloaded", **changes)
        for name, account in self._accounts.all().items():
            if account.api.call_stats.credentials is Accepted.REFUSED:  # the operator may think a reload is enough
                log.warning("credentials.still_refused", cloud=name, todo=account.api.todo)

    def reload_refused(self, reason: str) -> None:
        """Record that the last reload changed nothing, and why."""
        self._config = replace(self._config, refused=reason)
        self._news.set()

    async def _tell(self, notifier: Notifier) -> None:
        """Report how it goes, a second after there is news; without any too, since logs grow old by themselves.

        What takes long to look at is looked at seldom.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_WITHOUT_NEWS_S):
                await self._news.wait()
        await self._clock.sleep(KEPT_S)  # what was read before the news will not do then
        self._news.clear()
        began = self._clock.monotonic()
        try:
            line = freshness.one_line(await self.observer.status())
        except (StorageError, ConfigError) as exc:
            line = f"how it goes cannot be told: {exc}"
        notifier.status("; ".join(filter(None, (self._archive.ledger.trouble, self._unreachable(), line))))
        looked_s = self._clock.monotonic() - began
        await self._clock.sleep(min(looked_s / STATUS_MOST, STATUS_PAUSE_S))

    def daemon(self) -> Daemon:
        """Return what an observer asks of this service."""
        return Daemon(
            settings=lambda: self._settings.current,
            fleet=self._discovery.fleet,
            live=self._live,
            parts=self._archive.store.parts,
            call_stats=lambda: {name: account.api.call_stats for name, account in self._accounts.all().items()},
            activity=self._activity,
        )

    def _live(self) -> Live:
        scheduler, clock, unlisted = self._scheduler, self._clock, self._discovery.unlisted()
        clouds = account_status(self._accounts, self._settings.current, clock=clock, unlisted=unlisted)
        return Live(
            started_at=self._started_at,
            known_since=scheduler.known_since() if scheduler else {},
            next_ticks=scheduler.next_ticks() if scheduler else {},
            running=frozenset(self._collector.busy),
            clouds=tuple(clouds),
            transfers=self._activity.transfers(),
            loop_lag_s=self._lag.seconds,
            clocks=self._accounts.clocks(clock),
            config=self._config,
        )

    async def fleet(self) -> tuple[Instance, ...]:
        """Return all instances there are now, those that have to be discovered too; see ``unlisted``."""
        settings = self._settings.current
        if any(settings.discover_entries(cloud) for cloud in settings.clouds):
            await self._discovery.refresh()
        return self._discovery.fleet()

    async def listings(self) -> dict[str, Any]:
        """Ask every cloud for its instances, within its account's budget; return what commands are told."""
        settings = self._settings.current
        try:
            listed = {name: tuple(await one.api.instances()) for name, one in self._accounts.all().items()}
        except CloudError as exc:
            return {**status_client.listing_objects(settings, {}), "error": str(exc)}
        return status_client.listing_objects(settings, listed)

    def unlisted(self) -> dict[str, str]:
        """Return the clouds whose lists are needed and could not be had, and why; ``fleet`` has nothing new of them."""
        return self._discovery.unlisted()

    async def select(self, instance: Instance, selected: Selection) -> CycleReport:
        """Collect what is selected of one instance, and nothing else of it; see ``Collector.select``.

        Raises:
            UnknownNode: The instance has no such node, as far as is known.
        """
        node_ids = node_ids_of(selected.node_ids, instance, self._collector.node_registry.nodes(instance.name))
        try:
            return await self._collector.select(instance, replace(selected, node_ids=node_ids))
        finally:
            self._activity.over(instance.name)

    def retries(self) -> dict[str, str]:
        """Return why calls are tried again at this moment, by cloud; one reason of each."""
        accounts = self._accounts.all().items()
        return {name: next(iter(account.api.retries.values())) for name, account in accounts if account.api.retries}

    async def once(self, instances: Iterable[Instance]) -> list[CycleReport]:
        """Run one cycle of each instance, all at once; give their reports in the same order."""
        now = self._clock.now()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._collect(instance, tick=now), name=f"cycle of {instance.name}")
                for instance in instances
            ]
        return [task.result() for task in tasks]

    async def _cycle(self, instance: Instance, tick: datetime) -> None:
        try:
            with self._engine.fence(instance) as epoch:
                report = await self._collect(instance, tick=tick)
                self._adaptive_schedule.heard(instance, report, tick=tick)
                await self._engine.commit(instance, epoch, run=tick)
        except NotOwned as exc:
            log.warning("cycle.not_owned", instance=instance.name, reason=str(exc))
        self._news.set()

    async def _collect(self, instance: Instance, *, tick: datetime) -> CycleReport:
        try:
            return await self._collector.collect(instance, tick=tick)
        finally:
            self._activity.over(instance.name)

    async def _prune(self) -> None:
        try:
            await StreamBook(self._archive.ledger).merge_gaps()
            await self._archive.recovery.whole()  # it counts what is there
            await self._archive.retention.run()
        except StorageError as exc:
            log.error("retention.failed", reason=str(exc))

    async def _watch_ledger(self) -> None:
        """Check now and then whether the ledger is in order, by the real time: what befalls it keeps to no schedule."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except Exception:  # a bug here ends nothing else
                log.exception("ledger.bug")

    async def _look(self) -> None:
        """Check whether the ledger is in order; where it had to be made again, enter what is on disk."""
        trouble, refused = self._archive.ledger.trouble, ""
        try:
            await self._archive.ledger.look()
            await self._archive.recovery.whole()
        except StorageError as exc:
            refused = str(exc)
        if refused and refused != self._refused:
            log.error("ledger.failed", reason=refused)
        self._refused = refused
        if self._archive.ledger.trouble != trouble:
            self._news.set()

    async def _catch_up(self) -> None:
        """Let streams take what no cycle will bring them, what a crash left or what failed, and close what is old."""
        streams, known = self._archive.streams, {instance.name: instance for instance in self._discovery.fleet()}
        if not self._settings.current.stream.enabled:
            return
        try:
            await self._archive.recovery.whole()
            behind = await streams.behind()
        except StorageError as exc:
            log.error("ledger.failed", reason=str(exc))
            return
        for series, name in behind:
            if name in self._collector.busy:  # an older file may be on its way: its cycle sees to the order
                continue
            origin = stream_origin(known.get(name), name, self._settings.current)
            try:
                await streams.catch_up(series, origin=origin, note=_unheard)
            except StorageError as exc:
                log.error("stream.failed", instance=name, reason=str(exc))
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is this stream's alone
                self._collector.bugs.note(exc, instance=name, series=series)

    async def _refreshed(self) -> tuple[Instance, ...]:
        try:
            await self._discovery.refresh()
        except StorageError as exc:
            log.error("ledger.failed", reason=str(exc))
        return self._discovery.fleet()


def _unheard(advance: Advance) -> None:
    """Take no notice: a gap is told of by the stream itself."""
