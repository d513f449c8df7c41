"""How an instance's nodes stand after a cycle: which its exports leave out, and of which the cloud makes no new one."""

from __future__ import annotations

import asyncio
import logging
from operator import itemgetter
from typing import TYPE_CHECKING

import structlog

from ddslogd.collection import completeness
from ddslogd.model.cycle import Failed, NodeStanding, NodeState
from ddslogd.model.export import RowState
from ddslogd.model.failure_kind import FailureKind
from ddslogd.scheduling.triggers import longest_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from ddslogd.collection.context import CycleContext
    from ddslogd.huaweicloud.export import RunningExport
    from ddslogd.model.export import ExportReply, Row
    from ddslogd.model.instance import Instance, LogKind
    from ddslogd.model.snapshot import LogFile

log = structlog.get_logger()

AT_ONCE = 10  # failures that are noted before others get their turn
_NODE_EVENTS = {
    NodeState.NO_LONGER_EXPORTED: (
        "node.no_longer_exported",
        "see in the console whether the node is still there; grant dds:instance:list, and the list will tell",
    ),
    NodeState.REMOVED: ("node.removed", "nothing: the cloud lists it no more; its files stay"),
    NodeState.STALLED: (
        "source.stalled",
        "see in the console whether the node runs and writes; if it does, open a ticket",
    ),
}


