"""Runs that are moved: sooner for nodes that write much, and later where the cloud would export nothing new."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from ddslogd.collection.adaptive_schedule import MARGIN, AdaptiveSchedule, wanted_interval
from ddslogd.config import loader
from ddslogd.config.live_settings import LiveSettings
from ddslogd.model.cycle import CycleOutcome, CycleReport, Silent
from ddslogd.model.instance import Cron, Every, Instance, LogKind
from ddslogd.model.snapshot import LogFile, Unchanged
from ddslogd.model.stream import Advance
from ddslogd.scheduling.engine import LocalEngine
from ddslogd.scheduling.scheduler import Scheduler
from ddslogd.scheduling.triggers import next_tick
from support.clocks import START, LoopClock, TurnClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from structlog.typing import EventDict

    from ddslogd.config.settings import Settings
    from ddslogd.model.cycle import Outcome
    from support.testbed import Bed

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
EVERY, FRESH_FOR, TOOK = 20 * MINUTE, 15 * MINUTE, timedelta(seconds=30)
WINDOW = 1_000_000
NODE = "solo_single_node_1"
ORDERS = f"{'a' * 32}in02"


# --- what a cycle tells -----------------------------------------------------------------------------------------------


def advance(
    share: float,
    *,
    node: str = "node-1",
    log: LogKind = LogKind.ERROR,
    full: bool = True,
    took: timedelta | None = EVERY,
) -> Advance:
    """Return what a node wrote between two exports, as a share of what one of them holds."""
    file = LogFile(instance="orders", log=log, node=node, file_name="errorlog", updated_at=START)
    return Advance(file=file, new=round(share * WINDOW), window=WINDOW, full=full, took=took)


def unchanged(*, node: str = "node-1", fetched: int = WINDOW) -> Unchanged:
    """Return the outcome of an export whose bytes are those of the last one."""
    return Unchanged(file=advance(0, node=node).file, fetched=fetched)


def cycle(*advances: Advance, at: datetime = START, outcomes: Iterable[Outcome] = ()) -> CycleReport:
    return CycleReport(
        instance="orders",
        started_at=at,
        finished_at=at + TOOK,
        outcome=CycleOutcome.OK,
        outcomes=tuple(outcomes),
        advances=[replace(one, file=replace(one.file, updated_at=at + TOOK)) for one in advances],
    )


class Daemon:
    """An adaptive schedule, and the fleet it speaks of; ``orders`` is the one that reports."""

    def __init__(self, *others: Instance, calls_per_minute: int = 60, adapt: str = "true", every: str = "20m") -> None:
        text = f"""\
clouds:
  eu: &account
    endpoint: https://dds.x.eu
    project_id: p
    auth: {{method: token, token: {{env: DDSLOGD_TOKEN}}}}
    calls_per_minute: {calls_per_minute}
  us: *account
schedule: {{every: {every}, adapt: {adapt}}}
instances:
  - {{id: {ORDERS}, name: orders, cloud: eu}}
