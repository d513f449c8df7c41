"""Who runs the cycles of an instance: the port, and the engine of a collector that is alone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

from ddslogd.model.cluster import Epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ddslogd.model.cluster import Member, OwnershipChange
    from ddslogd.model.instance import Instance


class Engine(Protocol):
    """Decides which instances of the fleet this collector owns: it runs their cycles, and nobody else does."""

    def follow(self, fleet: Iterable[Instance]) -> None:
        """Take the instances that there are now; those that are not among them are owned no more."""

    def owned(self) -> frozenset[str]:
        """Return the ids of the instances whose cycles begin here."""

    def listen(self, listener: Callable[[OwnershipChange], None]) -> None:
        """Call the listener whenever ``owned`` changes, but for what ``follow`` changes before it returns.

        It may be called late, but never left out: what was not owned for a moment is lost, and gained again.
        """

    def fence(self, instance: Instance) -> AbstractContextManager[Epoch]:
        """Enclose a cycle that begins now, which names the epoch in its commit; meanwhile it is handed to nobody."""

    async def commit(self, instance: Instance, epoch: Epoch, *, run: datetime) -> None:
        """Record that the cycle of a run is over, for whoever owns the instance next."""

    def members(self) -> tuple[Member, ...]:
        """Return the collectors that share the fleet, as far as is known; none where this one is alone."""

    async def stop(self) -> None:
        """Own nothing any more, and let others have it. No cycle is running."""


class LocalEngine:
    """Owns all instances: there is no other collector. What it would commit is in the ledger."""

    def __init__(self) -> None:
        self._ids: frozenset[str] = frozenset()

    def follow(self, fleet: Iterable[Instance]) -> None:
        """Own these."""
        self._ids = frozenset(instance.id for instance in fleet)

    def owned(self) -> frozenset[str]:
        """Return the ids of all."""
        return self._ids

    def listen(self, listener: Callable[[OwnershipChange], None]) -> None:
        """Do nothing: only ``follow`` changes anything."""

    def fence(self, instance: Instance) -> AbstractContextManager[Epoch]:  # noqa: ARG002  # the same for all
        """Enclose a cycle, in the one epoch that there is."""
        return nullcontext(Epoch(number=0))

    async def commit(self, instance: Instance, epoch: Epoch, *, run: datetime) -> None:
        """Do nothing: the next owner is this collector, whose ledger has the run."""

    def members(self) -> tuple[Member, ...]:
        """Return none."""
        return ()

    async def stop(self) -> None:
        """Do nothing: nobody waits for it."""
