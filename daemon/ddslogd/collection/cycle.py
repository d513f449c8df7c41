"""One cycle of one instance: follow its export, bring each link to disk as it comes, keep the ledger.

room? fresh? ─► Export.follow ─ link ─► FileCollection ─► stream
(a task each, in the cycle's TaskGroup)
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ddslogd.collection import selection
from ddslogd.collection.cycle_result import CycleResult
from ddslogd.collection.export_history import asked
from ddslogd.collection.file_collection import FileCollection
from ddslogd.collection.known_files import KnownFiles
from ddslogd.collection.node_standings import NodeStandings
from ddslogd.collection.stream_feed import StreamFeed
from ddslogd.huaweicloud.export import RunningExport
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import StorageError, UnknownFile
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.snapshot import Unchanged
from ddslogd.storage import paths

if TYPE_CHECKING:
    from ddslogd.collection.context import CycleContext
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.export import Link, Selection
    from ddslogd.model.instance import Instance, LogKind


class Cycle:
    """One cycle under way."""

    def __init__(self, context: CycleContext) -> None:
        self._context = context
        self._instance = context.instance
        self._archive = context.archive
        self._result = CycleResult(context)
        self._standings = NodeStandings(context)
        self._feed = StreamFeed(context, self._result)
        archive = context.archive
        self._known_files = KnownFiles(context.instance.name, ledger=archive.ledger, streams=archive.streams)
        self._running: Counter[str] = Counter()  # transfers by series
        # By series: the cloud may export a node again in mid-cycle, and two files with the same bytes are one.
        self._one_by_one: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> CycleReport:
        """Follow the export to its end and every file to disk; a bad file never stops its neighbours."""
        limit, result = self._context.settings.schedule.cycle_timeout, self._result
        guard = asyncio.timeout(limit.total_seconds())
        try:
            async with guard:
                await self._archive.recovery.of(self._instance.name)
                if not await self._context.room.has_room():
                    result.fail("the disk is below storage.keep_free", FailureKind.NO_ROOM)
                    return result.report(self._standings, outcome=CycleOutcome.NO_ROOM)
                await self._archive.store.sweep(self._context.now())
                await self._follow()
        except TimeoutError:
            if not guard.expired():
                raise
            result.fail(f"the cycle took longer than schedule.cycle_timeout ({limit})", FailureKind.TIMEOUT)
        except StorageError as exc:
            result.fail(str(exc), exc.kind)
        except Exception as exc:  # noqa: BLE001  # it must not keep the cycle out of the ledger: then nobody is told
            bug = self._context.bugs.note(exc, instance=self._instance.name)
            result.fail(str(bug), bug.kind)
        finally:
            for _, _, export in result.exports:
                export.close()
        return result.report(self._standings)

    async def _follow(self) -> None:
        result, standings, selected = self._result, self._standings, self._context.selected
        async with asyncio.TaskGroup() as group:
            for kind in self._instance.logs:
                group.create_task(self._follow_kind(kind, group), name=f"{self._instance.name}: {kind}")
        await self._feed.drop_superseded()
        if not result.cached:
            for failed in standings.ended():
                result.note(failed)
        if selected is not None and not result.failed_calls and not result.failed_names:
            rows = [row for _, _, export in result.exports for row in export.rows]
            for failed in selection.unmet(selected, self._instance, rows):
                result.note(failed)
        for kind, _, export in result.exports:
            if kind in standings.judged:
                standings.judge_source(kind, export)
        result.sum_up_failures()

    async def _follow_kind(self, kind: LogKind, group: asyncio.TaskGroup) -> None:
        context, result = self._context, self._result
        instance = context.node_registry.limited(self._instance, kind)
        if instance is None:
            return  # none of the nodes that were asked for has such a log
        if context.selected is not None:
            await self._follow_selected(context.selected, instance, kind, group)
            return
        until = context.export_history.served_until(instance, kind, now=context.account.api.now())
        if until is not None:
            result.note_cached(kind, until)
            return
        export = self._export(instance, kind, group)
        with result.failures_of(kind):
            missing = await export.follow(urgency=context.urgency)
            await self._standings.judge(instance, kind, export, missing, note=result.note)

    async def _follow_selected(
        self, selected: Selection, instance: Instance, kind: LogKind, group: asyncio.TaskGroup
    ) -> None:
        """Follow the export of what is selected; what the rest of the instance lacks is not judged.

        What tells several files of one node apart is each other: then the whole export is asked for.
        """
        context, result = self._context, self._result
        narrowed = replace(instance, node_ids=selected.node_ids or instance.node_ids)
        limited = context.node_registry.limited(narrowed, kind)
        wanted = selection.of_kind(selected, kind, limited.node_ids) if limited else None
        if limited is None or wanted is None:
            return
        with result.failures_of(kind):
            several = await context.node_names.has_several(instance, kind)
            export = self._export(instance if several else limited, kind, group, wanted=wanted, by_name=not several)
            try:
                missing = await export.follow(urgency=context.urgency)
            except UnknownFile:  # the only file: there is no row of it
                return
            for failed in missing if export.rows or not wanted.file_names else ():
                result.note(failed)

    def _export(
        self,
        instance: Instance,
        kind: LogKind,
        group: asyncio.TaskGroup,
        *,
        wanted: Selection | None = None,
        by_name: bool = True,
    ) -> RunningExport:
        def hand_on(link: Link) -> None:
            series = paths.series(paths.key(link.file))
            self._running[series] += 1
            work = self._settle(link, export, series)
            try:
                group.create_task(work, name=f"{self._instance.name}/{link.file.node}")
            except RuntimeError:  # the cycle is being cancelled, and takes no more tasks
                work.close()

        context = self._context
        known = context.export_history.of(context.node_registry.limited(self._instance, kind) or instance, kind)
        export = RunningExport(
            instance,
            kind=kind,
            api=context.account.api,
            rule=context.account.rule,
            settings=context.settings.export,
            clock=context.clock,
            hand_on=hand_on,
            takes=known.takes,
            arrivals=known.arrivals,
            identify=context.node_names.identifier(instance, kind, relist=context.account.api.listed),
            wanted=wanted,
            by_name=by_name,
        )
        self._result.exports.append((kind, asked(instance), export))
        return export

    async def _settle(self, link: Link, export: RunningExport, series: str) -> None:
        collection = FileCollection(
            link,
            export,
            context=self._context,
            standings=self._standings,
            known_files=self._known_files,
            feed=self._feed,
            one_by_one=self._one_by_one[series],
        )
        outcome = await collection.run()
        export.ended(link.file)
        series = paths.series(paths.key(link.file))
        if not isinstance(outcome, Unchanged):
            self._known_files.changed(series)
        self._result.note(outcome)
        self._context.progress.ended(link.file, outcome)
        self._running[series] -= 1
        if not self._running[series] and not self._known_files.is_idle(series):
            # Were another of its files under way, the newer of the two could come before the older.
            await self._feed.catch_up(series)
