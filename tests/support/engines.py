"""An engine that owns what a test says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ddslogd.model.cluster import Epoch, OwnershipChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from ddslogd.model.cluster import Member
    from ddslogd.model.instance import Instance


class DealtEngine:
    """Owns what it is dealt, in an epoch that is raised by each gain, and writes down what is committed."""

    def __init__(self, *dealt: Instance) -> None:
        self._dealt = {instance.id for instance in dealt}
        self._withdrawn: set[str] = set()
        self._fleet: frozenset[str] = frozenset()
        self._listener: Callable[[OwnershipChange], None] = lambda _: None
        self.epoch = Epoch(number=1)
        self.committed: list[tuple[str, Epoch, datetime]] = []

    def follow(self, fleet: Iterable[Instance]) -> None:
        self._fleet = frozenset(instance.id for instance in fleet)

    def owned(self) -> frozenset[str]:
        return (self._fleet & self._dealt) - self._withdrawn

    def listen(self, listener: Callable[[OwnershipChange], None]) -> None:
        self._listener = listener

    @contextmanager
    def fence(self, instance: Instance) -> Iterator[Epoch]:
        assert instance.id in self._dealt
        yield self.epoch

    async def commit(self, instance: Instance, epoch: Epoch, *, run: datetime) -> None:
        self.committed.append((instance.name, epoch, run))

    def members(self) -> tuple[Member, ...]:
        return ()

    async def stop(self) -> None:
        pass

    def withdraw(self, instance: Instance) -> None:
        """Take an instance away, and say so later: by ``lose``."""
        self._withdrawn.add(instance.id)

    def gain(self, instance: Instance, *, last_run: datetime | None = None) -> None:
        self._dealt.add(instance.id)
        self._withdrawn.discard(instance.id)
        self.epoch = Epoch(number=self.epoch.number + 1)
        self._listener(OwnershipChange(gained={instance.id: last_run}))

    def lose(self, instance: Instance) -> None:
        self._dealt.remove(instance.id)
        self._listener(OwnershipChange(lost=frozenset({instance.id})))