"""
        self.settings: Settings = loader.parse(text, "test").settings
        self.orders = replace(self.settings.fleet()[0])
        self.others = others
        self.adaptive_schedule = AdaptiveSchedule(
            settings=LiveSettings(self.settings), fleet=lambda: (self.orders, *self.others)
        )

    def hear(self, *advances: Advance, at: datetime = START, outcomes: Iterable[Outcome] = ()) -> timedelta | None:
        """Let a cycle of orders be over; give how long after its run the next one is to begin."""
        self.adaptive_schedule.heard(self.orders, cycle(*advances, at=at, outcomes=outcomes), tick=at)
        return self.next(at)

    def next(self, last: datetime = START) -> timedelta | None:
        soon = self.adaptive_schedule.next(self.orders, last)
        return None if soon is None else soon - last


def other(name: str, *, every: timedelta = EVERY, cloud: str = "eu", logs: tuple[LogKind, ...] = ()) -> Instance:
    return Instance(
        id=f"id of {name}", name=name, cloud=cloud, schedule=Every(interval=every), logs=logs or (LogKind.ERROR,)
    )


def told(events: list[EventDict], *names: str) -> list[str]:
    return [event["event"] for event in events if event["event"] in names]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (advance(0.5), EVERY),
        (advance(0.8), EVERY / 1.6),
        (advance(1.0), EVERY / 2),  # lines were lost: it was as much at least
        (advance(0.1, took=MINUTE), 5 * MINUTE),
        (advance(0.8, full=False), None),  # the log is shorter than an export as yet
        (advance(0.8, took=None), None),
        (advance(0.8, took=timedelta()), None),
        (advance(0.8, took=-MINUTE), None),  # the cloud's clock was set
        (advance(0.0), None),
    ],
)
def test_wanted_is_the_time_in_which_half_an_export_is_written(said: Advance, wanted: timedelta | None) -> None:
    assert wanted_interval(said) == wanted


# --- when the next run is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_who_writes_half_an_export_between_ticks_or_less_stays_on_schedule(share: float) -> None:
    with capture_logs() as events:
        soon = Daemon().hear(advance(share))

    assert (soon, events) == (None, [])


def test_who_writes_more_has_the_next_tick_when_half_an_export_will_be_there() -> None:
    assert Daemon().hear(advance(0.55)) == EVERY / 1.1


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_no_tick_comes_before_the_cloud_exports_anew(share: float) -> None:
    """It does so ``fresh_for`` after the last cycle's end at the latest."""
    assert Daemon().hear(advance(share)) == TOOK + FRESH_FOR + MARGIN


def test_what_counts_is_the_pace_and_not_the_bytes() -> None:
    """As much as ever was written after the daemon was down for a day."""
    assert Daemon().hear(advance(0.9, took=24 * HOUR)) is None


def test_the_fastest_node_decides() -> None:
    slow, fast = advance(0.55, node="node-1"), advance(0.6, node="node-2")

    assert Daemon().hear(slow, fast, slow) == EVERY / 1.2


def test_the_two_logs_of_a_node_are_two() -> None:
    """The error log is calm again; the slow log is not."""
    daemon = Daemon()
    daemon.hear(advance(0.6), advance(0.7, log=LogKind.SLOW))

    daemon.hear(advance(0.1))

    assert daemon.next(START + HOUR) == max(EVERY / 1.4, FRESH_FOR)


def test_the_schedule_is_back_as_soon_as_it_will_do() -> None:
    daemon = Daemon()
    daemon.hear(advance(0.8))

    assert daemon.hear(advance(0.4)) is None


def test_a_cycle_that_brought_nothing_calms_nobody() -> None:
    daemon = Daemon()
    daemon.hear(advance(0.8))

    assert daemon.hear() == TOOK + FRESH_FOR + MARGIN


def test_a_node_that_stands_still_is_calm() -> None:
    """Its export has the bytes of the last one, so its stream does not advance."""
    daemon = Daemon()
    daemon.hear(advance(0.8), advance(0.1, node="node-2"))

    assert daemon.hear(advance(0.1, node="node-2"), outcomes=[unchanged()]) is None


def test_a_file_that_was_there_already_says_nothing_of_its_node() -> None:
    """The cloud served the last export once more."""
    daemon = Daemon()
    daemon.hear(advance(0.8))

    assert daemon.hear(outcomes=[unchanged(fetched=0)]) == TOOK + FRESH_FOR + MARGIN


@pytest.mark.parametrize("every", ["5m", "15m"])
def test_who_has_a_tick_whenever_the_cloud_exports_anew_cannot_have_more(every: str) -> None:
    daemon = Daemon(every=every)

    assert daemon.hear(advance(0.9, took=5 * MINUTE)) is None


def test_with_adapt_false_it_is_told_and_nothing_else_is_done() -> None:
    daemon = Daemon(adapt="false")
    with capture_logs() as events:
        soon = daemon.hear(advance(0.9))

    assert (soon, [event["event"] for event in events]) == (None, ["window.filling"])


def test_of_an_instance_that_nothing_was_heard_of_the_schedule_decides() -> None:
    assert Daemon().next() is None


def test_one_instance_leaves_the_others_as_they_are() -> None:
    events = other("events")
    daemon = Daemon(events)

    daemon.hear(advance(0.8))

    assert daemon.adaptive_schedule.next(events, START) is None


