"""Which nodes each instance has, as the cloud lists them, and which of them an export leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud.response_limits import MOST_NODES
from ddslogd.huaweicloud.services.dds import DDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ddslogd.model.export import Row
    from ddslogd.model.instance import Instance, LogKind, Node

log = structlog.get_logger()

PATIENCE = 3  # exports in a row that may leave a node out (it is stopped, new, or moved) until that is worth a warning


class NodeRegistry:
    """The nodes of all instances; an instance that was never listed has none, and nothing is said of it."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Node, ...]] = {}  # by instance name
        self._left_out: dict[tuple[str, LogKind, str], int] = {}  # exports in a row
        self._current: set[str] = set()  # instances whose nodes the last list told
        self._seen: dict[str, set[str]] = {}  # by instance: whose files came since the last list

    def enter(self, instance: str, nodes: Sequence[Node]) -> None:
        """Learn the nodes of an instance."""
        self._nodes[instance] = tuple(nodes)
        self._current.add(instance)
        self._seen.pop(instance, None)

    def recall(self, instance: str, nodes: Sequence[Node]) -> None:
        """Take up the nodes that an earlier process knew of; which an instance has now is for a list to say."""
        self._nodes.setdefault(instance, tuple(nodes))

    def outdate(self, instances: Iterable[str]) -> None:
        """Record that no list had these instances this time: it says no more which nodes they have now."""
        self._current.difference_update(instances)

    def listed(self, instance: str) -> tuple[Node, ...]:
        """Return the nodes of an instance by the last list; none where that is not to be believed any more."""
        return self.nodes(instance) if instance in self._current else ()

    def is_newer_than_list(self, instance: str, node: str) -> bool:
        """Return whether a node had a file since the last list: then it may be younger than that."""
        return node in self._seen.get(instance, ())

    def nodes(self, instance: str) -> tuple[Node, ...]:
        """Return the nodes of an instance; none where they are not known."""
        return self._nodes.get(instance, ())

    def limited(self, instance: Instance, kind: LogKind) -> Instance | None:
        """Return the instance without the nodes that have no such log; None where none is left.

        The cloud refuses a call that names one of them.
        """
        if not instance.node_ids:
            return instance
        without = {node.id for node in self.nodes(instance.name) if node.group not in DDS.exports[kind].groups}
        left = tuple(node_id for node_id in instance.node_ids if node_id not in without)
        return replace(instance, node_ids=left) if left else None

    def heard(
        self, instance: Instance, kind: LogKind, rows: Sequence[Row], *, named: Collection[str] = frozenset()
    ) -> None:
        """Record which nodes an export spoke of; warn once of one that never had a file and that it keeps leaving out.

        Args:
            instance: Whose export.
            kind: Of which of its logs.
            rows: Of its last reply.
            named: Nodes, by id or name, that it leaves out and that are named elsewhere, since they had a file before.
        """
        seen = self._seen.setdefault(instance.name, set())
        if len(seen) > MOST_NODES:  # no list has come for long, and who invents names goes on with it
            seen.clear()
        seen.update(row.node for row in rows)
        spoken = _Spoken(rows)
        for node in self.nodes(instance.name):
            if node.group not in DDS.exports[kind].groups or (instance.node_ids and node.id not in instance.node_ids):
                continue
            key = (instance.name, kind, node.id)
            if spoken.of(node) or node.id in named or node.name in named:
                self._left_out.pop(key, None)
                continue
            self._left_out[key] = self._left_out.get(key, 0) + 1
            if self._left_out[key] == PATIENCE:
                log.warning(
                    "node.left_out",
                    instance=instance.name,
                    node=node.name,
                    node_id=node.id,
                    log=kind.value,
                    exports=PATIENCE,
                    todo="see in the console whether the node runs; if it does, open a ticket",
                )


class _Spoken:
    """The nodes that rows are of: a thousand rows and as many nodes are a million pairs."""

    def __init__(self, rows: Iterable[Row]) -> None:
        unknown = [row for row in rows if not row.node_id]
        self._ids = {row.node_id for row in rows} - {""}
        self._names = {row.called or row.node for row in unknown}
        self._in_files = {DDS.node_id_in(row.file_name) for row in unknown}

    def of(self, node: Node) -> bool:
        """Return what ``Row.is_of`` says of any of them."""
        return node.id in self._ids or node.name in self._names or node.id in self._in_files
