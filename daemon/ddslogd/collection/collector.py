"""Runs cycles, and keeps what lives longer than one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ddslogd.collection.bug_log import BugLog
from ddslogd.collection.context import CycleContext
from ddslogd.collection.cycle import Cycle
from ddslogd.collection.cycle_log import CycleLog
from ddslogd.collection.room_check import RoomCheck
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import StorageError
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.line_quota import limited
from ddslogd.scheduling.clock import believed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from ddslogd.collection.context import Archive, Lender
    from ddslogd.collection.export_history import ExportHistory
    from ddslogd.collection.node_names import NodeNames
    from ddslogd.collection.node_registry import NodeRegistry
    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.model.cycle import CycleReport, Progress
    from ddslogd.model.export import Selection
    from ddslogd.model.instance import Instance
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()


class Collector:
    """Runs cycles. Everything foreseen ends in their reports; only bugs raise.

    Attributes:
        busy: The names of instances whose cycle is running.
        bugs: What nobody foresaw, in cycles and elsewhere.
        cycle_log: What is logged of cycles.
    """

    def __init__(  # noqa: PLR0913  # the parts that it works with, each by its name
        self,
        *,
        accounts: Lender,
        archive: Archive,
        settings: LiveSettings,
        clock: Clock,
        progress: Progress,
        node_registry: NodeRegistry,
        node_names: NodeNames,
        export_history: ExportHistory,
        last_ticks: Mapping[str, datetime],
    ) -> None:
        """Prepare.

        Args:
            accounts: Of the clouds.
            archive: Where everything is kept.
            settings: Of the whole daemon; each cycle ends by those that it began with.
            clock: For the times in reports and the waits of exports.
            progress: Hears what becomes of each file.
            node_registry: Knows the instances' nodes.
            node_names: Knows what those nodes' files are called.
            export_history: Knows how their exports go.
            last_ticks: By instance name: the last run that had its cycle, to tell who has been waiting longest.
        """
        self._accounts = accounts
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._node_names = node_names
        self._export_history = export_history
        self.archive = archive
        self.node_registry = node_registry
        self.busy: set[str] = set()
        self.bugs = BugLog()
        self.cycle_log = CycleLog(clock)
        self._room = RoomCheck(archive, settings)
        self._served_at = dict(last_ticks)  # by instance: when its last cycle ended, well or not

    async def collect(self, instance: Instance, *, tick: datetime) -> CycleReport:
        """Run one cycle and enter it in the ledger."""
        began = self._clock.monotonic()
        report, skew = await self._cycle(instance)
        since = await self._enter(instance, report, tick=tick)
        self._ended(report, since=since, began=began, skew=skew)
        return report

    async def select(self, instance: Instance, selected: Selection) -> CycleReport:
        """Collect what is selected of an instance: files and streams are entered in the ledger, the cycle is not.

        It is no run of the schedule, makes nothing fresh and no node missing, and ends no failure: what was not asked
        for may be in any state.
        """
        began = self._clock.monotonic()
        report, skew = await self._cycle(instance, selected)
        try:
            await self.archive.ledger.enter(*report.entries)
        except StorageError as exc:
            log.error("ledger.failed", instance=instance.name, reason=str(exc))
        self._ended(report, since=None, began=began, skew=skew)
        return report

    async def _cycle(self, instance: Instance, selected: Selection | None = None) -> tuple[CycleReport, timedelta]:
        """Run one cycle; return its report, and how far the cloud's clock is ahead then."""
        self.busy.add(instance.name)
        try:
            with self._accounts.using(instance.cloud) as account, limited() as lines:
                context = CycleContext(
                    instance=instance,
                    selected=selected,
                    account=account,
                    archive=self.archive,
                    settings=self._settings.current,
                    clock=self._clock,
                    progress=self._progress,
                    node_registry=self.node_registry,
                    node_names=self._node_names,
                    export_history=self._export_history,
                    room=self._room,
                    bugs=self.bugs,
                    urgency=self.urgency(instance),
                )
                report = await Cycle(context).run()
            await self._node_names.keep(instance)
        finally:
            self.busy.discard(instance.name)
        if lines.rest:
            log.warning("lines.left_out", instance=instance.name, events=dict(lines.rest))
        return report, account.skew.ahead(self._clock)

    def _ended(self, report: CycleReport, *, since: datetime | None, began: float, skew: timedelta) -> None:
        self.cycle_log.ended(report, since=since, took_s=self._clock.monotonic() - began, skew=skew)
        self._progress.cycled(report)

    async def _enter(self, instance: Instance, report: CycleReport, *, tick: datetime) -> datetime | None:
        """Enter a cycle in the ledger; return since when something fails, None where nothing does."""
        if report.outcome is not CycleOutcome.CACHED:  # it took no turn
            self._served_at[report.instance] = report.finished_at
        self._export_history.note(report.instance, report.habits)
        since = None
        try:
            since = await self.archive.ledger.close_cycle(report, tick=tick)
            if report.outcome is CycleOutcome.FAILED and report.error_kind is FailureKind.GONE:
                await self.note_gone(instance)
        except StorageError as exc:
            log.error("ledger.failed", instance=instance.name, reason=str(exc))
        return since

    async def note_gone(self, instance: Instance) -> None:
        """Record that the cloud has no such instance any more: what it wrote since its last export is lost.

        Raises:
            StorageError: The ledger cannot be used.
        """
        if self._settings.current.stream.enabled:
            with self._accounts.using(instance.cloud) as account:
                now = account.skew.now(self._clock)
            await self.archive.streams.note_gone(instance.name, now=now)

    def urgency(self, instance: Instance) -> float:
        """Return the urgency of a new export: who waits longest for a turn is first; after all that has begun.

        What counts is the last cycle, not the last success: instances that never succeed would starve the others.
        """
        # What lies ahead was noted by a clock that was wrong: it would wait until the clock has caught up.
        last = believed(self._served_at.get(instance.name), now=self._clock.now())
        return 1.0 + (last.timestamp() if last else 0.0)
