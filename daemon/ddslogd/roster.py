"""Which nodes each instance has, as the cloud lists them, and which of them an export leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from ddslogd.cloud.wire import LOG_EXPORTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddslogd.models import Instance, LogKind, Node, Row

log = structlog.get_logger()

PATIENCE = 3  # exports in a row that may leave a node out (it is stopped, new, or moved) until that is worth a warning


class Roster:
    """The nodes of all instances; an instance that was never listed has none, and nothing is said of it."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Node, ...]] = {}  # by instance name
        self._left_out: dict[tuple[str, LogKind, str], int] = {}  # exports in a row

    def enter(self, instance: str, nodes: Sequence[Node]) -> None:
        """Learn the nodes of an instance."""
        self._nodes[instance] = tuple(nodes)

    def nodes(self, instance: str) -> tuple[Node, ...]:
        """Give the nodes of an instance; none where they are not known."""
        return self._nodes.get(instance, ())

    def limited(self, instance: Instance, kind: LogKind) -> Instance | None:
        """Give the instance without the nodes that have no such log; None where none is left.

        The cloud refuses a call that names one of them.
        """
        if not instance.node_ids:
            return instance
        without = {node.id for node in self.nodes(instance.name) if node.group not in LOG_EXPORTS[kind].groups}
        left = tuple(node_id for node_id in instance.node_ids if node_id not in without)
        return replace(instance, node_ids=left) if left else None

    def heard(self, instance: Instance, kind: LogKind, rows: Sequence[Row]) -> None:
        """Note which nodes an export spoke of; warn once of one that it keeps leaving out."""
        for node in self.nodes(instance.name):
            if node.group not in LOG_EXPORTS[kind].groups or (instance.node_ids and node.id not in instance.node_ids):
                continue
            key = (instance.name, kind, node.id)
            # A row has no node id; newer file names hold it.
            if any(row.node == node.name or node.id in row.file_name for row in rows):
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
