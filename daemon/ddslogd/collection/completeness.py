"""What an export leaves out: nodes that had a file before, or that it was preparing one of. Pure.

A reply that says less than it should is as wrong as one that says FAILED: a node that it leaves out has lines that are
not on disk. That ends where the cloud's list has no such node any more, or, where no list can be had, after a day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.collection.node_names import names_no_node
from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.model.cycle import Delivered, Failed, NodeStanding, NodeState
from ddslogd.model.export import RowState
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import KnownNode
from ddslogd.scheduling.clock import believed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from ddslogd.model.export import ExportReply, Row
    from ddslogd.model.instance import Instance, LogKind, Node

MISSED_FOR = timedelta(days=1)
"""For so long a node that no list tells of may be left out, until it counts as no longer exported."""
_UNKNOWN = KnownNode(id="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked, and what is known.

    Attributes:
        instance: With the nodes that were asked for.
        kind: Which of its logs.
        delivered: The nodes that had a file before.
        known: Those whose exports were not as they should be after the last cycle.
        offered: Those that the last export had a row of.
        good_at: When the last good cycle of the instance ended, by the cloud's clock; None where that is not known.
        listed: The nodes that the cloud lists now; none where no list is to be believed.
        younger: Nodes that may be younger than the list: they had a file since it came.
        nodes: What is known of nodes, by the names that their files have for life.
        now: By the cloud's clock, which this host's may be hours off.
    """

    instance: Instance
    kind: LogKind
    delivered: Sequence[Delivered]
    known: Sequence[NodeStanding] = ()
    offered: Collection[str] = ()
    good_at: datetime | None = None
    listed: Sequence[Node] = ()
    younger: frozenset[str] = frozenset()
    nodes: Mapping[str, KnownNode] = field(default_factory=dict)
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """What an export leaves out.

    Attributes:
        failed: What counts as a failure of this cycle.
        nodes: All that are left out, whether it counts or not.
        ids: The ids of these, as far as they are known, and their names.
        is_over: Whether nothing comes any more of what was asked for, and no list says that it is gone.
    """

    failed: tuple[Failed, ...] = ()
    nodes: tuple[NodeStanding, ...] = ()
    ids: frozenset[str] = frozenset()
    is_over: bool = False


def judge(question: Question, reply: ExportReply, *, vanished: Sequence[Row] = ()) -> Completeness:
    """Return what the last reply of an export leaves out.

    Args:
        question: What was asked, and what is known.
        reply: The last one.
        vanished: Rows that were being prepared, and that it speaks of no more.
    """
    case = _Case(question, reply)
    absent = {one.node: one for one in question.delivered if case.is_absent(one)}
    prepared = {row.node: Delivered(node=row.node, file_name=row.file_name) for row in vanished}
    standings = [case.standing(one) for one in (prepared | absent).values()]
    missed = [one.node for one in standings if one.state is NodeState.LEFT_OUT]
    failed = [case.left_out(node, promised=node in prepared) for node in missed]
    failed += case.failed_unnamed(missed)
    return Completeness(
        failed=tuple(failed),
        nodes=tuple(standings),
        is_over=not (reply.rows or missed) and any(one.state is NodeState.NO_LONGER_EXPORTED for one in standings),
        ids=frozenset({*absent, *prepared, *(case.id_of(one) for one in absent.values())} - {""}),
    )


def ended(kind: LogKind) -> Failed:
    """Return the failure of an instance of which nothing comes any more, nobody knows why."""
    reason = (
        "the cloud has exported none of its nodes for a day, and no list says that they are gone: see in the console"
        " whether they run; if they do, open a ticket; if not, take the instance out of the configuration, or grant"
        " dds:instance:list, and the list will tell"
    )
    return Failed(log=kind, node="", file_name="", reason=reason, kind=FailureKind.LEFT_OUT)


