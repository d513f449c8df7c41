"""When: a cycle of each instance at each of its ticks. It is handed what to run, and knows no cloud."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from ddslogd.pacing import due

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from datetime import datetime, timedelta
    from typing import Any

    from ddslogd.models import Instance
    from ddslogd.pacing import Clock

log = structlog.get_logger()

LONGEST_NAP_S = 60.0  # the wall clock may be set meanwhile: look at it at least that often


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """What is done beside the cycles, the first time at once.

    Attributes:
        name: As events begin.
        every: From the end of one time to the next.
    """

    name: str
    every: timedelta
    run: Callable[[], Coroutine[Any, Any, object]]


class Scheduler:
    """Runs cycles at their ticks: each instance in a task of its own, so that its cycles never overlap."""

    def __init__(
        self,
        *,
        cycle: Callable[[Instance, datetime], Coroutine[Any, Any, object]],
        clock: Clock,
        last_ticks: Mapping[str, datetime],
        fleet: Callable[[], Awaitable[Iterable[Instance]]],
        refresh: timedelta,
        sooner: Callable[[Instance, datetime], datetime | None],
        chores: Iterable[Chore] = (),
    ) -> None:
        """Prepare.

        Args:
            cycle: Runs one cycle of an instance, for a tick.
            clock: Says when a tick has come.
            last_ticks: By instance name: the last tick that had its cycle, so that a restart repeats and skips none.
            fleet: Says which instances there are now.
            refresh: How often it is asked, the first time at once.
            sooner: Says when an instance's next cycle is to begin in place of the schedule's next tick, after the tick
                of its last; None: at the schedule's.
            chores: What else is done.
        """
        self._cycle = cycle
        self._clock = clock
        self._last_ticks = dict(last_ticks)
        self._sooner = sooner
        self._chores = [Chore(name="discovery", every=refresh, run=self._follow), *chores]
        self._fleet = fleet
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def serve(self, instances: Iterable[Instance]) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self.update(instances)
            for chore in self._chores:
                self._group.create_task(self._repeat(chore), name=chore.name)

    def update(self, instances: Iterable[Instance]) -> None:
        """Take another fleet: new instances begin, others end, and those that stay the same are not disturbed."""
        wanted = dict.fromkeys(instances)
        ending: dict[str, asyncio.Task[None]] = {}
        for instance in [one for one in self._tasks if one not in wanted]:
            ending[instance.name] = self._tasks.pop(instance)
            ending[instance.name].cancel()
        for instance in wanted:
            if instance not in self._tasks and self._group is not None:
                ticks = self._ticks(instance, after=ending.get(instance.name))
                self._tasks[instance] = self._group.create_task(ticks, name=f"ticks of {instance.name}")

    async def _repeat(self, chore: Chore) -> None:
        while True:
            await self._guarded(chore.run(), f"{chore.name}.bug")
            await self._clock.sleep(chore.every.total_seconds())

    async def _follow(self) -> None:
        self.update(await self._fleet())

    async def _guarded(self, work: Coroutine[Any, Any, object], event: str, **fields: str) -> None:
        try:
            await work
        except Exception:  # the one broad except: a bug in one piece of work must not end the others, nor the next one
            log.exception(event, **fields)

    async def _ticks(self, instance: Instance, *, after: asyncio.Task[None] | None) -> None:
        if after is not None:  # the same instance as it was before: its cycle has to be over
            await asyncio.wait([after])
        while True:
            tick = await self._next(instance, self._last_ticks.get(instance.name))
            self._last_ticks[instance.name] = tick
            await self._guarded(self._cycle(instance, tick), "cycle.bug", instance=instance.name)

    async def _next(self, instance: Instance, last: datetime | None) -> datetime:
        """Return once the next tick has come, with that tick."""
        while True:
            now = self._clock.now()
            tick = due(instance.schedule, last=last, now=now, key=instance.id)
            sooner = self._sooner(instance, last) if last is not None and last <= now else None
            if sooner is not None:
                tick = max(now, sooner)
            if last is not None and tick < last:
                last = now  # the wall clock went far back: from here on the grid is followed by the new time
            left = (tick - now).total_seconds()
            if left <= 0:
                return tick
            await self._clock.sleep(min(left, LONGEST_NAP_S))
