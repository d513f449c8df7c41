"""Why a gap is there: by a table of what happened before it, and by cycles that come to one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.model.cycle import CycleOutcome, CycleReport, Silent
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import Cron, Every, LogKind
from ddslogd.model.stream import GapCause, StreamState
from ddslogd.sandbox import ApiError, replica_set, single
from ddslogd.scheduling.triggers import next_tick
from ddslogd.storage.ledger.cycle_records import KEPT_CYCLES
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.stream_records import Past, PastCycle, StreamBook
from ddslogd.storage.streams.gap_cause import cause_of_gap
from support.log_streams import new_lines
from support.testbed import known_gaps, next_cycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ddslogd.model.snapshot import LogFile
    from support.testbed import Bed

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEY = "6ade8143870047b8999aba8f1891b48ein02"
TWENTY_MINUTES = Every(interval=20 * MINUTE)
TICK = next_tick(TWENTY_MINUTES, after=datetime(2026, 1, 2, tzinfo=UTC), key=KEY)
NODE = "solo_single_node_1"


# --- by a table -------------------------------------------------------------------------------------------------------


def after(minutes: float, *, took: float = 1, outcome: str = "ok", kind: FailureKind | None = None) -> PastCycle:
    """Return a cycle that began so long after the first run."""
    begun = TICK + minutes * MINUTE
    return PastCycle(
        started_at=begun, finished_at=begun + took * MINUTE, outcome=CycleOutcome(outcome), error_kind=kind
    )


def blamed(*cycles: PastCycle, minutes: float, failing: FailureKind | None = None, whole: bool = True) -> str:
    """Return what is blamed for a gap that is found so long after the first run; the first cycle was that run's."""
    past = Past(cycles=(after(0), *cycles), whole=whole, failing=failing)
    return cause_of_gap(
        past, since=TICK + MINUTE / 2, until=TICK + minutes * MINUTE, schedule=TWENTY_MINUTES, key=KEY
    ).value


def failed(minutes: float) -> PastCycle:
    return after(minutes, outcome="failed", kind=FailureKind.UNAVAILABLE)


def gone(minutes: float) -> PastCycle:
    return after(minutes, outcome="failed", kind=FailureKind.GONE)


def cached(minutes: float) -> PastCycle:
    return after(minutes, outcome="cached")


def no_room(minutes: float) -> PastCycle:
    return after(minutes, outcome="no_room", kind=FailureKind.NO_ROOM)


@pytest.mark.parametrize(
    ("cycles", "minutes", "failing", "cause"),
    [
        # Nothing was wrong. Who asked for nothing, since nothing was new, was there all the same.
        ([cached(20), cached(40), cached(60)], 80, None, "window overflow"),
        ([], 21, None, "window overflow"),
        ([after(20), after(40)], 61, None, "window overflow"),  # it had nothing new
        ([after(20, outcome="nothing")], 41, None, "window overflow"),
        ([after(20, outcome="partial")], 41, None, "window overflow"),  # of another node
        ([after(16), after(32), after(48)], 65, None, "window overflow"),  # runs that came sooner
        ([after(20, took=55)], 76, None, "window overflow"),  # it took long, and was not overlapped
        # The cloud, or the way to it.
        ([failed(20)], 41, None, "failed exports"),
        ([failed(20), after(40)], 61, None, "failed exports"),
        ([after(20, outcome="partial")], 41, FailureKind.EXPORT_FAILED, "failed exports"),  # of this node
        ([after(20, outcome="failed", kind=FailureKind.TIMEOUT)], 41, None, "failed exports"),
        # Nobody asked.
        ([], 41, None, "daemon down"),
        ([after(60)], 81, None, "daemon down"),
        ([after(20), after(80)], 101, None, "daemon down"),
        ([after(20)], 240, None, "daemon down"),
        # Nothing was asked for.
        ([no_room(20), no_room(40)], 61, FailureKind.NO_ROOM, "disk full"),
        ([no_room(20), after(40)], 61, None, "disk full"),
        # There was no such instance.
        ([gone(20)], 41, FailureKind.GONE, "instance gone"),
        ([gone(20), after(40)], 61, None, "instance gone"),
        ([after(20, outcome="partial")], 41, FailureKind.GONE, "instance gone"),
        # More than one: what explains most.
        ([gone(20), failed(80), no_room(100)], 121, FailureKind.NO_ROOM, "instance gone"),
        ([failed(60), no_room(80)], 101, FailureKind.NO_ROOM, "daemon down"),
        ([failed(20), no_room(40)], 61, FailureKind.NO_ROOM, "disk full"),
    ],
)
def test_what_happened_since_the_last_export_is_blamed(
    cycles: Sequence[PastCycle], minutes: float, failing: FailureKind | None, cause: str
) -> None:
    assert blamed(*cycles, minutes=minutes, failing=failing) == cause


