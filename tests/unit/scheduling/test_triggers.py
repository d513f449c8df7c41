"""Time as pure functions: when a run is due, how far a server's clock is off, how long to wait."""

from __future__ import annotations

import zoneinfo
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddslogd.model.instance import Cron, Every
from ddslogd.scheduling.backoff import bucket, full_jitter, poll_delays
from ddslogd.scheduling.clock import Skew, SystemClock
from ddslogd.scheduling.triggers import due, longest_interval, next_interval, next_tick, phase, shortest_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

patient = settings(deadline=None)  # a machine that is busy with something else is no bug
KEY = "6ade8143870047b8999aba8f1891b48ein02"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EVERY = Every(interval=20 * MINUTE)
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
TICK = next_tick(EVERY, after=NOW, key=KEY)

moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds
intervals = (
    st.timedeltas(timedelta(seconds=1), 31 * DAY)
    .map(lambda span: span // timedelta(milliseconds=1))
    .map(lambda ms: timedelta(milliseconds=ms))
)
keys = st.text(min_size=1, max_size=40)


def at(day: int, hour: int, minute: int = 0, *, month: int = 1) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


# --- the grid ---------------------------------------------------------------------------------------------------------


@patient
@given(interval=intervals, after=moments, key=keys)
def test_the_next_tick_is_later_and_at_most_an_interval_away(interval: timedelta, after: datetime, key: str) -> None:
    away = next_tick(Every(interval=interval), after=after, key=key) - after

    assert timedelta(0) < away <= interval


@patient
@given(interval=intervals, start=moments, key=keys, share=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_whenever_it_is_asked_the_grid_is_the_same(
    interval: timedelta, start: datetime, key: str, share: float
) -> None:
    """So a restart neither shifts nor doubles a run, and skips none."""
    tick = next_tick(Every(interval=interval), after=start, key=key)
    restarted_at = min(tick + interval * share, tick + interval - timedelta(microseconds=1))

    assert next_tick(Every(interval=interval), after=restarted_at, key=key) == tick + interval


@patient
@given(interval=intervals, after=moments, key=keys, late=st.timedeltas(timedelta(0), timedelta(seconds=2)))
def test_no_tick_comes_again_after_the_ledger_has_rounded_it(
    interval: timedelta, after: datetime, key: str, late: timedelta
) -> None:
    """It keeps whole milliseconds: were the run between two of them, a restart could run it twice."""
    tick = next_tick(Every(interval=interval), after=after, key=key)
    kept = datetime.fromtimestamp(round((tick + late).timestamp() * 1000) / 1000, UTC)

    assert next_tick(Every(interval=interval), after=kept, key=key) > tick


def test_a_key_has_its_place_for_ever() -> None:
    """A new version or another machine moves nobody: the value is written down."""
    assert phase(KEY, HOUR) == timedelta(minutes=54, seconds=51, milliseconds=76)


def test_the_place_is_within_the_interval() -> None:
    assert all(timedelta(0) <= phase(str(number), HOUR) < HOUR for number in range(1000))


def test_many_instances_are_spread_evenly_over_the_interval() -> None:
    """Of 2,000 each twentieth of the interval has about a hundred."""
    places = Counter(phase(f"{number:032x}in02", EVERY.interval) // MINUTE for number in range(2000))

    assert (len(places), min(places.values()) > 60, max(places.values()) < 140) == (20, True, True)


def test_two_schedules_of_one_instance_have_one_place_in_proportion() -> None:
    assert phase(KEY, 20 * MINUTE) * 3 == pytest.approx(phase(KEY, HOUR), abs=timedelta(milliseconds=3))


# --- cron -------------------------------------------------------------------------------------------------------------


def ticks(expression: str, start: datetime, end: datetime, *, timezone: str = "Europe/Berlin") -> list[str]:
    """Return the runs in between as a daemon meets them, each after the last one: ``day hour:minute``, UTC."""
    found = []
    tick = start
    while (tick := next_tick(Cron(expression=expression, timezone=timezone), after=tick, key=KEY)) < end:
        found.append(f"{tick:%d %H:%M}")
    return found


def test_cron_ticks_when_its_expression_says_so_and_without_a_phase() -> None:
    assert ticks("*/20 3 * * *", at(2, 0), at(3, 4), timezone="UTC") == [
        "02 03:00",
        "02 03:20",
        "02 03:40",
        "03 03:00",
        "03 03:20",
        "03 03:40",
    ]


def test_cron_is_read_in_its_time_zone() -> None:
    """Three in the morning is two o'clock UTC in a Berlin winter, and half past nine of the day before in India."""
    found = {zone: ticks("0 3 * * *", at(2, 0), at(3, 0), timezone=zone) for zone in ("Europe/Berlin", "Asia/Kolkata")}

    assert found == {"Europe/Berlin": ["02 02:00"], "Asia/Kolkata": ["02 21:30"]}


# Europe/Berlin, 2026. On 29 March there is no time from 2:00 to 3:00 (1:00 UTC). On 25 October the time from 2:00 to
# 3:00 is there twice (0:00 to 1:00 and 1:00 to 2:00 UTC). What recurs goes on by elapsed time, what has a fixed time
# runs once a day: the rule of Debian's cron.
SPRING = (at(28, 23, month=3), at(29, 4, month=3))
AUTUMN = (at(24, 23, month=10), at(25, 4, month=10))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 * * * *", ["28 23:30", "29 00:30", "29 01:30", "29 02:30", "29 03:30"]),
        ("*/40 1-3 * * *", ["29 00:00", "29 00:40", "29 01:00", "29 01:40"]),
        ("30 2 * * *", ["29 01:00"]),
        ("0 3 * * *", ["29 01:00"]),
        ("30 1 * * *", ["29 00:30"]),
        ("30 3 * * *", ["29 01:30"]),
    ],
)
def test_in_spring_no_tick_is_lost_and_what_recurs_goes_on(expression: str, expected: list[str]) -> None:
    assert ticks(expression, *SPRING) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 * * * *", ["24 23:30", "25 00:30", "25 01:30", "25 02:30", "25 03:30"]),
        ("*/40 1-3 * * *", ["24 23:40", "25 00:00", "25 00:40", "25 01:00", "25 01:40", "25 02:00", "25 02:40"]),
        ("30 2 * * *", ["25 00:30"]),
        ("0 2 * * *", ["25 00:00"]),
        ("0 3 * * *", ["25 02:00"]),
        ("15,45 2 * * *", ["25 00:15", "25 00:45"]),
        ("30 1-3 * * *", ["24 23:30", "25 00:30", "25 02:30"]),
    ],
)
def test_in_autumn_a_fixed_time_ticks_once_and_what_recurs_goes_on(expression: str, expected: list[str]) -> None:
    assert ticks(expression, *AUTUMN) == expected