class _Case:
    """One reply, and what its rows tell of nodes."""

    def __init__(self, question: Question, reply: ExportReply) -> None:
        self._question = question
        self._reply = reply
        self._names = {row.node for row in reply.rows}
        self._ids = {row.node_id or DDS.node_id_in(row.file_name) for row in reply.rows} - {""}
        came = {one.node: one.at for one in question.delivered if one.at is not None}
        self._before = {  # what is older than a node's last file is over
            one.node: one
            for one in question.known
            if one.state is not NodeState.STALLED and one.since >= came.get(one.node, one.since)
        }
        times = (believed(moment, now=question.now) for moment in (question.good_at, *came.values()))
        self._exported_until = max((moment for moment in times if moment is not None), default=question.now)

    def id_of(self, one: Delivered) -> str:
        """Return the id of a node, by what is known of it, its file's name or the list; empty where none tells."""
        known = self._node(one)
        called = known.called or one.node
        listed = (node.id for node in self._question.listed if called == node.name or one.node == node.id)
        return known.id or DDS.node_id_in(one.file_name) or DDS.node_id_in(one.node) or next(listed, "")

    def _node(self, one: Delivered) -> KnownNode:
        return self._question.nodes.get(one.node, _UNKNOWN)

    def is_absent(self, one: Delivered) -> bool:
        """Return whether the reply should have a row of a node and has none. A renamed one is known by its id."""
        node_id, asked = self.id_of(one), self._question.instance.node_ids
        if one.node in self._names or (node_id in self._ids and not self._node(one).several):
            return False
        if asked and node_id:
            return node_id in asked
        # What cannot be told from another node by any name or id is missed where there is no row at all.
        return not self._reply.rows if asked or names_no_node(one.node) else True

    def standing(self, one: Delivered) -> NodeStanding:
        """Return how an absent node stands."""
        question, before = self._question, self._before.get(one.node)
        since = self._since(one, before)
        state = NodeState.LEFT_OUT
        if self._is_removed(one, before):
            state = NodeState.REMOVED
        elif question.now - since >= MISSED_FOR and not self._is_expected(one):
            state = NodeState.NO_LONGER_EXPORTED
        return NodeStanding(log=question.kind, node=one.node, state=state, since=since)

    def _since(self, one: Delivered, before: NodeStanding | None) -> datetime:
        """Return since when a node is absent; a time that is yet to come is of a clock that was wrong."""
        now = self._question.now
        since = believed(before.since if before else self._last_had(one), now=now)
        return min(since or now, now)

    def _last_had(self, one: Delivered) -> datetime | None:
        """Return when a node had its last file, where exports went on without it since and nobody looked."""
        if one.node in self._question.offered or one.at is None or self._exported_until - one.at < MISSED_FOR:
            return None
        return one.at

    def _is_expected(self, one: Delivered) -> bool:
        """Return whether the list says that there should be a file: it names nodes, and not how many files each has."""
        return self._is_listed(one) and not (self._node(one).several and self.id_of(one) in self._ids)

    def _is_removed(self, one: Delivered, before: NodeStanding | None) -> bool:
        """Return whether the cloud lists a node no more; one that had no file yet, or only since, may be younger."""
        if not self._question.listed:
            return before is not None and before.state is NodeState.REMOVED
        known = one.node not in self._question.younger and one in self._question.delivered
        return known and not self._is_listed(one)

    def _is_listed(self, one: Delivered) -> bool:
        """Return whether the list has a node: by its id alone where that is known, another may have its name now."""
        node_id = self.id_of(one)  # by the list, too, where it has the name
        return any(node.id == node_id for node in self._question.listed)

    def left_out(self, node: str, *, promised: bool) -> Failed:
        """Return the failure of a node of which the reply says nothing."""
        said = "was preparing a file of this node and then" if promised else "had a file of this node before and now"
        return self._failure(
            node,
            f"the cloud {said} says nothing of it: see in the console whether the node runs; if it does, open a ticket",
            kind=FailureKind.LEFT_OUT,
        )

    def failed_unnamed(self, missed: Sequence[str]) -> list[Failed]:
        """Return the failures that the reply speaks of and gives no row for, where nothing else explains them."""
        rows = self._reply.rows
        if not self._reply.failed or not rows or missed or any(row.state is not RowState.READY for row in rows):
            return []
        said = "the cloud says that a file failed and shows none that did: if it stays, open a ticket"
        return [self._failure(node, said, kind=FailureKind.EXPORT_FAILED) for node in self._without_rows() or [""]]

    def _without_rows(self) -> list[str]:
        """Return the names of listed nodes that should have a row."""
        question, asked = self._question, self._question.instance.node_ids
        return [
            node.name
            for node in question.listed
            if node.group in DDS.exports[question.kind].groups
            and (not asked or node.id in asked)
            and node.name not in self._names
            and node.id not in self._ids
        ]

    def _failure(self, node: str, reason: str, *, kind: FailureKind) -> Failed:
        request_id = self._reply.request_id
        request = f" with the request id {request_id}" if request_id else ""
        return Failed(log=self._question.kind, node=node, file_name="", reason=reason + request, kind=kind)
