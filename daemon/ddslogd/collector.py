"""One cycle of one instance: follow its export, bring each link to disk as it comes, keep the books.

room? fresh? ─► Export.follow ─ link ─► ledger has it? ─► Downloader.fetch ─► publish ─► ledger ─► stream
(a task each, in the cycle's TaskGroup)
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

from ddslogd.cloud.exports import Export
from ddslogd.errors import CloudError, Gone, StorageError, TransferError
from ddslogd.habits import asked
from ddslogd.models import (
    CycleOutcome,
    CycleReport,
    Failed,
    FailedCall,
    Habit,
    Snapshot,
    Stored,
    Superseded,
    Unchanged,
)
from ddslogd.storage import layout
from ddslogd.storage.filesystem import unbroken
from ddslogd.storage.stream import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ddslogd.cloud.api import Api
    from ddslogd.cloud.exports import LinkRule
    from ddslogd.config import Settings
    from ddslogd.habits import Habits
    from ddslogd.models import Advance, Instance, Link, LogKind, Outcome, Progress, Seed
    from ddslogd.pacing import Clock, Skew
    from ddslogd.roster import Roster
    from ddslogd.storage.ledger import Ledger
    from ddslogd.storage.part import Part
    from ddslogd.storage.recovery import Recovery
    from ddslogd.storage.retention import Retention
    from ddslogd.storage.store import Store
    from ddslogd.storage.stream import Streams
    from ddslogd.transfer.downloader import Downloader, Fetched

log = structlog.get_logger()

WARN_EVERY = timedelta(days=1)
LARGE_SKEW = timedelta(seconds=60)
_UNASKED = {CycleOutcome.NO_ROOM, CycleOutcome.CACHED}
_OPERATORS_TURN = {"Gone", "NotAllowed", "Unsupported", "CredentialsRefused"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a cycle needs of its instance's cloud."""

    api: Api
    downloader: Downloader
    rule: LinkRule
    skew: Skew


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where a cycle keeps what it brings.

    Attributes:
        store: Where snapshots go.
        ledger: The books.
        recovery: Brings them in line with the disk, of each instance before its first cycle.
        streams: Take the snapshots; None where there are to be none.
        retention: Removes what may go.
    """

    store: Store
    ledger: Ledger
    recovery: Recovery
    streams: Streams | None
    retention: Retention


class Lender(Protocol):
    """Lends accounts, so that none is closed while a cycle needs it."""

    def using(self, cloud: str) -> AbstractContextManager[Account]:
        """Lend a cloud's account."""