@pytest.mark.parametrize("expression", ["30 2 * * *", "15,45 2 * * *", "30 1-3 * * *", "*/20 * * * *", "0 2,3 * * *"])
@pytest.mark.parametrize("night", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_the_next_cron_tick_is_later_whenever_it_is_asked_for(
    expression: str, night: tuple[datetime, datetime]
) -> None:
    """Also in the hour that is there twice: a run in the past would be due at once, again and again."""
    asked = [night[0] + number * timedelta(minutes=5, seconds=7) for number in range(60)]

    found = [
        next_tick(Cron(expression=expression, timezone="Europe/Berlin"), after=moment, key=KEY) for moment in asked
    ]

    assert all(tick > moment for tick, moment in zip(found, asked, strict=True))
    assert found == sorted(found)


@pytest.fixture
def no_time_zone_data() -> Iterator[None]:
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("no_time_zone_data")
def test_utc_needs_no_time_zone_data_on_the_host() -> None:
    """As the configuration promises when it checks the name."""
    assert next_tick(Cron(expression="0 3 * * *", timezone="UTC"), after=at(2, 3), key=KEY) == at(3, 3)


# --- how far apart runs lie ------------------------------------------------------------------------------------------

# From Friday evening to Monday morning there is none; each hour one comes ten minutes after another.
OFFICE = Cron(expression="0,10 8-17 * * 1-5", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("after", "interval"),
    [
        (at(5, 6, 30), 10 * MINUTE),  # a Monday, by UTC
        (at(5, 7, 0), 50 * MINUTE),
        (at(5, 16, 0), 14 * HOUR + 50 * MINUTE),
        (at(2, 16, 0), 62 * HOUR + 50 * MINUTE),
    ],
)
def test_the_next_interval_is_the_one_that_begins_with_the_next_tick(after: datetime, interval: timedelta) -> None:
    assert next_interval(OFFICE, after=after, key=KEY) == interval


def test_the_longest_and_the_shortest_interval_of_a_week_are_found_on_any_day_of_it() -> None:
    found = {(longest_interval(OFFICE, now=at(day, 12)), shortest_interval(OFFICE)) for day in range(1, 15)}

    assert found == {(62 * HOUR + 50 * MINUTE, 10 * MINUTE)}


@pytest.mark.parametrize(
    ("expression", "longest"), [("*/15 * * * *", 15 * MINUTE), ("0 0 1 * *", 31 * DAY), ("0 0 29 2 *", 1461 * DAY)]
)
def test_the_longest_interval_of_what_is_frequent_or_rare_is_found(expression: str, longest: timedelta) -> None:
    schedule = Cron(expression=expression, timezone="UTC")

    assert longest_interval(schedule, now=at(2, 3)) == longest


def test_a_schedule_by_interval_has_no_other() -> None:
    found = {next_interval(EVERY, after=NOW, key=KEY), longest_interval(EVERY, now=NOW), shortest_interval(EVERY)}

    assert found == {EVERY.interval}


@patient
@given(interval=intervals, after=moments, key=keys)
def test_the_next_interval_is_what_lies_between_two_ticks(interval: timedelta, after: datetime, key: str) -> None:
    schedule = Every(interval=interval)
    first = next_tick(schedule, after=after, key=key)

    assert next_interval(schedule, after=after, key=key) == next_tick(schedule, after=first, key=key) - first


# --- what is due ------------------------------------------------------------------------------------------------------


def when_due(last: datetime | None, now: datetime) -> datetime:
    return due(EVERY, last=last, now=now, key=KEY)


def test_what_never_ran_is_due_now() -> None:
    assert when_due(None, NOW) == NOW


def test_after_a_tick_the_next_one_is_due() -> None:
    assert when_due(TICK, TICK + MINUTE) == TICK + EVERY.interval


def test_what_began_late_does_not_shift_the_grid() -> None:
    assert when_due(TICK + 7 * MINUTE, TICK + 8 * MINUTE) == TICK + EVERY.interval


@pytest.mark.parametrize("missed", [1, 2, 1000])
def test_whatever_was_missed_is_due_once_and_now(missed: int) -> None:
    now = TICK + missed * EVERY.interval + MINUTE

    first, second = when_due(TICK, now), when_due(now, now + MINUTE)

    assert (first, second) == (now, TICK + (missed + 1) * EVERY.interval)


def test_a_tick_that_is_right_now_is_due() -> None:
    assert when_due(TICK, TICK + EVERY.interval) == TICK + EVERY.interval


@pytest.mark.parametrize("late", [timedelta(0), timedelta(milliseconds=200)], ids=["on its tick", "a little late"])
@pytest.mark.parametrize("back", [timedelta(milliseconds=500), 5 * MINUTE, 19 * MINUTE], ids=str)
def test_a_small_step_back_of_the_clock_runs_no_tick_twice(back: timedelta, late: timedelta) -> None:
    last = TICK + late

    assert when_due(last, last - back) == TICK + EVERY.interval


@pytest.mark.parametrize("back", [41 * MINUTE, 30 * DAY, 20_000 * DAY], ids=str)
def test_after_a_large_step_back_of_the_clock_the_grid_goes_on_from_now(back: timedelta) -> None:
    """Else the instance would be silent until the old time comes again."""
    now = TICK - back

    assert now < when_due(TICK, now) <= now + EVERY.interval


@patient
@given(last=moments, now=moments, key=keys, interval=intervals)
def test_what_is_due_is_neither_past_nor_far_away(last: datetime, now: datetime, key: str, interval: timedelta) -> None:
    at_tick = due(Every(interval=interval), last=last, now=now, key=key)

    assert now <= at_tick <= now + 3 * interval


def test_a_cron_schedule_is_due_by_the_same_rules() -> None:
    nightly = Cron(expression="0 3 * * *", timezone="UTC")

    found = [due(nightly, last=at(2, 3), now=now, key=KEY) for now in (at(2, 4), at(2, 2, 59), at(4, 7))]

    assert found == [at(3, 3), at(3, 3), at(4, 7)]


def test_a_tick_a_day_is_not_skipped_for_a_clock_that_was_hours_ahead() -> None:
    """It ran at 19:00, when the clock said 03:00 of the next day."""
    assert due(Cron(expression="0 3 * * *", timezone="UTC"), last=at(3, 3), now=at(2, 19, 5), key=KEY) == at(3, 3)


# --- a server's clock -------------------------------------------------------------------------------------------------


def skew(*seconds: float) -> Skew:
    """Observe replies of a server whose clock is ahead by so many seconds."""
    observed = Skew()
    for ahead in seconds:
        observed.observe(format_datetime(at(2, 3) + timedelta(seconds=ahead), usegmt=True), at(2, 3))
    return observed


@pytest.mark.parametrize(
    ("seconds", "offset_s"),
    [
        ([], 0),
        ([90], 90),
        ([-90], -90),
        ([1], 0),
        ([-1], 0),
        ([2], 2),
        ([60, 62], 61),
        ([60, 61, 62], 61),
        ([60, 60, 86_400], 60),
        ([60, 60, 60, 0, 0], 60),
        ([50 * 365 * 86_400], 50 * 365 * 86_400),
        ([60, -86_400, 60, 86_400, 60], 60),
        ([60, 60, 60, 60, 60, 0, 0, 0], 0),
        ([0, 0, 0, 0, 0, 0, 60, 60, 60], 60),
    ],
)
def test_the_skew_is_the_median_of_the_last_five_replies(seconds: list[float], offset_s: float) -> None:
    """One second is none: the header has whole ones."""
    assert skew(*seconds).offset == timedelta(seconds=offset_s)


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "now",
        "Fri, 32 Jan 2026 03:00:00 GMT",
        "Fri, 02 Jan 2026",
        "1767322800",
        "Fri, 02 Jan 99999999999999999999 03:00:00 GMT",
        "Fri, 02 Jan 2026 03:00:00 +99999999999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 1001 00:00:00 GMT",
        "\x00",
    ],
)
def test_a_date_that_is_none_is_passed_over(garbage: str) -> None:
    """Nor is one believed that is a century off: adding it to our time could leave the calendar."""
    observed = skew(60)

    for _ in range(5):
        observed.observe(garbage, at(2, 3))

    assert observed.offset == timedelta(seconds=60)