@pytest.mark.parametrize("minutes", [4, 9])
def test_a_cycle_that_took_long_does_not_put_the_next_one_off(minutes: int) -> None:
    """What counts is when the cloud made the export, not how long it took to fetch it."""
    daemon = Daemon()
    report = replace(cycle(advance(0.8)), finished_at=START + minutes * MINUTE)

    daemon.adaptive_schedule.heard(daemon.orders, report, tick=START)

    assert daemon.next() == TOOK + FRESH_FOR + MARGIN


def test_a_cloud_whose_clock_is_ahead_does_not_put_the_next_one_off() -> None:
    daemon = Daemon()
    report = replace(cycle(advance(0.8), at=START + 4 * MINUTE), finished_at=START + TOOK)

    daemon.adaptive_schedule.heard(daemon.orders, report, tick=START)

    assert daemon.next() == TOOK + FRESH_FOR + MARGIN


def test_the_ticks_of_a_cron_that_come_close_together_are_not_put_off() -> None:
    """Two runs a night: the second stays where it is."""
    daemon = Daemon()
    daemon.orders = replace(daemon.orders, schedule=Cron(expression="0 0,1 * * *", timezone="UTC"))
    midnight = datetime(2026, 1, 3, tzinfo=UTC)

    soon = daemon.hear(advance(0.9, took=10 * HOUR), at=midnight)

    assert soon is None or soon <= HOUR


# --- within the budget ------------------------------------------------------------------------------------------------

# A budget of one call a minute is half a call a minute in the long run; a cycle needs 2.2, at every 20 minutes 0.11.


def calls(every: timedelta) -> float:
    return 2.2 * (MINUTE / every)


def most_of_it() -> tuple[Instance, ...]:
    """Return instances that leave a little for orders."""
    return other("events"), other("audit", every=16 * MINUTE), other("ops", every=19 * MINUTE)


def test_what_the_account_has_left_is_spent_and_no_more() -> None:
    soon = Daemon(*most_of_it(), calls_per_minute=1).hear(advance(0.9))

    assert soon is not None
    assert soon < EVERY
    assert sum(map(calls, (soon, EVERY, 16 * MINUTE, 19 * MINUTE))) == pytest.approx(0.5)


def test_an_account_without_calls_to_spare_stays_on_schedule() -> None:
    others = [other(f"other-{number}") for number in range(4)]

    assert Daemon(*others, calls_per_minute=1).hear(advance(0.9)) is None


def test_the_instances_of_another_account_cost_nothing() -> None:
    others = [other(f"other-{number}", cloud="us") for number in range(9)]

    assert Daemon(*others, calls_per_minute=1).hear(advance(0.9)) == TOOK + FRESH_FOR + MARGIN


def test_an_instance_with_two_logs_costs_twice_the_calls() -> None:
    """Those of events leave none for orders; with one log they would."""
    events = other("events", logs=(LogKind.ERROR, LogKind.SLOW))
    audit = other("audit", every=12 * MINUTE)

    assert Daemon(events, audit, calls_per_minute=1).hear(advance(0.9)) is None


def test_what_an_instance_was_given_it_keeps() -> None:
    daemon = Daemon(*most_of_it(), calls_per_minute=1)
    first = daemon.hear(advance(0.9))

    assert first is not None
    assert daemon.hear(advance(0.9)) == first


def test_what_one_instance_was_given_another_does_not_get() -> None:
    events, *rest = most_of_it()
    daemon = Daemon(events, *rest, calls_per_minute=1)
    daemon.hear(advance(0.9))

    daemon.adaptive_schedule.heard(events, replace(cycle(advance(0.9)), instance="events"), tick=START)

    assert daemon.adaptive_schedule.next(events, START) is None


# --- what is told -----------------------------------------------------------------------------------------------------

FILLING, CALM, ADAPTED = "window.filling", "window.calm", "schedule.adapted"


def test_a_window_that_fills_is_told_with_its_node_and_how_fast() -> None:
    with capture_logs() as events:
        Daemon().hear(advance(0.8, node="node-2", log=LogKind.SLOW))

    (event,) = (event for event in events if event["event"] == FILLING)
    assert event.pop("todo")
    assert event == {
        "event": FILLING,
        "log_level": "warning",
        "instance": "orders",
        "node": "node-2",
        "log": "slow",
        "new_bytes": 800_000,
        "window_bytes": WINDOW,
        "took_s": 1200,
    }


