"""When to ask how an export goes, from how long the last ones took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddslogd.huaweicloud.poll_schedule import FLOOR, KEPT, remembered, taken, waits, watch
from ddslogd.model.export import ExportReply, Row, RowState

FIRST, LONGEST = timedelta(seconds=10), timedelta(seconds=30)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def first_waits(*takes: float, number: int = 4, longest: timedelta = LONGEST) -> list[float]:
    return [round(wait, 3) for wait in islice(waits(takes, first=FIRST, longest=longest), number)]


def test_where_nothing_is_known_waits_grow_by_half_from_first_poll_to_max_poll() -> None:
    assert first_waits() == [10.0, 15.0, 22.5, 30.0]


def test_where_exports_take_the_same_time_the_first_poll_comes_a_moment_after_it_and_closes_in() -> None:
    assert first_waits(*[20.0] * KEPT) == [20.8, 1.04, 2.08, 4.16]


def test_where_they_scatter_the_first_poll_waits_for_the_longest_that_was_seen() -> None:
    assert first_waits(8, 10, 12, 14, 16, 18, 20, 24) == [24.96, 8.0, 16.0, 30.0]


@pytest.mark.parametrize(("takes", "wait"), [((20,), 22.0), ((10, 20), 27.5), ((10, 12, 20, 15), 22.5)])
def test_the_fewer_were_seen_the_further_beyond_them_the_first_poll_lies(takes: tuple[float, ...], wait: float) -> None:
    assert first_waits(*takes, number=1) == [wait]


def test_no_wait_is_longer_than_max_poll_and_none_is_a_remainder() -> None:
    assert first_waits(*[70.0] * KEPT, number=3) == [24.267, 24.267, 24.267]


@given(
    takes=st.lists(st.floats(min_value=0.0, max_value=3600.0), max_size=KEPT),
    longest=st.timedeltas(min_value=FIRST, max_value=timedelta(hours=1)),
)
def test_every_wait_lies_between_the_floor_and_max_poll(takes: list[float], longest: timedelta) -> None:
    found = list(islice(waits(takes, first=FIRST, longest=longest), 200))

    assert all(FLOOR <= wait <= longest.total_seconds() + 1e-9 for wait in found)


@pytest.mark.parametrize("takes", [(0.0,), (0.0,) * KEPT, (0.001,)])
def test_where_exports_took_no_time_at_all_the_waits_grow_all_the_same(takes: tuple[float, ...]) -> None:
    """Else one that takes its time for once would have all calls of the account."""
    found = waits(takes, first=FIRST, longest=LONGEST)

    assert sum(islice(found, 12)) > 60


def test_only_the_last_durations_are_remembered() -> None:
    takes: tuple[float, ...] = ()
    for number in range(KEPT + 2):
        takes = remembered(takes, float(number))

    assert takes == tuple(float(number) for number in range(2, KEPT + 2))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (17.0, 17.0),
        (14.5, 15.0),  # a clock that is off by a second: what was seen is true
        (20.9, 20.0),
        (None, 18.0),
        (3600.0, 18.0),  # nonsense
        (-3600.0, 18.0),
        (12.0, 18.0),
    ],
)
def test_what_the_cloud_tells_counts_within_what_was_seen(told: float | None, expected: float) -> None:
    assert taken(told, at_least=15.0, at_most=20.0) == expected


def test_where_nothing_is_told_what_was_seen_under_way_is_not_over() -> None:
    assert taken(None, at_least=19.5, at_most=20.0) == 19.5


def row(state: RowState, *, after: float | None = None) -> Row:
    return Row(
        node="n",
        file_name="f",
        state=state,
        url="u" if state is RowState.READY else None,
        updated_at=None if after is None else NOW + timedelta(seconds=after),
    )


def reply(*rows: Row) -> ExportReply:
    return ExportReply(rows=rows, creating=False)


PENDING = row(RowState.PENDING, after=-1200)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ([PENDING], [row(RowState.READY, after=12)], 12.0),
        ([PENDING] * 2, [row(RowState.READY, after=12), row(RowState.READY, after=15)], 15.0),
        ([PENDING] * 2, [row(RowState.READY, after=12), row(RowState.FAILED, after=15)], 12.0),
        (
            [PENDING] * 2,
            [row(RowState.READY, after=12), row(RowState.READY)],
            18.0,
        ),  # one does not say: when it was seen
        ([PENDING], [row(RowState.FAILED, after=15)], None),
        ([PENDING], [], None),
        ([row(RowState.READY, after=-3), PENDING], [row(RowState.READY, after=12)] * 2, None),  # was under way before
    ],
)
def test_an_export_takes_until_its_last_file_was_ready(
    first: list[Row], last: list[Row], expected: float | None
) -> None:
    watched = watch(reply(*first), at=100.0, now=NOW)

    assert watched.took(reply(*last), at=120.0) == expected