@pytest.mark.parametrize(
    "date", ["Fri, 02 Jan 2026 03:01:30 GMT", "Fri, 02 Jan 2026 04:01:30 +0100", "Fri, 02 Jan 2026 03:01:30 -0000"]
)
def test_a_date_is_read_in_its_zone(date: str) -> None:
    observed = Skew()

    observed.observe(date, at(2, 3))

    assert observed.offset == timedelta(seconds=90)


@patient
@given(date=st.text() | st.from_regex(r"\A[A-Z][a-z]{2}, \d+ Jan \d+ \d+:\d+:\d+ [+-]\d+\Z"))
@example(date="Fri, 02 Jan 99999999999999999999 03:00:00 +0000")
def test_any_date_leaves_a_skew_that_can_be_added(date: str) -> None:
    observed = Skew()

    observed.observe(date, NOW)

    assert NOW + observed.offset + 365 * DAY > datetime(1900, 1, 1, tzinfo=UTC)


# --- waits ------------------------------------------------------------------------------------------------------------


def test_polls_are_further_and_further_apart_up_to_the_longest_wait() -> None:
    delays = poll_delays(timedelta(seconds=10), timedelta(seconds=30))

    assert list(islice(delays, 5)) == [10.0, 15.0, 22.5, 30.0, 30.0]