def test_it_is_told_once_until_it_is_calm_again() -> None:
    daemon = Daemon()
    with capture_logs() as events:
        for share in (0.1, 0.6, 0.8, 0.6, 0.2, 0.1, 0.9):
            daemon.hear(advance(share))

    assert told(events, FILLING, CALM) == [FILLING, CALM, FILLING]


def test_a_second_node_that_fills_is_told_of_too() -> None:
    daemon = Daemon()
    daemon.hear(advance(0.8, node="node-1"))

    with capture_logs() as events:
        daemon.hear(advance(0.8, node="node-1"), advance(0.7, node="node-2"))
        daemon.hear(advance(0.8, node="node-1"), advance(0.7, node="node-2"))

    assert [event["node"] for event in events if event["event"] == FILLING] == ["node-2"]


def test_another_pace_is_told_once_as_is_that_it_is_over() -> None:
    daemon = Daemon()
    with capture_logs() as events:
        for share in (0.8, 0.55, 0.6, 0.1, 0.1):
            daemon.hear(advance(share))

    adapted = [event["every_s"] for event in events if event["event"] == ADAPTED]
    assert (adapted, told(events, CALM)) == ([900], [CALM])


def test_that_the_account_has_no_calls_left_for_it_is_told() -> None:
    daemon = Daemon(calls_per_minute=1)
    daemon.hear(advance(0.9))
    daemon.others = tuple(other(f"other-{number}") for number in range(4))

    with capture_logs() as events:
        daemon.hear(advance(0.9))

    assert [(event["every_s"], "raise calls_per_minute" in event["todo"]) for event in events] == [(1200, True)]


# --- with the scheduler -----------------------------------------------------------------------------------------------


async def begun_once_put_back(daemon: Daemon, report: Callable[[datetime], CycleReport]) -> int:
    """Count the cycles in the two hours after the clock was put back by ten days, of which each is over at once."""
    clock, begun = LoopClock(), []

    async def run(instance: Instance, tick: datetime) -> None:
        begun.append(clock.now())
        daemon.adaptive_schedule.heard(instance, report(clock.now()), tick=tick)

    async def fleet() -> tuple[Instance, ...]:
        return (daemon.orders,)

    scheduler = Scheduler(
        cycle=run,
        clock=clock,
        last_ticks={},
        fleet=fleet,
        engine=LocalEngine(),
        refresh=100 * HOUR,
        instead=daemon.adaptive_schedule.next,
    )
    serving = asyncio.create_task(scheduler.serve([daemon.orders]))
    await asyncio.sleep(60)
    clock.set_by = -240 * HOUR
    await asyncio.sleep(2 * 3600)
    serving.cancel()
    await asyncio.wait([serving])
    return len([moment for moment in begun if moment < START])


@pytest.mark.looptime
async def test_when_the_clock_is_put_back_nobody_who_is_in_a_hurry_waits_for_the_old_time() -> None:
    assert await begun_once_put_back(Daemon(), lambda now: cycle(advance(0.8), at=now)) >= 5


@pytest.mark.looptime
async def test_when_the_clock_is_put_back_nobody_who_is_put_off_waits_for_the_old_time() -> None:
    def report(now: datetime) -> CycleReport:
        return replace(cycle(at=now), fresh_until=now + TOOK + FRESH_FOR)

    assert await begun_once_put_back(Daemon(every="15m"), report) >= 6