class Collector:
    """Runs cycles. Everything foreseen ends in their reports; only bugs raise.

    Attributes:
        busy: The names of instances whose cycle is running.
    """

    def __init__(
        self,
        *,
        accounts: Lender,
        archive: Archive,
        settings: Settings,
        clock: Clock,
        progress: Progress,
        roster: Roster,
        habits: Habits,
        last_ticks: Mapping[str, datetime],
    ) -> None:
        """Prepare.

        Args:
            accounts: Of the clouds.
            archive: Where everything is kept.
            settings: Of the whole daemon.
            clock: For the times in reports and the waits of exports.
            progress: Hears what becomes of each file.
            roster: Knows the instances' nodes.
            habits: Knows how their exports go.
            last_ticks: By instance name: the last tick that had its cycle, to tell who has been waiting longest.
        """
        self._accounts = accounts
        self.archive = archive
        self.settings = settings
        self.clock = clock
        self.progress = progress
        self.roster = roster
        self.habits = habits
        self.busy: set[str] = set()
        self._full = False
        self._warned: dict[str, tuple[str, datetime]] = {}  # by instance: what was warned of last, and when
        self._skewed: set[str] = set()
        self._served_at = dict(last_ticks)  # by instance: when its last cycle ended, well or not

    def take_over(self, settings: Settings, *, archive: Archive) -> None:
        """Go by other settings from the next cycle on; each ends by those that it began with."""
        self.settings = settings
        self.archive = archive

    async def collect(self, instance: Instance, *, tick: datetime) -> CycleReport:
        """Run one cycle and enter it in the ledger."""
        began = self.clock.monotonic()
        self.busy.add(instance.name)
        try:
            with self._accounts.using(instance.cloud) as account:
                report = await _Cycle(self, instance, account).run()
        finally:
            self.busy.discard(instance.name)
        if report.outcome is not CycleOutcome.CACHED:  # it took no turn
            self._served_at[report.instance] = report.finished_at
        self.habits.note(report.instance, report.habits)
        since = None
        try:
            since = await self.archive.ledger.close_cycle(report, tick=tick)
            if report.outcome is CycleOutcome.FAILED and report.error_kind == Gone.__name__:
                await self.note_gone(instance)
        except StorageError as exc:
            log.error("ledger.failed", instance=instance.name, reason=str(exc))
        self._tell(report, since=since, took_s=self.clock.monotonic() - began)
        self._tell_skew(instance.cloud, account.skew.offset)
        self.progress.cycled(report)
        return report

    async def note_gone(self, instance: Instance) -> None:
        """Note that the cloud has no such instance any more: what it wrote since its last export is lost.

        Raises:
            StorageError: The ledger cannot be used.
        """
        if self.archive.streams is not None:
            await self.archive.streams.note_gone(instance.name)

    def urgency(self, instance: Instance) -> float:
        """Give the urgency of a new export: who waits longest for a turn is first; after all that has begun.

        What counts is the last cycle, not the last success: instances that never succeed would starve the others.
        """
        last = self._served_at.get(instance.name)
        return 1.0 + (last.timestamp() if last else 0.0)

    def _tell(self, report: CycleReport, *, since: datetime | None, took_s: float) -> None:
        failing = {"error": report.error} if report.error else {}
        if since is not None:
            failing["failing_since"] = since.isoformat(timespec="seconds")
        if report.outcome is CycleOutcome.CACHED and report.fresh_until is not None:
            failing["fresh_until"] = report.fresh_until.isoformat(timespec="seconds")
        log.log(
            self._level(report),
            "cycle.done",
            instance=report.instance,
            outcome=report.outcome.value,
            stored=report.stored,
            unchanged=report.unchanged,
            failed=len(report.failures),
            stored_bytes=report.stored_bytes,
            fetched_bytes=report.fetched_bytes,
            new_bytes=report.new_bytes,
            gaps=report.gaps,
            took_s=round(took_s, 1),
            **failing,
        )

    def _level(self, report: CycleReport) -> int:
        """Choose the event's level: what only the operator can mend is a warning once a day, not at every tick."""
        if report.outcome.good:
            self._warned.pop(report.instance, None)
            return logging.INFO
        if report.outcome in _UNASKED:  # a full disk is warned of once, for all
            return logging.INFO
        if report.error_kind not in _OPERATORS_TURN or report.failures:
            return logging.WARNING
        kind, warned_at = self._warned.get(report.instance, ("", self.clock.now()))
        if kind == report.error_kind and self.clock.now() - warned_at < WARN_EVERY:
            return logging.INFO
        self._warned[report.instance] = (report.error_kind, self.clock.now())
        return logging.WARNING

    def _tell_skew(self, cloud: str, skew: timedelta) -> None:
        """Say once that the clocks differ by much, and once that they agree again."""
        if (abs(skew) > LARGE_SKEW) == (cloud in self._skewed):
            return
        if cloud in self._skewed:
            self._skewed.remove(cloud)
            log.info("clock.agrees_again", cloud=cloud)
        else:
            self._skewed.add(cloud)
            todo = "set this host's clock (NTP); until then the cloud's is used to judge links and tokens"
            log.warning("clock.skewed", cloud=cloud, cloud_is_ahead_s=round(skew.total_seconds()), todo=todo)

    async def has_room(self) -> bool:
        """Tell whether there is room on disk; say once that there is none, and once that there is again."""
        has_room = await self.archive.store.has_room()
        if not has_room:
            await self.archive.recovery.whole()  # room is counted by what is there
            await self.archive.retention.make_room()
            has_room = await self.archive.store.has_room()
        storage = self.settings.storage
        if has_room and self._full:
            log.info("disk.room_again", directory=str(storage.directory))
        if not has_room and not self._full:
            todo = "make room, or lower storage.keep_free; until then nothing is requested"
            log.warning(
                "disk.below_keep_free", directory=str(storage.directory), keep_free=storage.keep_free, todo=todo
            )
        self._full = not has_room
        return has_room