@pytest.mark.parametrize(("whole", "cause"), [(True, "daemon down"), (False, "window overflow")])
def test_what_the_ledger_has_forgotten_is_not_held_against_the_daemon(*, whole: bool, cause: str) -> None:
    """The cycles between the last export and the first that is known may have been there."""
    past = Past(cycles=(after(0), after(20)), whole=whole, failing=None)

    told = cause_of_gap(past, since=TICK - DAY, until=TICK + 41 * MINUTE, schedule=TWENTY_MINUTES, key=KEY)

    assert told.value == cause


def test_a_tick_that_was_skipped_among_those_that_are_known_counts_all_the_same() -> None:
    assert blamed(after(20), after(80), minutes=101, whole=False) == "daemon down"


@pytest.mark.parametrize(
    ("expression", "timezone", "first", "now", "cause"),
    [
        ("30 2 * * *", "UTC", "2026-01-02T02:30Z", "2026-01-03T02:31Z", "window overflow"),
        ("30 2 * * *", "UTC", "2026-01-02T02:30Z", "2026-01-04T02:31Z", "daemon down"),
        ("0 6 * * 1-5", "UTC", "2026-01-02T06:00Z", "2026-01-05T06:01Z", "window overflow"),  # over a weekend
        ("0 6 * * 1-5", "UTC", "2026-01-02T06:00Z", "2026-01-06T06:01Z", "daemon down"),
        ("0 6,7 * * *", "Europe/Berlin", "2026-01-02T06:00Z", "2026-01-03T05:01Z", "window overflow"),
        ("0 6,7 * * *", "Europe/Berlin", "2026-01-02T06:00Z", "2026-01-03T06:01Z", "daemon down"),
        # The one run that there was came 23 hours late.
        ("30 2 * * *", "UTC", "2026-01-02T02:30Z", "2026-01-04T01:30Z", "daemon down"),
    ],
)
def test_where_a_cron_has_no_tick_nobody_was_to_ask(
    expression: str, timezone: str, first: str, now: str, cause: str
) -> None:
    begun = datetime.fromisoformat(first)
    ended = begun + MINUTE
    done = PastCycle(started_at=begun, finished_at=ended, outcome=CycleOutcome.OK, error_kind=None)
    past = Past(cycles=(done,), whole=True, failing=None)

    told = cause_of_gap(
        past,
        since=begun + MINUTE / 2,
        until=datetime.fromisoformat(now),
        schedule=Cron(expression=expression, timezone=timezone),
        key=KEY,
    )

    assert told.value == cause


@pytest.mark.parametrize(
    ("every", "late", "cause"),
    [
        (5, 19, "window overflow"),  # its run was put off, or it waited for the account's budget
        (5, 21, "daemon down"),
        (30, 29, "window overflow"),
        (30, 31, "daemon down"),
        (24 * 60, 59, "window overflow"),
        (24 * 60, 61, "daemon down"),
    ],
)
def test_an_export_that_is_late_by_an_interval_or_an_hour_is_late_for_other_reasons(
    every: float, late: float, cause: str
) -> None:
    schedule = Every(interval=every * MINUTE)
    since = next_tick(schedule, after=TICK, key=KEY)
    until = since + every * MINUTE + late * MINUTE

    told = cause_of_gap(Past(cycles=(), whole=True, failing=None), since=since, until=until, schedule=schedule, key=KEY)

    assert told.value == cause


# --- by the books -----------------------------------------------------------------------------------------------------