class Node(Silent):
    """Writes to its log at a pace that changes with the number of its cycles so far, and writes down the cycles."""

    def __init__(self, bed: Bed, clock: TurnClock, paces: Sequence[int]) -> None:
        """Prepare.

        Args:
            bed: Whose cloud has the node.
            clock: By which it writes.
            paces: Bytes in the time between two runs of the schedule, one a cycle.
        """
        self.reports: list[CycleReport] = []
        self.over = asyncio.Event()
        self._bed = bed
        self._paces = paces
        self._unwritten = 0.0
        self._lines = count()
        clock.passed = self._write

    def cycled(self, report: CycleReport) -> None:
        self.reports.append(report)
        if len(self.reports) == len(self._paces):
            self.over.set()

    def _write(self, passed: timedelta) -> None:
        if not self.over.is_set():
            self._unwritten += self._paces[len(self.reports)] * (passed / EVERY)
        for _ in range(int(self._unwritten // 100)):
            self._unwritten -= 100
            self._bed.sandbox.write(NODE, f"2026-01-02T00:00:00.000+0000 E {next(self._lines):068d}\n".encode())


async def serve(bed: Bed, *paces: int, window: int) -> list[CycleReport]:
    """Serve a cycle for each pace at which the node writes; give their reports."""
    bed.clock = clock = TurnClock(sleepers=5)  # the instance's runs or its cycle, and four chores
    async with bed.cloud(window=window):
        bed.progress = node = Node(bed, clock, paces)
        async with bed.open() as service:
            serving = asyncio.create_task(service.serve())
            async with asyncio.timeout(30):
                await node.over.wait()
            serving.cancel()
            await asyncio.wait([serving])
    return node.reports


def since_the_last(reports: Sequence[CycleReport]) -> list[timedelta]:
    """Return how long after the end of the one before each cycle began."""
    return [then.started_at - now.finished_at for now, then in pairwise(reports)]


def is_on_grid(report: CycleReport, instance: Instance) -> bool:
    begun = report.started_at
    return begun == next_tick(instance.schedule, after=begun - timedelta(milliseconds=1), key=instance.id)


CALM_PACE, FULL, FAST_PACE = 2_000, 20_000, 17_000  # bytes in 20 minutes, of an export that holds 20,000


async def test_the_ticks_of_a_node_in_a_hurry_come_sooner_and_then_as_before(bed: Bed) -> None:
    """The first export that is full shows how fast it writes. The first run on schedule may be put off once more."""
    paces = [FULL] * 3 + [FAST_PACE] * 6 + [CALM_PACE] * 6
    with capture_logs() as events:
        reports = await serve(bed, *paces, window=20_000)

    hurried = since_the_last(reports[3:10])
    on_grid = [is_on_grid(report, bed.instance()) for report in reports[12:]]
    assert ({round(wait / MINUTE) for wait in hurried}, on_grid) == ({15}, [True] * 3)
    assert told(events, FILLING, ADAPTED, CALM) == [FILLING, ADAPTED, CALM]


async def test_every_15_minutes_is_no_30(bed: Bed) -> None:
    """The last export is served a little longer than until the next run."""
    bed.set("every: 20m", "every: 15m")
    reports = await serve(bed, *[CALM_PACE] * 8, window=20_000)

    waits = {round((then.started_at - now.started_at) / MINUTE) for now, then in pairwise(reports)}
    assert ({report.outcome for report in reports}, waits) == ({CycleOutcome.OK}, {15})


async def test_with_adapt_false_all_ticks_are_those_of_the_schedule(bed: Bed) -> None:
    bed.set("schedule:\n", "schedule:\n  adapt: false\n")
    with capture_logs() as events:
        reports = await serve(bed, *[FULL] * 3, *[FAST_PACE] * 3, window=20_000)

    assert [is_on_grid(report, bed.instance()) for report in reports[1:]] == [True] * 5
    assert told(events, FILLING, ADAPTED) == [FILLING]


async def test_a_burst_after_hours_in_which_nothing_was_written_is_seen(bed: Bed) -> None:
    """What counts is the time since the last export, though that one had nothing new."""
    with capture_logs() as events:
        await serve(bed, *[FULL] * 3, *[CALM_PACE] * 2, *[0] * 30, FAST_PACE, window=20_000)

    assert told(events, FILLING, CALM) == [FILLING, CALM, FILLING]


# --- cycles that asked for nothing ------------------------------------------------------------------------------------


def cached(until: datetime, *, at: datetime) -> CycleReport:
    return replace(cycle(at=at), finished_at=at, outcome=CycleOutcome.CACHED, fresh_until=until)


def test_the_next_tick_is_not_before_the_cloud_exports_anew_whichever_file_was_the_last() -> None:
    """A file without news may have been ready after those that brought some."""
    daemon = Daemon()
    until = START + TOOK + FRESH_FOR + 7 * MINUTE / 60
    report = replace(cycle(advance(0.9)), fresh_until=until)

    daemon.adaptive_schedule.heard(daemon.orders, report, tick=START)

    assert daemon.next() == until + MARGIN - START


def test_after_a_cycle_that_came_too_early_the_next_comes_when_the_cloud_exports_anew() -> None:
    """Not after another whole interval; and nothing that was known is forgotten."""
    daemon = Daemon()
    daemon.hear(advance(0.9))
    early, until = START + 10 * MINUTE, START + 16 * MINUTE

    daemon.adaptive_schedule.heard(daemon.orders, cached(until, at=early), tick=early)

    assert daemon.next(early) == until + MARGIN - early


@pytest.mark.parametrize("adapt", ["true", "false"])
def test_a_tick_on_schedule_that_came_too_early_is_put_off_and_not_skipped(adapt: str) -> None:
    """An export is ready some seconds after its run: every 15 minutes would be every 30."""
    daemon = Daemon(every="15m", adapt=adapt)
    until = START + 14 * MINUTE
    daemon.adaptive_schedule.heard(daemon.orders, cached(until, at=START), tick=START)
    put_off = daemon.next()
    daemon.hear(at=until + MARGIN)

    assert (put_off, daemon.next(until + MARGIN)) == (until + MARGIN - START, None)


def test_a_tick_that_was_put_off_comes_once_though_its_cycle_is_cut_short() -> None:
    """By a bug, or a reload: nobody is notified of its end, and the next one is on schedule."""
    daemon = Daemon(every="15m")
    until = START + 14 * MINUTE
    daemon.adaptive_schedule.heard(daemon.orders, cached(until, at=START), tick=START)

    assert daemon.next(until + MARGIN) is None


@pytest.mark.parametrize(("every", "put_off"), [("15m", True), ("20m", False)])
def test_a_tick_that_would_come_too_early_is_put_off_at_once(*, every: str, put_off: bool) -> None:
    """Not by a cycle that asks for nothing and says so."""
    daemon, until = Daemon(every=every), START + TOOK + FRESH_FOR
    daemon.adaptive_schedule.heard(daemon.orders, replace(cycle(), fresh_until=until), tick=START)

    assert daemon.next() == (until + MARGIN - START if put_off else None)


def test_nothing_is_put_off_after_a_failure() -> None:
    """With two kinds of log one may be fresh, and the other is asked for."""
    daemon, until = Daemon(every="15m"), START + TOOK + FRESH_FOR
    report = replace(cycle(), outcome=CycleOutcome.PARTIAL, fresh_until=until)
    daemon.adaptive_schedule.heard(daemon.orders, report, tick=START)

    assert daemon.next() is None


def test_the_interval_of_a_node_in_a_hurry_is_not_cut_short_by_a_tick_that_comes_too_early() -> None:
    """A run may lie close behind a cycle that came sooner."""
    daemon = Daemon(every="1h")
    early = next_tick(daemon.orders.schedule, after=START, key=daemon.orders.id) - 5 * MINUTE
    report = replace(cycle(advance(1.2, took=HOUR), at=early), fresh_until=early + TOOK + FRESH_FOR)
    daemon.adaptive_schedule.heard(daemon.orders, report, tick=early)

    assert daemon.next(early) == 25 * MINUTE


def test_no_tick_is_put_off_until_the_next_one() -> None:
    """The last of the evening stays the last."""
    daemon, tick = Daemon(), datetime(2026, 1, 2, 23, 45, tzinfo=UTC)
    evenings = replace(daemon.orders, schedule=Cron(expression="*/15 22-23 * * *", timezone="UTC"))
    ends = []
    for at in (tick - 15 * MINUTE, tick):
        report = replace(cycle(at=at), fresh_until=at + TOOK + FRESH_FOR)
        daemon.adaptive_schedule.heard(evenings, report, tick=at)
        ends.append(daemon.adaptive_schedule.next(evenings, at))

    assert ends == [tick + TOOK + MARGIN, None]
