"""What the cloud has: the instances that are there now, and the logs of every node that ever was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.sandbox.dds.exports import NodeExports
from ddslogd.sandbox.dds.log_kinds import KINDS, Kind, LogKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.dds.exports import CloudRules
    from ddslogd.sandbox.dds.topology import Fleet, SandboxInstance, SandboxNode
    from ddslogd.sandbox.obs.object_store import ObjectStore


class Estate:
    """Holds instances; they come and go while it runs.

    Args:
        fleet: The first of them.
        rules: How the cloud behaves.
        store: Where exports go.
        clock: The cloud's.
    """

    def __init__(
        self, fleet: Sequence[SandboxInstance], *, rules: CloudRules, store: ObjectStore, clock: CloudClock
    ) -> None:
        self._present: dict[str, SandboxInstance] = {}  # what was added last comes last
        self._logs: dict[tuple[LogKind, str], NodeExports] = {}
        self._rules = rules
        self._store = store
        self._clock = clock
        for instance in reversed(fleet):
            self.add(instance)

    @property
    def fleet(self) -> Fleet:
        """Return what is there, what was added last first."""
        return tuple(reversed(self._present.values()))

    def add(self, instance: SandboxInstance) -> None:
        """Put an instance there; one with the same id is changed into it and keeps its place and its logs."""
        self._present[instance.id] = instance
        for group in instance.groups:
            for kind in KINDS.values():
                if group.type in kind.groups:
                    self._open(group.nodes, kind, instance=instance)

    def remove(self, name_or_id: str) -> None:
        """Take an instance away, or all of a name; the logs of its nodes stay.

        Raises:
            KeyError: There is none.
        """
        gone = [one.id for one in self._present.values() if name_or_id in {one.name, one.id}]
        if not gone:
            raise KeyError(name_or_id)
        for instance_id in gone:
            del self._present[instance_id]

    def find(self, instance_id: str) -> SandboxInstance | None:
        """Return an instance that is there now; None where it is not."""
        return self._present.get(instance_id)

    def listed(self) -> list[SandboxInstance]:
        """Return what is there, newest first; of those created in the same second what was added last."""
        return sorted(self.fleet, key=lambda one: one.created, reverse=True)

    def exports(self, instance: SandboxInstance, kind: LogKind) -> list[NodeExports]:
        """Return the exports of those nodes that have a log of the kind, in the order DDS lists them."""
        return [self._logs[kind, node.id] for node in instance.nodes if (kind, node.id) in self._logs]

    def node(self, name_or_id: str, kind: LogKind) -> NodeExports:
        """Return a node's log of a kind, as of now, wherever its instance is.

        Raises:
            KeyError: No such node, or it has no log of the kind.
        """
        for (held, node_id), log in self._logs.items():
            if held == kind and name_or_id in {node_id, log.node.name}:
                log.advance()
                return log
        raise KeyError(f"{name_or_id} has no {kind} log")

    def settle(self) -> None:
        """Bring every export under way to its end, now."""
        for log in self._logs.values():
            log.settle(self._clock.now())

    def _open(self, nodes: Sequence[SandboxNode], kind: Kind, *, instance: SandboxInstance) -> None:
        """Begin the logs of nodes that never had one; those that had go on."""
        for node in nodes:
            held = self._logs.get((kind.name, node.id))
            if held is None:
                held = NodeExports(
                    node,
                    kind,
                    instance_id=instance.id,
                    json=instance.writes_json,
                    rules=self._rules,
                    store=self._store,
                    clock=self._clock,
                )
                self._logs[kind.name, node.id] = held
            held.node = node