def test_polls_can_be_equally_apart() -> None:
    assert list(islice(poll_delays(timedelta(seconds=2), timedelta(seconds=2)), 3)) == [2.0, 2.0, 2.0]


@patient
@given(floor=st.floats(min_value=0.001, max_value=10), factor=st.floats(min_value=1, max_value=1e6))
def test_a_back_off_lies_between_its_floor_and_a_limit_that_doubles(floor: float, factor: float) -> None:
    ceiling = floor * factor
    limits = [min(ceiling, floor * 2**tries) for tries in range(1, 50)]

    waits = list(islice(full_jitter(floor, ceiling), len(limits)))

    assert all(floor <= wait <= limit * (1 + 1e-9) for wait, limit in zip(waits, limits, strict=True))


@patient
@given(calls=st.integers(min_value=1, max_value=12_000))
def test_no_minute_sees_more_calls_than_the_account_has(calls: int) -> None:
    """A full bucket and a minute's rate on top of it are the most that one minute can see."""
    burst, rate = bucket(calls)

    assert (burst >= 1, rate > 0, int(burst + rate) <= calls) == (True, True, True)
    assert burst + rate >= calls


def test_a_back_off_goes_on_for_ever_without_overflow() -> None:
    *_, last = islice(full_jitter(1.0, 30.0), 2000)

    assert 1.0 <= last <= 30.0


def test_back_offs_use_their_whole_room() -> None:
    """Full jitter: evenly between floor and limit, so that many clients do not come back together."""
    waits = [list(islice(full_jitter(1.0, 16.0), 4))[-1] for _ in range(2000)]

    quarters = Counter(int((wait - 1.0) / 15.0 * 4) for wait in waits)
    assert (sorted(quarters), min(quarters.values()) > 300) == ([0, 1, 2, 3], True)


# --- the machine's clock ----------------------------------------------------------------------------------------------


def test_the_machines_clock_is_in_utc() -> None:
    assert SystemClock().now().tzinfo is UTC