class NodeStandings:
    """What the exports of one cycle say of nodes.

    Attributes:
        nodes: Those whose exports are not as they should be.
        stalled: What is reported of those of which there is no new export.
        judged: Kinds of log whose export was followed to its end.
        offered: The nodes that these exports had a row of.
        completed: Those of these kinds whose source was judged.
        unproven: Nodes whose old file could not be asked for, and why.
    """

    def __init__(self, context: CycleContext) -> None:
        self._context = context
        self.nodes: list[NodeStanding] = []
        self.stalled: list[Failed] = []
        self.judged: list[LogKind] = []
        self.offered: dict[LogKind, Sequence[str]] = {}
        self.completed: list[LogKind] = []
        self.unproven: dict[tuple[LogKind, str], str] = {}
        self._ended: list[LogKind] = []  # judged kinds of which nothing comes any more
        self._going_on: list[LogKind] = []  # and those of which something does
        self._before: dict[tuple[LogKind, str], NodeStanding] = {}  # as after the last cycle
        self._grown: set[tuple[LogKind, str]] = set()  # nodes with other bytes under the same name and time
        self._made_at: dict[tuple[LogKind, str, str], datetime] = {}  # of files that were held: by then it was made

    def note_grown(self, file: LogFile) -> None:
        """Record that a node's file has other bytes under the same name and time."""
        self._grown.add((file.log, file.node))

    def note_made(self, file: LogFile, made_at: datetime) -> None:
        """Record by when a file that is held was made."""
        self._made_at[file.log, file.node, file.file_name] = made_at

    def note_unproven(self, file: LogFile, reason: str) -> None:
        """Record that a file could not be compared with what is held."""
        self.unproven[file.log, file.node] = reason

    async def judge(
        self,
        instance: Instance,
        kind: LogKind,
        export: RunningExport,
        missing: Sequence[Failed],
        *,
        note: Callable[[Failed], None],
    ) -> None:
        """Record what an export did not bring, and what it should have spoken of.

        Args:
            instance: With the nodes that were asked for.
            kind: Which of its logs.
            export: Followed to its end.
            missing: Rows of it that brought no file.
            note: Hears of each failure.

        Raises:
            StorageError: The ledger cannot be used.
        """
        context, reply, name = self._context, export.reply, self._context.instance.name
        node_registry = context.node_registry
        if reply is None:
            raise AssertionError  # without one it would have raised
        history = await context.archive.ledger.node_history(name, kind)
        nodes = await context.node_names.known(context.instance, kind)
        question = completeness.Question(
            instance=instance,
            kind=kind,
            delivered=history.delivered,
            known=history.known,
            offered=history.offered,
            good_at=history.good_at,
            listed=node_registry.listed(name),
            younger=frozenset(
                one.node for one in history.delivered if node_registry.is_newer_than_list(name, one.node)
            ),
            nodes=nodes,
            now=context.now(),
        )
        verdict = completeness.judge(question, reply, vanished=export.vanished)
        # Who says nothing at all does not say either that something is being prepared: nodes are named in its place.
        for number, failed in enumerate((*(() if reply.silent and verdict.nodes else missing), *verdict.failed), 1):
            note(failed)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        node_registry.heard(instance, kind, export.rows, named=verdict.ids)
        self.judged.append(kind)
        if verdict.is_over:
            self._ended.append(kind)
        elif history.delivered or export.rows:
            self._going_on.append(kind)
        self.offered[kind] = tuple({row.node for row in export.rows})
        self._before |= {(kind, one.node): one for one in history.known}
        for one in verdict.nodes:
            self._enter(one)

    def ended(self) -> Iterator[Failed]:
        """Return the failures of kinds of log of which nothing comes any more, where nothing comes of any."""
        if not self._going_on:
            yield from (completeness.ended(kind) for kind in self._ended)

    def judge_source(self, kind: LogKind, export: RunningExport) -> None:
        """Record of which nodes the cloud makes no new export, though it was asked for one."""
        left_out = {one.node for one in self.nodes if one.log is kind}
        newest: dict[str, tuple[datetime, Row]] = {}
        for row in export.rows:
            made_at = self._made_at.get((kind, row.node, row.file_name), row.updated_at)
            if row.state is RowState.READY and made_at is not None:
                newest[row.node] = max(newest.get(row.node, (made_at, row)), (made_at, row), key=itemgetter(0))
        for node, (made_at, row) in newest.items():
            is_known = node in left_out or (kind, node) in self._grown
            if not is_known and self.is_of_long_ago(made_at):
                self._note_stalled(kind, row, made_at, export.reply)
        self.completed.append(kind)

    def is_of_long_ago(self, made_at: datetime) -> bool:
        """Return whether an export is so old that the cloud, asked at each run, must have made another one since."""
        context = self._context
        longest = longest_interval(context.instance.schedule, now=context.clock.now())
        return context.account.api.now() - made_at > context.settings.export.fresh_for + longest

    def _note_stalled(self, kind: LogKind, row: Row, made_at: datetime, reply: ExportReply | None) -> None:
        before = self._before.get((kind, row.node))
        now = self._context.clock.now()
        since = min(before.since, now) if before and before.state is NodeState.STALLED else now
        stalled = NodeState.STALLED
        self._enter(NodeStanding(log=kind, node=row.node, state=stalled, since=since, made_at=made_at))
        request = f" with the request id {reply.request_id}" if reply and reply.request_id else ""
        unproven = self.unproven.get((kind, row.node))
        asked = f" (its file could not be compared with what is on disk: {unproven})" if unproven else ""
        reason = (
            f"the cloud makes no new export of this node, the last one is of {made_at:%Y-%m-%d %H:%M} UTC{asked}: see"
            f" in the console whether the node runs and writes; if it does, open a ticket{request}"
        )
        self.stalled.append(
            Failed(log=kind, node=row.node, file_name=row.file_name, reason=reason, kind=FailureKind.SOURCE_STALLED)
        )

    def _enter(self, one: NodeStanding) -> None:
        """Record how a node stands; log once what it has come to, where nothing else is said of it."""
        self.nodes.append(one)
        before = self._before.get((one.log, one.node))
        if before is not None and before.state is one.state:
            return
        event = _NODE_EVENTS.get(one.state)
        if event is not None:
            nobody_looked = one.since <= self._context.now() - completeness.MISSED_FOR
            was_so_before = before is None and nobody_looked
            log.log(
                logging.INFO if was_so_before else logging.WARNING,
                event[0],
                instance=self._context.instance.name,
                node=one.node,
                log=one.log.value,
                since=one.since.isoformat(timespec="seconds"),
                todo=event[1],
            )