def report(minutes: float) -> CycleReport:
    """Return a cycle that failed so long after the first run."""
    begun = TICK + minutes * MINUTE
    return CycleReport(
        instance="orders",
        started_at=begun,
        finished_at=begun + MINUTE,
        outcome=CycleOutcome.FAILED,
        error="busy",
        error_kind=FailureKind.UNAVAILABLE,
    )


def state(minutes: float) -> StreamState:
    """Return a stream whose last export was made so long after the first run."""
    return StreamState(
        series="s",
        instance="orders",
        log=LogKind.ERROR,
        node="node-1",
        path="s",
        size=0,
        born_at=TICK,
        reference_at=TICK + minutes * MINUTE,
    )


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path)
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.mark.parametrize(
    ("minutes", "cycles", "failing"), [(0, [0, 20], "unavailable"), (2, [20], "unavailable"), (22, [], None)]
)
async def test_what_was_over_when_the_last_export_was_made_is_not_looked_at(
    ledger: Ledger, minutes: float, cycles: list[float], failing: str | None
) -> None:
    for begun in (0, 20):
        await ledger.close_cycle(report(begun), tick=TICK)

    past = await StreamBook(ledger).past(state(minutes))

    begun_at = [(cycle.started_at - TICK) / MINUTE for cycle in past.cycles]
    assert (begun_at, past.failing, past.whole) == (cycles, failing, True)


async def test_more_cycles_than_the_ledger_keeps_are_not_the_whole_past(ledger: Ledger) -> None:
    for number in range(KEPT_CYCLES + 1):
        await ledger.close_cycle(report(20 * number), tick=TICK)

    assert not (await StreamBook(ledger).past(state(0))).whole


# --- by cycles --------------------------------------------------------------------------------------------------------

WINDOW = 4_000  # bytes that an export of this cloud holds
NUMBERS = count()


def causes(bed: Bed) -> list[GapCause]:
    return [gap.cause for gap in known_gaps(bed.state)]


async def test_more_than_an_export_holds_between_two_ticks_is_an_overflow(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(1000))
        await next_cycle(bed)
        cloud.write(NODE, new_lines(2 * WINDOW))

        await next_cycle(bed)

        assert causes(bed) == ["window overflow"]


async def test_where_nothing_is_lost_nothing_is_blamed(bed: Bed) -> None:
    """Whatever went wrong meanwhile."""
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(WINDOW))
        await next_cycle(bed)
        cloud.faults.api_errors = [ApiError(404, "DBS.200002")]
        await next_cycle(bed)
        cloud.write(NODE, new_lines(WINDOW - 1000))

        await next_cycle(bed, ticks=12)

        assert causes(bed) == []