class _Cycle:
    """One cycle under way, and what it has brought so far."""

    def __init__(self, collector: Collector, instance: Instance, account: Account) -> None:
        self._collector = collector
        self._instance = instance
        self._account = account
        self._settings = collector.settings
        self._archive = collector.archive
        self._started_at = collector.clock.now()
        self._outcomes: list[Outcome] = []
        self._advances: list[Advance] = []
        self._running: Counter[str] = Counter()  # transfers by series
        # By series: the cloud may export a node anew in mid-cycle, and two files with the same bytes are one. Held
        # while one is compared with those that are published, until it is entered.
        self._one_by_one: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._exports: list[tuple[LogKind, str, Export]] = []  # with what was asked for
        self._served: list[datetime] = []  # of kinds that were not asked for: until when there is nothing new
        self._failed_calls: list[FailedCall] = []
        self._failed_streams: list[StorageError] = []
        self._error = ""
        self._error_kind = ""

    async def run(self) -> CycleReport:
        """Follow the export to its end and every file to disk; a bad file never stops its neighbours."""
        limit = self._settings.schedule.cycle_timeout
        guard = asyncio.timeout(limit.total_seconds())
        try:
            async with guard:
                await self._archive.recovery.of(self._instance.name)
                if not await self._collector.has_room():
                    return self._report(CycleOutcome.NO_ROOM, "the disk is below storage.keep_free", "NoRoom")
                await self._archive.store.sweep(self._collector.clock.now())
                await self._follow()
        except TimeoutError:
            if not guard.expired():
                raise
            self._error, self._error_kind = f"the cycle took longer than schedule.cycle_timeout ({limit})", "Timeout"
        except StorageError as exc:
            self._error, self._error_kind = str(exc), type(exc).__name__
        return self._report(self._outcome(), self._error, self._error_kind)

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._instance.logs:
                group.create_task(self._follow_kind(kind, group), name=f"{self._instance.name}: {kind}")
        failed = [(call.kind, call.reason) for call in self._failed_calls]
        failed += [(type(exc).__name__, str(exc)) for exc in self._failed_streams]
        if failed:
            self._error = "; ".join(dict.fromkeys(reason for _, reason in failed))
            kinds = [kind for kind, _ in failed]
            # What may pass is worth more words than what waits for the operator.
            self._error_kind = next((kind for kind in kinds if kind not in _OPERATORS_TURN), kinds[0])

    async def _follow_kind(self, kind: LogKind, group: asyncio.TaskGroup) -> None:
        instance = self._collector.roster.limited(self._instance, kind)
        if instance is None:
            return  # none of the nodes that were asked for has such a log
        habits = self._collector.habits
        until = habits.served_until(instance, kind, now=self._account.api.now())
        if until is not None:
            self._served.append(until)
            return

        def hand_on(link: Link) -> None:
            key = layout.key(link.file)
            self._running[layout.series(key)] += 1
            group.create_task(self._settle(link, key, export), name=f"{self._instance.name}/{link.file.node}")

        export = Export(
            instance,
            kind=kind,
            api=self._account.api,
            rule=self._account.rule,
            settings=self._settings.export,
            clock=self._collector.clock,
            hand_on=hand_on,
            takes=habits.of(instance, kind).takes,
        )
        self._exports.append((kind, asked(instance), export))
        try:
            missing = await export.follow(urgency=self._collector.urgency(self._instance))
        except CloudError as exc:
            self._failed_calls.append(FailedCall(log=kind, reason=str(exc), kind=type(exc).__name__))
        else:
            for failed in missing:
                self._note(failed)
            self._collector.roster.heard(instance, kind, export.rows)

    async def _settle(self, link: Link, key: str, export: Export) -> None:
        outcome = await self._bring(link, key, export)
        self._note(outcome)
        self._collector.progress.ended(link.file, outcome)
        series = layout.series(key)
        self._running[series] -= 1
        if not self._running[series]:  # else the newer of two files could come before the older
            await self._catch_up(series)

    async def _catch_up(self, series: str) -> None:
        archive, origin = self._archive, Origin(schedule=self._instance.schedule, key=self._instance.id)
        if archive.streams is not None:
            try:
                await archive.streams.catch_up(series, origin=origin, note=self._advances.append)
                await archive.retention.drop_superseded(series)
            except StorageError as exc:
                self._failed_streams.append(exc)

    def _note(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        match outcome:
            case Stored(snapshot=snapshot):
                log.info("file.stored", instance=self._instance.name, path=snapshot.path, size=snapshot.size)
            case Failed():
                log.warning(
                    "file.failed",
                    instance=self._instance.name,
                    node=outcome.node,
                    log=outcome.log.value,
                    file=outcome.file_name,
                    reason=outcome.reason,
                )
            case Unchanged(file=file) | Superseded(file=file):
                log.debug("file.skipped", instance=self._instance.name, node=file.node, file=file.file_name)

    async def _bring(self, link: Link, key: str, export: Export) -> Outcome:
        """Bring one file to disk; whatever is foreseen is an outcome."""
        file, archive = link.file, self._archive
        received, began_at = 0, self._collector.clock.now()
        try:
            known = await archive.ledger.known(key)
            if known.held:
                return Unchanged(file=file)
            seed = self._seed(known.newest)
            async with archive.store.part(file) as part:
                try:
                    return await self._fetch(link, key, part, export, seed=seed, began_at=began_at)
                finally:
                    received = part.received
        except (CloudError, TransferError, StorageError) as exc:
            return Failed(
                log=file.log,
                node=file.node,
                file_name=file.file_name,
                reason=str(exc),
                kind=type(exc).__name__,
                fetched=received,
            )

    def _seed(self, newest: Snapshot | None) -> Seed | None:
        """Give what the file may begin with the end of."""
        download = self._collector.settings.download  # as the store's checks: of now
        if newest is None or download.delta == "off" or download.verify != "md5":  # nothing else proves it
            return None
        return self._archive.store.seed(newest)

    async def _fetch(
        self, link: Link, key: str, part: Part, export: Export, *, seed: Seed | None, began_at: datetime
    ) -> Outcome:
        fetched = await self._account.downloader.fetch(link, part, renew=export.renew, seed=seed)
        if fetched is not None and fetched.unchanged and seed is not None:
            snapshot = self._snapshot(link, key, part, fetched, began_at=began_at)
            snapshot = replace(snapshot, size=seed.size, md5=seed.md5, sha256=seed.sha256)
            same = await self._archive.ledger.same_beside(snapshot)
            if same is not None and await self._enter_as(same, snapshot, part):
                return Unchanged(file=link.file, fetched=part.received)
            # It is not beside it any more, or is gone: then it takes a copy of its own.
            fetched = await self._account.downloader.fetch(link, part, renew=export.renew)
        async with self._one_by_one[layout.series(key)]:
            return await self._keep(link, key, part, fetched, began_at=began_at)

    async def _keep(self, link: Link, key: str, part: Part, fetched: Fetched | None, *, began_at: datetime) -> Outcome:
        """Publish what is whole, unless it is nothing new, and enter it in the ledger; one at a time of a series."""
        if fetched is None:
            await part.remove()
            return Superseded(file=link.file, fetched=part.received)
        if part.size == 0:  # a quiet node; an empty file is never published
            await part.remove()
            return Unchanged(file=link.file)
        return await self._publish(self._snapshot(link, key, part, fetched, began_at=began_at), part)

    @unbroken  # else what is visible would be in no books until the next start, and come again with the next export
    async def _publish(self, snapshot: Snapshot, part: Part) -> Outcome:
        ledger = self._archive.ledger
        same = await ledger.promise(snapshot)
        if same is not None:
            if await self._enter_as(same, snapshot, part):
                return Unchanged(file=snapshot.file, fetched=part.received)
            await ledger.promise(snapshot, even_if_same=True)
        first_at, last_at = await part.publish()
        snapshot = replace(snapshot, first_at=first_at, last_at=last_at)
        await ledger.enter(snapshot)
        return Stored(snapshot=snapshot, fetched=part.received)

    def _snapshot(self, link: Link, key: str, part: Part, fetched: Fetched, *, began_at: datetime) -> Snapshot:
        return Snapshot(
            file=link.file,
            key=key,
            path=key,
            size=part.size,
            md5=part.digests.md5,
            sha256=part.digests.sha256,
            etag=part.identity.etag,
            verified=fetched.verified,
            began_at=began_at,
            stored_at=self._collector.clock.now(),
            attempts=fetched.attempts,
            request_ids=tuple(filter(None, (link.request_id, fetched.request_id))),
            delta=fetched.delta,
            fetched=part.received,
        )

    async def _enter_as(self, same: str, snapshot: Snapshot, part: Part) -> bool:
        """Enter a file at the place of one beside it, which has the same bytes; False where that is gone."""
        archive = self._archive
        if not await archive.store.has(same):
            return False
        await part.remove()
        await archive.ledger.enter(replace(snapshot, path=same))
        return True

    def _outcome(self) -> CycleOutcome:
        good = bool(self._served) or any(isinstance(outcome, Stored | Unchanged) for outcome in self._outcomes)
        bad = bool(self._error) or any(isinstance(outcome, Failed) for outcome in self._outcomes)
        match good, bad:
            case True, True:
                return CycleOutcome.PARTIAL
            case True, False:
                return CycleOutcome.OK if self._exports else CycleOutcome.CACHED
            case False, True:
                return CycleOutcome.FAILED
            case _:
                return CycleOutcome.NOTHING

    def _habit(self, kind: LogKind, question: str, export: Export) -> Habit:
        failed = bool(self._error) or any(isinstance(one, Failed) and one.log is kind for one in self._outcomes)
        until = None if failed else export.fresh_until
        return Habit(log=kind, asked=question, takes=export.takes, fresh_until=until)

    def _report(self, outcome: CycleOutcome, error: str, error_kind: str) -> CycleReport:
        habits = [self._habit(*export) for export in self._exports]
        times = [*self._served, *(habit.fresh_until for habit in habits if habit.fresh_until is not None)]
        return CycleReport(
            instance=self._instance.name,
            started_at=self._started_at,
            finished_at=self._collector.clock.now(),
            outcome=outcome,
            outcomes=tuple(self._outcomes),
            advances=tuple(self._advances),
            failed_calls=tuple(self._failed_calls),
            error=error,
            error_kind=error_kind,
            habits=habits,
            fresh_until=max(times) - self._account.skew.offset if times else None,
        )
