"""A cycle of each instance at each of its runs, by the event loop's made-up time: hours pass in no time."""

from __future__ import annotations

import asyncio
import gc
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from ddslogd.model.instance import Cron, Every, Instance
from ddslogd.scheduling.clock import SystemClock
from ddslogd.scheduling.engine import LocalEngine
from ddslogd.scheduling.scheduler import LONGEST_NAP_S, MOST_CYCLES, Chore, Scheduler
from ddslogd.scheduling.triggers import next_tick
from support.clocks import START, LoopClock
from support.engines import DealtEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ddslogd.scheduling.engine import Engine

pytestmark = pytest.mark.looptime

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EVERY = 20 * MINUTE
NEVER = 1000 * DAY  # no refresh but the first one


def named(name: str, *, schedule: Every | Cron | None = None) -> Instance:
    return Instance(id=f"id of {name}", name=name, cloud="eu", schedule=schedule or Every(interval=EVERY))


ORDERS, EVENTS = named("orders"), named("events")
FIRST = next_tick(ORDERS.schedule, after=START, key=ORDERS.id)


@dataclass
class Desk:
    """Runs a scheduler and writes down which cycles it began and ended, and when."""

    clock: LoopClock = field(default_factory=LoopClock)
    begun: list[tuple[str, datetime]] = field(default_factory=list)
    ended: list[tuple[str, datetime]] = field(default_factory=list)
    ticks: dict[str, datetime] = field(default_factory=dict)
    took: dict[str, list[timedelta]] = field(default_factory=dict)
    bugs: dict[str, list[Exception]] = field(default_factory=dict)
    fleets: list[Callable[[], tuple[Instance, ...]]] = field(default_factory=list)
    refreshed: list[datetime] = field(default_factory=list)
    sooner: dict[str, timedelta] = field(default_factory=dict)
    chores: list[Chore] = field(default_factory=list)
    most_cycles: int = MOST_CYCLES
    beats: list[datetime] = field(default_factory=list)
    beat_every: timedelta | None = None
    engine: Engine = field(default_factory=LocalEngine)

    async def cycle(self, instance: Instance, tick: datetime) -> None:
        self.begun.append((instance.name, self.clock.now()))
        self.ticks[instance.name] = tick
        if took := self.took.get(instance.name):
            await self.clock.sleep(took.pop(0).total_seconds())
        if bugs := self.bugs.get(instance.name):
            raise bugs.pop(0)
        self.ended.append((instance.name, self.clock.now()))

    def scheduler(
        self, *instances: Instance, last_ticks: dict[str, datetime] | None = None, refresh: timedelta = NEVER
    ) -> Scheduler:
        async def fleet() -> tuple[Instance, ...]:
            self.refreshed.append(self.clock.now())
            return self.fleets.pop(0)() if self.fleets else instances

        def instead(instance: Instance, last: datetime) -> datetime | None:
            return last + self.sooner[instance.name] if instance.name in self.sooner else None

        return Scheduler(
            cycle=self.cycle,
            clock=self.clock,
            last_ticks=last_ticks or {},
            fleet=fleet,
            engine=self.engine,
            refresh=refresh,
            instead=instead,
            chores=self.chores,
            most_cycles=self.most_cycles,
            beat=lambda: self.beats.append(self.clock.now()),
            beat_every=self.beat_every,
        )

    async def serve(
        self, *instances: Instance, lasts: timedelta, last_ticks: dict[str, datetime] | None = None
    ) -> None:
        scheduler = self.scheduler(*instances, last_ticks=last_ticks)
        with suppress(TimeoutError):
            async with asyncio.timeout(lasts.total_seconds()):
                await scheduler.serve(instances)

    def began(self, instance: Instance = ORDERS) -> list[datetime]:
        return [moment for name, moment in self.begun if name == instance.name]


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_what_never_ran_runs_at_once_and_then_at_the_ticks_of_the_grid(desk: Desk) -> None:
    await desk.serve(ORDERS, lasts=HOUR)

    assert desk.began() == [START, FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def test_a_cycle_hears_the_tick_it_is_for(desk: Desk) -> None:
    await desk.serve(ORDERS, lasts=FIRST - START + MINUTE)

    assert desk.ticks == {"orders": FIRST}


async def test_each_instance_has_its_own_ticks(desk: Desk) -> None:
    often = named("often", schedule=Every(interval=5 * MINUTE))
    ticks = {one.name: START for one in (ORDERS, EVENTS, often)}

    await desk.serve(ORDERS, EVENTS, often, lasts=HOUR, last_ticks=ticks)

    assert (len(desk.began()), len(desk.began(EVENTS)), len(desk.began(often))) == (3, 3, 12)
    assert not {*desk.began()} & {*desk.began(EVENTS)}


async def test_a_restart_neither_shifts_nor_doubles_nor_skips_a_tick(desk: Desk) -> None:
    """Whatever the moment of the restart, the runs of two runs are those of one."""
    for stopped_after in (MINUTE, 20 * MINUTE, 13 * MINUTE):
        await desk.serve(ORDERS, lasts=stopped_after, last_ticks={"orders": START, **desk.ticks})

    await desk.serve(ORDERS, lasts=HOUR, last_ticks=desk.ticks)

    assert desk.began() == [FIRST + number * EVERY for number in range(len(desk.began()))]
    assert len(desk.began()) >= 4


async def test_what_had_its_tick_before_the_start_waits_for_the_next(desk: Desk) -> None:
    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": FIRST - EVERY})

    assert desk.began() == [FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def test_what_was_missed_before_the_start_runs_once_and_at_once(desk: Desk) -> None:
    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": FIRST - 100 * EVERY})

    assert desk.began() == [START, FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def test_a_cycle_that_takes_long_is_never_overlapped(desk: Desk) -> None:
    desk.took["orders"] = [50 * MINUTE] * 3

    await desk.serve(ORDERS, lasts=3 * HOUR, last_ticks={"orders": START})

    assert all(end <= begin for (_, end), begin in zip(desk.ended, desk.began()[1:], strict=False))
    assert len(desk.began()) > 3


async def test_the_ticks_that_a_long_cycle_missed_run_once_and_at_once(desk: Desk) -> None:
    """And then the grid goes on as if nothing had been."""
    desk.took["orders"] = [50 * MINUTE]

    await desk.serve(ORDERS, lasts=2 * HOUR, last_ticks={"orders": START})

    late = FIRST + 50 * MINUTE
    assert desk.began()[:4] == [FIRST, late, FIRST + 3 * EVERY, FIRST + 4 * EVERY]


async def test_a_long_cycle_holds_up_nobody_else(desk: Desk) -> None:
    desk.took["orders"] = [10 * HOUR]

    await desk.serve(ORDERS, EVENTS, lasts=2 * HOUR, last_ticks={"events": START})

    assert (len(desk.began()), len(desk.began(EVENTS))) == (1, 6)


async def test_a_bug_in_a_cycle_is_logged_with_its_instance(desk: Desk) -> None:
    desk.bugs["orders"] = [ZeroDivisionError("a bug")]

    with capture_logs() as events:
        await desk.serve(ORDERS, EVENTS, lasts=10 * MINUTE)

    told = [(event["event"], event["instance"], event["log_level"]) for event in events]
    assert told == [("cycle.bug", "orders", "error")]


async def test_a_bug_in_a_cycle_ends_neither_the_others_nor_the_next_one(desk: Desk) -> None:
    desk.bugs["orders"] = [ZeroDivisionError("a bug"), ExceptionGroup("bugs", [LookupError("one")])]

    await desk.serve(ORDERS, EVENTS, lasts=HOUR, last_ticks={"orders": START, "events": START})

    assert (len(desk.began()), len(desk.began(EVENTS))) == (3, 3)


async def test_a_cycle_with_a_bug_is_not_repeated_before_its_next_tick(desk: Desk) -> None:
    """Else a bug would call the cloud without end."""
    desk.bugs["orders"] = [ZeroDivisionError("a bug")] * 100

    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": START})

    assert desk.began() == [FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def set_the_clock(desk: Desk, after: timedelta, by: timedelta) -> None:
    await asyncio.sleep(after.total_seconds())
    desk.clock.set_by += by


async def test_when_the_clock_is_put_forward_what_is_due_runs_within_a_minute_and_once(desk: Desk) -> None:
    setting = asyncio.create_task(set_the_clock(desk, after=MINUTE / 2, by=10 * DAY))

    await desk.serve(ORDERS, lasts=1.5 * MINUTE, last_ticks={"orders": START})
    await setting

    (began,) = desk.began()
    assert timedelta(0) <= began - (START + 10 * DAY) <= MINUTE / 2 + timedelta(seconds=LONGEST_NAP_S)


async def test_when_the_clock_is_put_forward_the_grid_goes_on_by_the_new_time(desk: Desk) -> None:
    setting = asyncio.create_task(set_the_clock(desk, after=MINUTE / 2, by=10 * DAY))

    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": START})
    await setting

    _, *later = desk.began()
    first = next_tick(ORDERS.schedule, after=START + 10 * DAY + 2 * MINUTE, key=ORDERS.id)
    assert later == [first, first + EVERY, first + 2 * EVERY]


async def test_when_the_clock_is_put_back_nobody_waits_for_the_old_time(desk: Desk) -> None:
    setting = asyncio.create_task(set_the_clock(desk, after=MINUTE / 2, by=-10 * DAY))

    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": START})
    await setting

    first = next_tick(ORDERS.schedule, after=START - 10 * DAY, key=ORDERS.id)
    assert desk.began() == [first, first + EVERY, first + 2 * EVERY]


async def test_when_the_clock_is_put_back_a_little_no_tick_runs_twice(desk: Desk) -> None:
    after = FIRST - START + timedelta(seconds=0.1)
    setting = asyncio.create_task(set_the_clock(desk, after=after, by=timedelta(seconds=-1)))

    await desk.serve(ORDERS, lasts=HOUR, last_ticks={"orders": START})
    await setting

    assert desk.began() == [FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def test_cron_ticks_by_its_time_zone_and_once_in_the_hour_that_is_not_there(desk: Desk) -> None:
    """On 29 March Berlin's clocks go from 2:00 to 3:00, at 1:00 UTC."""
    desk.clock.set_by = datetime(2026, 3, 29, 0, 0, tzinfo=UTC) - START
    nightly = named("orders", schedule=Cron(expression="30 2,4 * * *", timezone="Europe/Berlin"))

    await desk.serve(nightly, lasts=DAY, last_ticks={"orders": datetime(2026, 3, 28, 3, 30, tzinfo=UTC)})

    assert [f"{moment:%H:%M}" for moment in desk.began()] == ["01:00", "02:30"]


@asynccontextmanager
async def serving(desk: Desk, *instances: Instance) -> AsyncIterator[Scheduler]:
    """Serve while the test goes on."""
    scheduler = desk.scheduler(*instances, last_ticks={"orders": START})
    task = asyncio.create_task(scheduler.serve(instances))
    await asyncio.sleep(0)
    yield scheduler
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_who_comes_later_begins_and_who_leaves_ends(desk: Desk) -> None:
    async with serving(desk, ORDERS) as scheduler:
        await asyncio.sleep(HOUR.total_seconds())
        scheduler.update([ORDERS, EVENTS])
        await asyncio.sleep(HOUR.total_seconds())
        scheduler.update([ORDERS])
        await asyncio.sleep(HOUR.total_seconds())

    first = next_tick(EVENTS.schedule, after=START + HOUR, key=EVENTS.id)
    assert desk.began() == [FIRST + number * EVERY for number in range(9)]
    assert desk.began(EVENTS) == [START + HOUR, first, first + EVERY, first + 2 * EVERY]


async def test_the_cycle_of_who_stays_is_not_disturbed(desk: Desk) -> None:
    desk.took["orders"] = [10 * MINUTE]

    async with serving(desk, ORDERS) as scheduler:
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        scheduler.update([EVENTS, ORDERS])
        await asyncio.sleep(10 * MINUTE.total_seconds())

    assert (desk.began(), ("orders", FIRST + 10 * MINUTE) in desk.ended) == ([FIRST], True)


async def test_who_comes_back_goes_on_with_the_grid(desk: Desk) -> None:
    async with serving(desk, ORDERS) as scheduler:
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        scheduler.update([])
        scheduler.update([ORDERS])
        await asyncio.sleep(EVERY.total_seconds())

    assert desk.began() == [FIRST, FIRST + EVERY]


async def test_the_cycle_of_who_leaves_is_cancelled(desk: Desk) -> None:
    desk.took["orders"] = [HOUR]

    async with serving(desk, ORDERS) as scheduler:
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        scheduler.update([])
        await asyncio.sleep(DAY.total_seconds())

    assert (desk.began(), desk.ended) == ([FIRST], [])


async def test_a_fleet_may_be_empty_for_a_while(desk: Desk) -> None:
    async with serving(desk) as scheduler:
        await asyncio.sleep(HOUR.total_seconds())
        scheduler.update([EVENTS])
        await asyncio.sleep(1)

    assert desk.begun == [("events", START + HOUR)]


async def test_the_machines_clock_sleeps_as_long_as_it_is_asked_to() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    await SystemClock().sleep(90)

    assert loop.time() - began == pytest.approx(90)


async def test_stopping_cancels_what_runs_and_begins_nothing_more(desk: Desk) -> None:
    desk.took["orders"] = [HOUR]

    await desk.serve(ORDERS, EVENTS, lasts=MINUTE)
    await asyncio.sleep(DAY.total_seconds())

    assert ([name for name, _ in desk.begun], [name for name, _ in desk.ended]) == (["orders", "events"], ["events"])


async def changing(desk: Desk, *fleets: list[Instance], every: timedelta) -> None:
    """Serve the first fleet, and after each interval the next one."""
    scheduler = desk.scheduler(*fleets[0])
    serving = asyncio.create_task(scheduler.serve(fleets[0]))
    await asyncio.sleep(every.total_seconds())
    for fleet in fleets[1:]:
        scheduler.update(fleet)
        await asyncio.sleep(every.total_seconds())
    serving.cancel()
    await asyncio.wait([serving])


async def test_a_new_instance_begins_and_one_that_is_gone_ends() -> None:
    desk = Desk()

    await changing(desk, [ORDERS], [EVENTS], every=HOUR)

    first = {name for name, at in desk.begun if at < START + HOUR}
    later = {name for name, at in desk.begun if at > START + HOUR + MINUTE}
    assert (first, later) == ({"orders"}, {"events"})


async def test_a_fleet_that_is_empty_at_first_may_grow() -> None:
    desk = Desk()

    await changing(desk, [], [ORDERS], every=HOUR)

    assert {name for name, _ in desk.begun} == {"orders"}


async def test_an_instance_that_stays_the_same_is_not_disturbed() -> None:
    """Its cycle runs on while others come."""
    desk = Desk(took={"orders": [3 * HOUR]})

    await changing(desk, [ORDERS], [ORDERS, EVENTS], [ORDERS], [ORDERS], every=HOUR)

    assert desk.ended[0] != ("orders", START)
    assert ("orders", START + 3 * HOUR) in desk.ended


async def test_an_instance_with_another_schedule_follows_it_from_its_last_tick_on() -> None:
    """The run that it would have had by then is made up for, once."""
    desk = Desk()
    faster = named("orders", schedule=Every(interval=5 * MINUTE))

    await changing(desk, [ORDERS], [faster], every=HOUR)

    before = [at for _, at in desk.begun if at < START + HOUR]
    after = [at for _, at in desk.begun if at >= START + HOUR]
    assert (len(before), len(after)) == (4, 13)


async def test_an_instance_that_changes_waits_until_its_old_cycle_has_ended(desk: Desk) -> None:
    """Nothing of one instance runs twice at once, not even while it is being stopped."""
    running, most = 0, 0

    async def cycle(instance: Instance, tick: datetime) -> None:  # noqa: ARG001  # the same for all
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(HOUR.total_seconds())
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.sleep(1800))
            running -= 1

    desk.cycle = cycle  # type: ignore[method-assign]  # the same desk, but for this
    scheduler = desk.scheduler(ORDERS)
    serving = asyncio.create_task(scheduler.serve([ORDERS]))
    await asyncio.sleep(60)
    scheduler.update([named("orders", schedule=Every(interval=5 * MINUTE))])
    await asyncio.sleep(HOUR.total_seconds())
    serving.cancel()
    await asyncio.wait([serving])

    assert most == 1


async def test_the_fleet_is_asked_for_at_once_and_at_each_refresh(desk: Desk) -> None:
    desk.fleets = [lambda: (), lambda: (EVENTS,)]

    await refreshing(desk, lasts=50 * MINUTE)

    assert desk.refreshed == [START + number * 15 * MINUTE for number in range(4)]
    assert desk.began(EVENTS)[0] == START + 15 * MINUTE


async def test_a_bug_in_a_refresh_ends_neither_the_cycles_nor_the_next_refresh(desk: Desk) -> None:
    def bug() -> tuple[Instance, ...]:
        msg = "nobody foresaw it"
        raise KeyError(msg)

    desk.fleets = [bug, bug]

    with capture_logs() as events:
        await refreshing(desk, ORDERS, lasts=HOUR)

    told = [event["log_level"] for event in events if event["event"] == "discovery.bug"]
    assert (told, len(desk.refreshed), len(desk.began())) == (["error"] * 2, 4, 4)


async def refreshing(desk: Desk, *instances: Instance, lasts: timedelta) -> None:
    """Serve with a refresh every 15 minutes."""
    scheduler = desk.scheduler(*instances, refresh=15 * MINUTE)
    with suppress(TimeoutError):
        async with asyncio.timeout(lasts.total_seconds()):
            await scheduler.serve(instances)


async def test_a_tick_is_brought_forward_where_the_next_cycle_is_needed_sooner(desk: Desk) -> None:
    desk.sooner["orders"] = sooner = timedelta(minutes=15)

    await desk.serve(ORDERS, lasts=HOUR)

    assert desk.began() == [START + times * sooner for times in range(4)]


async def test_after_a_cycle_that_took_too_long_the_next_begins_at_once_and_once(desk: Desk) -> None:
    desk.sooner["orders"] = timedelta(minutes=5)
    desk.took["orders"] = [timedelta(minutes=7)]

    await desk.serve(ORDERS, lasts=timedelta(minutes=9))

    assert desk.began() == [START, START + timedelta(minutes=7)]


async def test_chores_are_done_at_once_and_again_and_a_bug_in_one_ends_nothing(desk: Desk) -> None:
    done: list[datetime] = []

    async def run() -> None:
        done.append(desk.clock.now())
        raise ZeroDivisionError

    desk.chores.append(Chore(name="retention", every=timedelta(minutes=20), run=run))

    with capture_logs() as events:
        await desk.serve(ORDERS, lasts=HOUR - MINUTE)

    assert [event["event"] for event in events] == ["retention.bug"] * 3
    assert done == [START + timedelta(minutes=20) * times for times in range(3)]
    assert desk.began() == [START, FIRST, FIRST + EVERY, FIRST + 2 * EVERY]


async def test_so_many_cycles_of_a_cloud_run_at_a_time_and_the_others_follow_in_order(desk: Desk) -> None:
    """All are due at once; another cloud's do not wait for them."""
    fleet = [named(f"db-{number}") for number in range(7)]
    other = replace(named("other"), cloud="us")
    desk.most_cycles = 2
    desk.took = {one.name: [MINUTE] for one in fleet}

    await desk.serve(*fleet, other, lasts=3 * MINUTE + timedelta(seconds=30))

    begun = [(name, round((moment - START) / MINUTE)) for name, moment in desk.begun][:8]
    waited = [("db-2", 1), ("db-3", 1), ("db-4", 2), ("db-5", 2), ("db-6", 3)]
    assert begun == [("db-0", 0), ("db-1", 0), ("other", 0), *waited]


async def test_who_waited_for_a_place_is_let_in_after_the_clock_was_put_back(desk: Desk) -> None:
    """In their order, as soon as there is a place."""
    fleet = [named(f"db-{number}") for number in range(3)]
    desk.most_cycles, desk.took = 1, {"db-0": [10 * MINUTE], "db-1": [MINUTE], "db-2": [MINUTE]}
    async with asyncio.TaskGroup() as group:
        setting = group.create_task(set_the_clock(desk, after=5 * MINUTE, by=-DAY))
        await desk.serve(*fleet, lasts=15 * MINUTE)
        await setting

    begun = [(name, moment + DAY - START) for name, moment in desk.begun[1:3]]
    assert begun == [("db-1", 10 * MINUTE), ("db-2", 11 * MINUTE)]


async def test_who_waited_when_the_clock_was_put_back_is_not_let_in_twice(desk: Desk) -> None:
    """The second time it has nothing to do, and takes the place of one who has."""
    fleet = [named(f"db-{number}", schedule=Every(interval=31 * DAY)) for number in range(3)]
    late = named("late")
    desk.most_cycles, desk.took = 1, {"db-0": [10 * MINUTE], "db-1": [MINUTE], "db-2": [30 * MINUTE]}
    async with serving(desk, *fleet) as scheduler:
        await set_the_clock(desk, after=5 * MINUTE, by=-DAY)
        await asyncio.sleep(15 * 60)
        scheduler.update([*fleet, late])
        await asyncio.sleep(25 * 60)

    assert [moment - START + DAY for moment in desk.began(late)] == [41 * MINUTE]


async def test_one_that_waited_and_is_gone_keeps_nobody_else_waiting(desk: Desk) -> None:
    """Of three that wait, the first two leave the fleet."""
    fleet = [named(f"db-{number}") for number in range(4)]
    desk.most_cycles = 1
    desk.took = {one.name: [5 * MINUTE] for one in fleet}
    desk.fleets = [lambda: tuple(fleet), lambda: (fleet[0], fleet[3])]
    scheduler = desk.scheduler(fleet[0], fleet[3], refresh=MINUTE)

    with suppress(TimeoutError):
        async with asyncio.timeout(6 * 60):
            await scheduler.serve(fleet)

    assert [name for name, moment in desk.begun if moment <= START + 5 * MINUTE] == ["db-0", "db-3"]


async def test_who_waits_for_a_tick_has_no_task(desk: Desk) -> None:
    """A thousand instances, and a few tasks."""
    fleet = [named(f"db-{number}") for number in range(1000)]
    tasks: list[int] = []

    async def count() -> None:
        tasks.append(len(asyncio.all_tasks()))

    desk.chores = [Chore(name="count", every=MINUTE, run=count)]
    await desk.serve(*fleet, lasts=MINUTE / 2, last_ticks=dict.fromkeys([one.name for one in fleet], START))

    assert max(tasks) < 10


async def test_while_nobody_is_due_the_clock_is_looked_at_once_a_minute(desk: Desk) -> None:
    """Whatever the number of instances: each look costs a wake-up."""
    fleet = [named(f"db-{number}", schedule=Every(interval=31 * DAY)) for number in range(1000)]
    naps: list[float] = []

    class Counting(LoopClock):
        async def sleep(self, seconds: float) -> None:
            naps.append(seconds)
            await super().sleep(seconds)

    desk.clock = Counting()
    first = min(next_tick(one.schedule, after=START, key=one.id) for one in fleet)
    await desk.serve(*fleet, lasts=(first - START) / 2, last_ticks=dict.fromkeys([one.name for one in fleet], START))

    minutes = (first - START) / 2 / MINUTE
    assert len(naps) <= minutes + 3


def longest_silence(desk: Desk, lasts: timedelta) -> timedelta:
    moments = [START, *desk.beats, START + lasts]
    return max(later - earlier for earlier, later in pairwise(moments))


@pytest.mark.parametrize("fleet", [(), (ORDERS,), (ORDERS, EVENTS)])
async def test_the_task_that_waits_for_ticks_beats_in_time(desk: Desk, fleet: tuple[Instance, ...]) -> None:
    desk.beat_every = timedelta(seconds=15)

    await desk.serve(*fleet, lasts=HOUR)

    assert (longest_silence(desk, HOUR), len(desk.beats) < 260) == (timedelta(seconds=15), True)


async def test_nobody_else_beats_for_it(desk: Desk) -> None:
    """Cycles and chores go on, and the watchdog hears that nobody waits for runs any more."""
    desk.beat_every = timedelta(seconds=15)
    done: list[datetime] = []

    async def run() -> None:
        done.append(desk.clock.now())

    desk.chores = [Chore(name="prune", every=MINUTE, run=run)]
    serving = asyncio.create_task(desk.serve(ORDERS, lasts=HOUR))
    await asyncio.sleep(60)
    next(task for task in asyncio.all_tasks() if task.get_name() == "ticks").cancel()
    await serving

    assert (desk.beats[-1] <= START + MINUTE, len(done) > 50) == (True, True)


async def test_a_chore_is_done_again_at_once_and_then_as_often_as_is_said(desk: Desk) -> None:
    done: list[datetime] = []

    async def run() -> None:
        done.append(desk.clock.now())

    desk.chores = [Chore(name="prune", every=HOUR, run=run)]
    scheduler = desk.scheduler(ORDERS)
    serving = asyncio.create_task(scheduler.serve([ORDERS]))
    await asyncio.sleep(60)
    scheduler.again("prune", every=10 * MINUTE)
    await asyncio.sleep(65 * 60)
    serving.cancel()
    await asyncio.wait([serving])

    assert done == [START, *(START + MINUTE + times * 10 * MINUTE for times in range(7))]


def soonest(scheduler: Scheduler) -> tuple[str, datetime] | None:
    """Return whose cycle begins next, and when."""
    return min(scheduler.next_ticks().items(), key=lambda tick: tick[1], default=None)


async def test_the_next_tick_is_that_of_the_first_who_still_belongs(desk: Desk) -> None:
    scheduler = desk.scheduler(ORDERS, EVENTS, last_ticks={"orders": START, "events": START})
    serving = asyncio.create_task(scheduler.serve([ORDERS, EVENTS]))
    await asyncio.sleep(1)
    both = soonest(scheduler)
    ticks = {one.name: next_tick(one.schedule, after=START, key=one.id) for one in (ORDERS, EVENTS)}
    first = min(ticks, key=lambda name: ticks[name])
    scheduler.update([one for one in (ORDERS, EVENTS) if one.name != first])
    other = soonest(scheduler)
    scheduler.update([])
    nobody = soonest(scheduler)
    serving.cancel()
    await asyncio.wait([serving])

    assert (both, other, nobody) == (
        (first, ticks[first]),
        (max(ticks, key=lambda name: ticks[name]), max(ticks.values())),
        None,
    )


async def test_who_is_gone_in_the_moment_of_being_let_in_leaves_the_place_to_the_next(desk: Desk) -> None:
    desk.most_cycles, desk.took = 1, {"orders": [5 * MINUTE]}
    last = named("last")
    scheduler = desk.scheduler(ORDERS, EVENTS, last)
    serving = asyncio.create_task(scheduler.serve([ORDERS, EVENTS, last]))
    await desk.clock.sleep(60)
    (running,) = scheduler._running.values()
    running.add_done_callback(lambda _: scheduler.update([last]))
    await desk.clock.sleep(HOUR.total_seconds())
    serving.cancel()
    await asyncio.wait([serving])

    assert (desk.began(EVENTS), desk.began(last)[:1]) == ([], [START + 5 * MINUTE])


async def test_who_is_put_off_in_the_moment_of_being_let_in_leaves_the_place_to_the_next(desk: Desk) -> None:
    desk.most_cycles, desk.took = 1, {"orders": [5 * MINUTE]}
    last = named("last")
    scheduler = desk.scheduler(ORDERS, EVENTS, last, last_ticks={"events": START - HOUR})
    serving = asyncio.create_task(scheduler.serve([ORDERS, EVENTS, last]))
    await desk.clock.sleep(60)
    (running,) = scheduler._running.values()
    running.add_done_callback(lambda _: desk.sooner.update(events=DAY))
    await desk.clock.sleep(HOUR.total_seconds())
    serving.cancel()
    await asyncio.wait([serving])

    assert (desk.began(EVENTS), desk.began(last)[:1]) == ([], [START + 5 * MINUTE])


# --- who owns what ----------------------------------------------------------------------------------------------------


async def test_what_is_not_owned_has_no_cycle(desk: Desk) -> None:
    desk.engine = DealtEngine(EVENTS)

    await desk.serve(ORDERS, EVENTS, lasts=HOUR)

    assert {name for name, _ in desk.begun} == {"events"}


async def test_a_lost_instance_has_no_further_cycle(desk: Desk) -> None:
    desk.engine = engine = DealtEngine(ORDERS, EVENTS)

    async with serving(desk, ORDERS, EVENTS) as scheduler:
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        ticks = scheduler.next_ticks()
        await asyncio.sleep(DAY.total_seconds())

    assert (desk.began(), set(ticks)) == ([FIRST], {"events"})


async def test_the_running_cycle_of_a_lost_instance_ends_by_itself_and_is_the_last(desk: Desk) -> None:
    desk.engine = engine = DealtEngine(ORDERS)
    desk.took["orders"] = [HOUR]

    async with serving(desk, ORDERS):
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        await asyncio.sleep(DAY.total_seconds())

    assert (desk.begun, desk.ended) == ([("orders", FIRST)], [("orders", FIRST + HOUR)])


async def test_a_run_that_is_due_before_the_loss_is_heard_of_waits_until_the_instance_is_gained_again(
    desk: Desk,
) -> None:
    """After a pause both are due at once: the run, and the notice that the lease has ended."""
    desk.engine = engine = DealtEngine(ORDERS)

    async with serving(desk, ORDERS):
        engine.withdraw(ORDERS)
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        engine.gain(ORDERS, last_run=FIRST - EVERY)
        await asyncio.sleep(1)

    assert desk.began() == [FIRST + MINUTE]


async def test_a_lost_instance_that_waits_for_a_place_does_not_begin(desk: Desk) -> None:
    desk.engine = engine = DealtEngine(ORDERS, EVENTS)
    desk.most_cycles, desk.took = 1, {"orders": [2 * EVERY]}

    async with serving(desk, ORDERS, EVENTS):
        await asyncio.sleep((FIRST - START + EVERY).total_seconds())
        began = desk.began(EVENTS)
        engine.lose(EVENTS)
        await asyncio.sleep(DAY.total_seconds())

    assert desk.began(EVENTS) == began


async def test_a_gained_instance_runs_on_its_grid_from_the_last_run_of_who_had_it(desk: Desk) -> None:
    desk.engine = engine = DealtEngine()

    async with serving(desk, EVENTS):
        await asyncio.sleep(MINUTE.total_seconds())
        engine.gain(EVENTS, last_run=START)
        await asyncio.sleep(HOUR.total_seconds())

    first = next_tick(EVENTS.schedule, after=START + MINUTE, key=EVENTS.id)
    assert desk.began(EVENTS) == [first, first + EVERY, first + 2 * EVERY]


async def test_the_run_that_was_missed_before_an_instance_is_gained_is_made_up_for_once(desk: Desk) -> None:
    desk.engine = engine = DealtEngine()

    async with serving(desk, EVENTS):
        await asyncio.sleep(2 * HOUR.total_seconds())
        engine.gain(EVENTS, last_run=START)
        await asyncio.sleep((EVERY + MINUTE).total_seconds())

    first = next_tick(EVENTS.schedule, after=START + 2 * HOUR, key=EVENTS.id)
    assert desk.began(EVENTS)[:2] == [START + 2 * HOUR, first]


async def test_an_instance_that_comes_back_repeats_no_run_that_another_had(desk: Desk) -> None:
    """What counts is the last run of anybody, not the last one here."""
    desk.engine = engine = DealtEngine(ORDERS)

    async with serving(desk, ORDERS):
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        await asyncio.sleep(2 * EVERY.total_seconds())
        engine.gain(ORDERS, last_run=FIRST + 2 * EVERY)
        await asyncio.sleep(EVERY.total_seconds())

    assert desk.began() == [FIRST, FIRST + 3 * EVERY]


async def test_an_instance_that_comes_back_while_its_cycle_runs_has_no_second_one(desk: Desk) -> None:
    desk.engine = engine = DealtEngine(ORDERS)
    desk.took["orders"] = [10 * MINUTE]

    async with serving(desk, ORDERS):
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        engine.gain(ORDERS, last_run=FIRST - EVERY)
        await asyncio.sleep((EVERY).total_seconds())

    assert (desk.began(), desk.ended) == (
        [FIRST, FIRST + EVERY],
        [("orders", FIRST + 10 * MINUTE), ("orders", FIRST + EVERY)],
    )


async def test_a_lost_instance_that_leaves_the_fleet_has_its_cycle_cancelled(desk: Desk) -> None:
    desk.engine = engine = DealtEngine(ORDERS)
    desk.took["orders"] = [HOUR]

    async with serving(desk, ORDERS) as scheduler:
        await asyncio.sleep((FIRST - START + MINUTE).total_seconds())
        engine.lose(ORDERS)
        scheduler.update([])
        await asyncio.sleep(DAY.total_seconds())

    assert (desk.began(), desk.ended) == ([FIRST], [])


async def test_an_instance_that_nobody_ever_ran_begins_when_it_is_owned(desk: Desk) -> None:
    desk.engine = engine = DealtEngine()

    async with serving(desk, EVENTS) as scheduler:
        known = scheduler.known_since()
        await asyncio.sleep(HOUR.total_seconds())
        engine.gain(EVENTS)
        await asyncio.sleep(1)

    assert (known, desk.began(EVENTS)) == ({"events": START}, [START + HOUR])


# --- what may be looked at --------------------------------------------------------------------------------------------


async def test_the_next_tick_of_each_instance_is_known_but_of_those_that_run(desk: Desk) -> None:
    desk.took["events"] = [HOUR]
    scheduler = desk.scheduler(ORDERS, EVENTS)
    serving = asyncio.create_task(scheduler.serve([ORDERS, EVENTS]))
    await asyncio.sleep(1)
    seen = scheduler.next_ticks(), frozenset(scheduler._running)
    serving.cancel()
    await asyncio.wait([serving])

    assert seen == ({"orders": FIRST}, frozenset({"events"}))


async def test_who_waits_since_its_cloud_has_enough_cycles_is_due_now(desk: Desk) -> None:
    desk.most_cycles = 1
    desk.took["orders"] = [HOUR]
    scheduler = desk.scheduler(ORDERS, EVENTS)
    serving = asyncio.create_task(scheduler.serve([ORDERS, EVENTS]))
    await asyncio.sleep(1)
    seen = scheduler.next_ticks()
    serving.cancel()
    await asyncio.wait([serving])

    assert seen == {"events": START + timedelta(seconds=1)}


async def test_an_instance_is_known_since_it_came_and_not_since_its_schedule_changed(desk: Desk) -> None:
    scheduler = desk.scheduler(ORDERS)
    serving = asyncio.create_task(scheduler.serve([ORDERS]))
    await asyncio.sleep(60)
    scheduler.update([replace(ORDERS, schedule=Every(interval=HOUR)), EVENTS])
    both = scheduler.known_since()
    scheduler.update([EVENTS])
    one = scheduler.known_since()
    await asyncio.sleep(60)
    scheduler.update([ORDERS, EVENTS])
    again = scheduler.known_since()
    serving.cancel()
    await asyncio.wait([serving])

    assert both == {"orders": START, "events": START + MINUTE}
    assert one == {"events": START + MINUTE}
    assert again == {"orders": START + 2 * MINUTE, "events": START + MINUTE}


async def test_a_cycle_that_is_cancelled_before_its_first_step_leaves_no_coroutine(desk: Desk) -> None:
    """A warning of one that was never awaited is an error here."""
    scheduler = desk.scheduler(ORDERS)
    scheduler._beat = lambda: scheduler.update([])  # called in the step that has begun the cycle's task

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(TimeoutError):
            async with asyncio.timeout(HOUR.total_seconds()):
                await scheduler.serve([ORDERS])
        gc.collect()

    assert (desk.begun, scheduler._running) == ([], {})
    assert [str(warning.message) for warning in told] == []