@pytest.mark.parametrize("kind", ["call", "row"])
async def test_exports_that_fail_for_several_cycles_are_blamed(bed: Bed, kind: str) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(WINDOW))
        await next_cycle(bed)
        for _ in range(3):
            if kind == "call":
                cloud.faults.api_errors = [ApiError(400, "DBS.280001")]
            else:
                cloud.faults.failed_rows.add(NODE)
            cloud.write(NODE, new_lines(WINDOW // 2))
            await next_cycle(bed)
        cloud.faults.clear()

        await next_cycle(bed)

        assert causes(bed) == ["failed exports"]


async def test_a_node_whose_exports_fail_beside_good_ones_has_its_own_cause(bed: Bed) -> None:
    """The cycles are PARTIAL; the other node writes more than its exports hold."""
    async with bed.cloud(window=WINDOW, fleet=(replica_set("solo", nodes=2),)) as cloud, bed.open():
        bad, good = (node.name for node in cloud.fleet[0].nodes)
        for node in (bad, good):
            cloud.write(node, new_lines(WINDOW))
        await next_cycle(bed)
        cloud.faults.failed_rows.add(bad)
        for _ in range(3):
            cloud.write(bad, new_lines(WINDOW // 2))
            await next_cycle(bed)
        cloud.faults.clear()
        cloud.write(good, new_lines(2 * WINDOW))

        await next_cycle(bed)

        told = {gap.node: gap.cause for gap in known_gaps(bed.state)}
        assert told == {bad: "failed exports", good: "window overflow"}


async def test_hours_without_a_cycle_are_blamed_on_the_daemon(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        cloud.write(NODE, new_lines(1000))
        await next_cycle(bed)
        cloud.write(NODE, new_lines(3 * WINDOW))

        await next_cycle(bed, ticks=12)

        assert causes(bed) == ["daemon down"]


async def test_an_instance_that_was_not_there_is_blamed(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(1000))
        await next_cycle(bed)
        for _ in range(3):
            cloud.faults.api_errors = [ApiError(404, "DBS.200002")]
            cloud.write(NODE, new_lines(WINDOW))
            await next_cycle(bed)

        await next_cycle(bed)

        assert causes(bed) == ["instance gone"]


async def test_cycles_without_room_on_disk_are_blamed_on_the_disk(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        cloud.write(NODE, new_lines(1000))
        await next_cycle(bed)
        bed.set("keep_free: 0", "keep_free: 1000000GiB")
        for _ in range(3):
            cloud.write(NODE, new_lines(WINDOW))
            await next_cycle(bed)
        bed.changes.clear()

        await next_cycle(bed)

        assert causes(bed) == ["disk full"]


async def quiet(bed: Bed, *, cycles: int) -> None:
    """Run cycles that bring the bytes of the last one: the log stands still."""
    for _ in range(cycles):
        assert (await next_cycle(bed)).unchanged == 1


@pytest.mark.parametrize("trouble", ["failed", "down"])
async def test_what_was_over_before_the_last_good_export_is_not_blamed(bed: Bed, trouble: str) -> None:
    """The log stood still: exports with nothing new show that nothing was lost until then."""
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(WINDOW))
        await next_cycle(bed)
        if trouble == "failed":
            cloud.faults.api_errors = [ApiError(400, "DBS.280001")]
            await next_cycle(bed)
        else:
            bed.clock.forward(hours=5)
        await quiet(bed, cycles=4)
        cloud.write(NODE, new_lines(2 * WINDOW))

        await next_cycle(bed)

        assert causes(bed) == ["window overflow"]


class SlowTransfers(Silent):
    """Transfers that take their time."""

    def __init__(self, bed: Bed) -> None:
        self.take = timedelta()
        self._bed = bed

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        del file, total, at, resumed
        self._bed.clock.time += self.take


async def test_a_transfer_that_takes_longer_than_an_interval_is_no_daemon_that_was_down(bed: Bed) -> None:
    bed.progress = slow = SlowTransfers(bed)
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, new_lines(1000))
        await next_cycle(bed)
        cloud.write(NODE, new_lines(2 * WINDOW))
        slow.take = 25 * MINUTE

        await next_cycle(bed)

        assert causes(bed) == ["window overflow"]


def without_slow_logs(reply: dict[str, Any]) -> Any:
    """Make nonsense of the replies that speak of slow logs."""
    return b"[]" if "slowlog" in json.dumps(reply) else reply


async def test_a_slow_log_that_fails_at_each_tick_is_not_blamed_for_a_gap_in_the_error_log(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        cloud.faults.mangle = without_slow_logs
        async with bed.open():
            cloud.write(NODE, new_lines(1000))
            await next_cycle(bed)
            cloud.write(NODE, new_lines(2 * WINDOW))

            report = await next_cycle(bed)

        assert (report.outcome, causes(bed)) == (CycleOutcome.PARTIAL, ["window overflow"])


async def test_an_error_log_that_failed_beside_a_good_slow_log_is_blamed(bed: Bed) -> None:
    """The call failed as a whole: no row told of the node."""
    async with bed.cloud(window=WINDOW) as cloud:
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        async with bed.open():
            cloud.write(NODE, new_lines(WINDOW))
            await next_cycle(bed)
            cloud.faults.mangle = lambda reply: b"[]" if "errorlog" in json.dumps(reply) else reply
            for _ in range(3):
                cloud.write(NODE, new_lines(WINDOW // 2))
                await next_cycle(bed)
            cloud.faults.clear()

            await next_cycle(bed)

        assert causes(bed) == ["failed exports"]


# --- an instance that is gone -----------------------------------------------------------------------------------------


def dated(size: int) -> bytes:
    """Return so many bytes of lines, each with a time of its own."""
    times = (f"{TICK + timedelta(seconds=next(NUMBERS)):%Y-%m-%dT%H:%M:%S.000+00:00}" for _ in range(size // 100))
    return b"".join(f'{{"t":{{"$date":"{moment}"}},"s":"W","msg":"{"x" * 35}"}}\n'.encode() for moment in times)


def spans(bed: Bed) -> list[tuple[str, str, str]]:
    """Return each gap: its cause, and its two ends as far as they are known."""
    return [(gap.cause.value, _known(gap.after), _known(gap.until)) for gap in known_gaps(bed.state)]


def _known(moment: datetime | None) -> str:
    return "known" if moment else "?"


async def not_there(bed: Bed, *, cycles: int) -> None:
    """Let the cloud have no such instance for so many cycles."""
    for _ in range(cycles):
        bed.sandbox.faults.api_errors = [ApiError(404, "DBS.200002")]
        await next_cycle(bed)


async def test_while_an_instance_is_gone_there_is_one_gap_without_an_end(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, dated(1000))
        await next_cycle(bed)

        await not_there(bed, cycles=1)
        since = bed.clock.time
        await not_there(bed, cycles=2)

        (gap,) = known_gaps(bed.state)
        assert (spans(bed), gap.noted_at <= since) == ([("instance gone", "known", "?")], True)


async def test_an_instance_that_is_gone_is_no_gap_of_another(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW, fleet=(single("calm"), single("solo"))) as cloud, bed.open():
        for name in ("calm", "solo"):
            cloud.write(f"{name}_single_node_1", dated(1000))
            await next_cycle(bed, name)
        cloud.faults.api_errors = [ApiError(404, "DBS.200002")]

        await next_cycle(bed, "solo")

        assert [gap.instance for gap in known_gaps(bed.state)] == ["solo"]


async def test_a_log_that_came_while_the_other_was_refused_has_no_gap(bed: Bed) -> None:
    """An instance of which one log is exported is there."""
    async with bed.cloud(window=WINDOW) as cloud:
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        async with bed.open():
            cloud.write(NODE, dated(500))
            cloud.write(NODE, dated(500), kind="slow")
            await next_cycle(bed)
            cloud.write(NODE, dated(500))
            cloud.write(NODE, dated(500), kind="slow")
            cloud.faults.api_errors = [ApiError(404, "DBS.200002")]  # whichever of the two calls is first

            report = await next_cycle(bed)

        assert (report.outcome, report.error_kind, causes(bed)) == (CycleOutcome.PARTIAL, "gone", [])


async def test_where_it_comes_back_and_lines_are_missing_the_gap_has_an_end(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, dated(1000))
        await next_cycle(bed)
        await not_there(bed, cycles=2)
        cloud.write(NODE, dated(2 * WINDOW))

        await next_cycle(bed)

        assert spans(bed) == [("instance gone", "known", "known")]


@pytest.mark.parametrize("size", [500, 0])
async def test_where_it_comes_back_and_nothing_is_missing_there_was_no_gap(bed: Bed, size: int) -> None:
    """Though it may have written nothing meanwhile."""
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, dated(1000))
        await next_cycle(bed)
        await not_there(bed, cycles=2)
        cloud.write(NODE, dated(size))

        await next_cycle(bed)

        assert spans(bed) == []


async def test_an_instance_that_goes_right_after_another_gap_is_known_as_gone(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, dated(1000))
        await next_cycle(bed)
        cloud.write(NODE, dated(2 * WINDOW))
        await next_cycle(bed)

        await not_there(bed, cycles=1)

        assert sorted(spans(bed)) == [("instance gone", "known", "?"), ("window overflow", "known", "known")]


def undated(size: int) -> bytes:
    """Return so many bytes of lines that tell no time."""
    return b"".join(f"line {next(NUMBERS):094d}\n".encode() for _ in range(size // 100))


async def test_a_gap_whose_lines_tell_no_times_stays_known(bed: Bed) -> None:
    """It ended, though it is not known when. Nor does anything prove that the next export goes on."""
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        cloud.write(NODE, undated(1000))
        await next_cycle(bed)
        await not_there(bed, cycles=1)
        cloud.write(NODE, undated(2 * WINDOW))
        await next_cycle(bed)
        cloud.write(NODE, undated(500))

        await next_cycle(bed)

        assert causes(bed) == ["instance gone", "unproved"]
