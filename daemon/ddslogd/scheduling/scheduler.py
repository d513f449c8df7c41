"""When: a cycle of each instance at each of its runs. It is handed what to run, and knows no cloud."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import structlog

from ddslogd.scheduling.clock import EPOCH
from ddslogd.scheduling.triggers import due

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from typing import Any

    from ddslogd.model.cluster import OwnershipChange
    from ddslogd.model.instance import Instance
    from ddslogd.scheduling.clock import Clock
    from ddslogd.scheduling.engine import Engine

log = structlog.get_logger()

LONGEST_NAP_S = 60.0  # the wall clock may be set meanwhile: look at it at least that often
SET_BACK = timedelta(seconds=1)  # less is the steady clock's own error, or time service at work
MOST_CYCLES = 2000  # of a cloud at a time: what is due beyond waits in order, and takes no memory and no cycle_timeout
BEGUN_TOGETHER = 50  # cycles, until the loop turns: what else is ready waits for no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """What is done next to the cycles, the first time at once.

    Attributes:
        name: As events begin.
        every: From the end of one time to the next.
    """

    name: str
    every: timedelta
    run: Callable[[], Coroutine[Any, Any, object]]


class Scheduler:
    """Runs the cycles of owned instances at their runs; those of an instance never overlap.

    One task waits for the next run of all, so that an instance whose turn has not come costs an entry in a list.
    """

    def __init__(  # noqa: PLR0913  # all that it is handed, so that it knows nobody
        self,
        *,
        cycle: Callable[[Instance, datetime], Coroutine[Any, Any, object]],
        clock: Clock,
        last_ticks: Mapping[str, datetime],
        fleet: Callable[[], Awaitable[Iterable[Instance]]],
        engine: Engine,
        refresh: timedelta,
        instead: Callable[[Instance, datetime], datetime | None],
        chores: Iterable[Chore] = (),
        most_cycles: int = MOST_CYCLES,
        beat: Callable[[], None] = lambda: None,
        beat_every: timedelta | None = None,
    ) -> None:
        """Prepare.

        Args:
            cycle: Runs one cycle of an instance, for a run.
            clock: Says when a run has come.
            last_ticks: By instance name: the last run that had its cycle, so that a restart repeats and skips none.
            fleet: Says which instances there are now.
            engine: Says which of them are owned.
            refresh: How often the fleet is asked for, the first time at once.
            instead: Says when an instance's next cycle is to begin in place of the schedule's next run, after the run
                of its last; None: at the schedule's.
            chores: What else is done.
            most_cycles: So many of a cloud at a time.
            beat: Called whenever the task that waits for runs turns, and by nobody else.
            beat_every: So often at least; None: it is not called but for runs.
        """
        self._cycle = cycle
        self._clock = clock
        self._last_ticks = dict(last_ticks)
        self._instead = instead
        discovery = Chore(name="discovery", every=refresh, run=self._follow)
        self._chores = {chore.name: chore for chore in (discovery, *chores)}
        self._at_chores: dict[str, asyncio.Task[None]] = {}  # by name
        self._ask_fleet = fleet
        self._most_cycles = most_cycles
        self._engine = engine
        self._fleet: dict[str, Instance] = {}  # by name, as the next three
        self._owned: dict[str, Instance] = {}  # those of them whose cycles begin here
        self._known_since: dict[str, datetime] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._agenda: list[tuple[datetime, int, Instance]] = []  # a heap: when to look at an instance
        self._number = count()
        self._at_work: Counter[str] = Counter()  # cycles by cloud
        self._held: dict[str, deque[Instance]] = {}  # due, by cloud, that has enough cycles
        self._nap: asyncio.Task[None] | None = None
        self._nap_ends = self._clock.now()
        self._beat = beat
        self._longest_nap_s = min(LONGEST_NAP_S, beat_every.total_seconds()) if beat_every else LONGEST_NAP_S
        self._beats = beat_every is not None
        self._group: asyncio.TaskGroup | None = None

    async def serve(self, instances: Iterable[Instance]) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._engine.listen(self._follow_ownership)
            self.update(instances)
            self._group.create_task(self._keep_time(self._group), name="ticks")
            for chore in self._chores.values():
                self._at_chores[chore.name] = self._group.create_task(self._repeat(chore), name=chore.name)

    def update(self, instances: Iterable[Instance]) -> None:
        """Take another fleet: new instances begin, others end, and those that stay the same are not disturbed."""
        wanted = {instance.name: instance for instance in instances}
        for name in [name for name, instance in self._fleet.items() if wanted.get(name) != instance]:
            self._owned.pop(name, None)
            if name not in wanted:
                del self._known_since[name]
            if name in self._running:
                self._running[name].cancel()
        for name in wanted:
            self._known_since.setdefault(name, self._clock.now())
        self._fleet = wanted
        self._engine.follow(wanted.values())
        self._schedule_owned()

    def _follow_ownership(self, change: OwnershipChange) -> None:
        """Run what is owned now from the last run on that its owner before committed."""
        for instance in self._fleet.values():
            run, last = change.gained.get(instance.id), self._last_ticks.get(instance.name)
            if run is not None and (last is None or last < run):
                self._last_ticks[instance.name] = run
        self._schedule_owned()

    def _schedule_owned(self) -> None:
        """Begin with what is owned, and begin no more of what is not: its cycle that is running ends by itself."""
        owned = self._engine.owned()
        for name in [name for name, instance in self._owned.items() if instance.id not in owned]:
            del self._owned[name]
        for name, instance in self._fleet.items():
            if name not in self._owned and instance.id in owned:
                self._owned[name] = instance
                self._enter(instance)

    def again(self, name: str, *, every: timedelta) -> None:
        """Do a chore now, in place of where it is, and from then on so often."""
        chore = self._chores[name] = replace(self._chores[name], every=every)
        if self._group is not None and name in self._at_chores:
            self._at_chores[name].cancel()
            self._at_chores[name] = self._group.create_task(self._repeat(chore), name=name)

    def next_ticks(self) -> dict[str, datetime]:
        """Return when each instance is looked at next, by its name; not of those whose cycle is running."""
        ticks: dict[str, datetime] = {}
        for at, _, instance in self._agenda:
            if self._owned.get(instance.name) is instance and instance.name not in self._running:
                ticks[instance.name] = min(at, ticks.get(instance.name, at))
        now = self._clock.now()
        return ticks | {one.name: now for held in self._held.values() for one in held if one.name not in ticks}

    def known_since(self) -> dict[str, datetime]:
        """Return when each instance of the fleet was heard of, by its name."""
        return dict(self._known_since)

    async def _repeat(self, chore: Chore) -> None:
        while True:
            await self._guarded(chore.run, f"{chore.name}.bug")
            await self._clock.sleep(chore.every.total_seconds())

    async def _follow(self) -> None:
        self.update(await self._ask_fleet())

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, object]], event: str, **fields: str) -> None:
        """Do a piece of work, and log the bug that ends it.

        A task that is cancelled before its first step makes no coroutine of the work, and so leaves none un-awaited.
        """
        try:
            await work()
        except Exception:  # the one broad except: a bug in one piece of work must not end the others, nor the next one
            log.exception(event, **fields)

    async def _keep_time(self, group: asyncio.TaskGroup) -> None:
        ahead = self._ahead()
        while True:
            if self._ahead() < ahead - SET_BACK:  # what was reckoned by the old time lies too far off
                self._agenda.clear()
                self._held.clear()
                for instance in self._owned.values():
                    self._enter(instance)
            ahead = self._ahead()
            await self._begin(group)
            self._beat()
            self._nap = group.create_task(self._napping(), name="nap")
            await asyncio.wait([self._nap])

    async def _napping(self) -> None:
        """Wait for the next run; ``_enter`` cancels this where one comes that is sooner."""
        if not self._agenda and not self._beats:
            self._nap_ends = datetime.max.replace(tzinfo=UTC)
            await asyncio.Event().wait()
            return
        now = self._clock.now()
        until_tick_s = (self._agenda[0][0] - now).total_seconds() if self._agenda else self._longest_nap_s
        nap_s = min(until_tick_s, self._longest_nap_s)
        self._nap_ends = now + timedelta(seconds=nap_s)
        await self._clock.sleep(nap_s)

    def _ahead(self) -> timedelta:
        """Return the wall clock's time by the steady one's: it changes where the wall clock is set."""
        return self._clock.now() - EPOCH - timedelta(seconds=self._clock.monotonic())

    def _enter(self, instance: Instance) -> None:
        """Put an instance on the agenda for its next run; the nap ends where it would be too long."""
        at = self._next(instance)
        heappush(self._agenda, (at, next(self._number), instance))
        if at < self._nap_ends and self._nap is not None:
            self._nap.cancel()

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begin the cycles that are due."""
        begun = 0
        while self._agenda and self._agenda[0][0] <= self._clock.now():
            *_, instance = heappop(self._agenda)
            gone = self._owned.get(instance.name) != instance or instance.id not in self._engine.owned()
            if gone or instance.name in self._running:
                self._let_in(instance.cloud)  # in its place, where it had been let in
                continue  # it will be entered when it is there again, or when it ends
            tick = self._next(instance)
            if tick > self._clock.now():
                self._enter(instance)
                self._let_in(instance.cloud)
            elif self._at_work[instance.cloud] >= self._most_cycles:
                self._held.setdefault(instance.cloud, deque()).append(instance)
            else:
                self._start(instance, tick, group)
                begun += 1
                if begun % BEGUN_TOGETHER == 0:
                    await asyncio.sleep(0)

    def _start(self, instance: Instance, tick: datetime, group: asyncio.TaskGroup) -> None:
        self._last_ticks[instance.name] = tick
        self._at_work[instance.cloud] += 1
        work = self._guarded(partial(self._cycle, instance, tick), "cycle.bug", instance=instance.name)
        task = self._running[instance.name] = group.create_task(work, name=f"cycle of {instance.name}")
        task.add_done_callback(partial(self._ended, instance))

    def _ended(self, instance: Instance, _: asyncio.Task[None]) -> None:
        del self._running[instance.name]
        self._at_work[instance.cloud] -= 1
        self._let_in(instance.cloud)
        again = self._owned.get(instance.name)
        if again is not None:  # behind who waited: it may be due again
            self._enter(again)

    def _let_in(self, cloud: str) -> None:
        """Enter who has waited longest for a place among a cloud's cycles, if there is one."""
        held = self._held.get(cloud, deque())
        while held and self._at_work[cloud] < self._most_cycles:
            longest = held.popleft()
            if self._owned.get(longest.name) == longest and longest.name not in self._running:
                self._enter(longest)
                return

    def _next(self, instance: Instance) -> datetime:
        """Return the next run, or the time where that is over."""
        now, last = self._clock.now(), self._last_ticks.get(instance.name)
        tick = due(instance.schedule, last=last, now=now, key=instance.id)
        moved = self._instead(instance, last) if last is not None and last <= now else None
        if moved is not None:
            tick = max(now, moved)
        if last is not None and tick < last:
            self._last_ticks[instance.name] = now  # the wall clock went far back: the grid is followed by the new time
        return tick
