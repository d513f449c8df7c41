"""Gaps are seen: for 24 hours wherever somebody looks, counted for ever, and bounded in the ledger."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from ddslogd.cli.tables import gap_table, status_text
from ddslogd.model.instance import LogKind
from ddslogd.model.stream import Gap, GapCause
from ddslogd.monitoring.freshness import one_line
from ddslogd.monitoring.status_json import as_object
from ddslogd.monitoring.status_reader import gap_objects
from ddslogd.sandbox.faults import ApiError
from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.database import MIGRATIONS, ms_of
from ddslogd.storage.ledger.gap_records import MERGED_AT_ONCE, MOST_GAPS, gaps
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.status_queries import Gaps
from ddslogd.storage.ledger.stream_records import StreamBook
from ddslogd.web import page
from ddslogd.web.table_query import Query, read, select
from support.clocks import START
from support.http_client import served
from support.log_streams import mongod_lines
from support.sample_status import instance, status
from support.testbed import known_gaps, next_cycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NODE = "solo_single_node_1"
SERIES = "snapshots/orders/node/*.log"
WINDOW = 20_000
SAID = f"1 gap in 24 h: solo, {NODE}: window overflow"


async def overflow(bed: Bed, cloud: Sandbox) -> None:
    cloud.write(NODE, mongod_lines(0, 10))
    await next_cycle(bed)
    cloud.write(NODE, mongod_lines(10, 1000))
    await next_cycle(bed)


# --- said -------------------------------------------------------------------------------------------------------------


async def test_a_gap_is_said_wherever_somebody_looks_and_changes_no_readiness(bed: Bed) -> None:
    """After a day it is in the list alone."""
    async with bed.cloud(window=WINDOW) as cloud, served(bed, page=page) as site:
        await overflow(bed, cloud)
        ready, found, overview = await site.ask("/readyz"), await site.instance(), (await site.ask("/")).text
        line = one_line(await site.service.observer.status())
        whole = (await site.ask("/api/v1/status")).json
        (gap,) = known_gaps(bed.state)
        bed.clock.forward(hours=25)
        later = (await site.ask("/readyz")).json

    noted = gap.noted_at.isoformat(timespec="milliseconds")
    assert (ready.status, ready.json["headline"], ready.json["gaps_24h"], ready.json["gaps"]) == (
        200,
        f"The instance is fresh; {SAID}",
        1,
        [{"instance": "solo", "node": NODE, "log": "error", "cause": "window overflow", "noted": noted}],
    )
    assert (found["gaps"], found["gaps_total"], found["gaps_24h"], found["new_gaps"][0]["cause"]) == (
        1,
        1,
        1,
        "window overflow",
    )
    assert (whole["gaps_24h"], whole["headline"], SAID in line) == (1, f"The instance is fresh; {SAID}", True)
    assert (SAID in overview, 'class="headline gap"' in overview) == (True, True)
    assert (later["headline"], later["gaps"], later["gaps_24h"]) == ("1 of 1 instance stale", [], 0)


async def test_status_on_the_terminal_names_each_new_gap(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open() as service:
        await overflow(bed, cloud)
        found = as_object(await service.observer.status())

    told = StringIO()
    status_text(found, Console(file=told, width=200))

    text = told.getvalue()
    assert text.splitlines()[0] == f"The instance is fresh; {SAID}"
    assert f"lines are missing: solo, {NODE}, error log, 2026-01-02T03:04:14.000+00:00 to " in text
    assert "1 (1 in 24 h)" in text


def with_gaps(name: str, number: int, **fields: Any) -> Any:
    newest = status_queries.RecentGap(
        node=f"{name}-node", log="slow", cause="unproved", after=None, until=START, noted_at=START
    )
    return instance(name, gaps=number, gaps_total=number, gaps_24h=number, new_gaps=(newest,), **fields)


def test_the_page_can_show_only_instances_with_new_gaps() -> None:
    few = (instance("calm"), with_gaps("orders", 1), with_gaps("events", 2))
    query = read({"gaps": "24h", "q": "order"})

    shown = page.overview(status(*few), {"gaps": "24h"})

    assert [one.name for one in select(few, Query(gaps=True)).shown] == ["events", "orders"]
    assert [one.name for one in select(few, query).shown] == ["orders"]
    assert (query.href(), query.href(gaps=False)) == ("?q=order&gaps=24h", "?q=order")
    assert ("i-orders" in shown, "i-calm" in shown, "with gaps in 24 h" in shown) == (True, False, True)
    assert ("orders-node (slow log): unproved" in shown, 'name="gaps" value="24h"' in shown) == (True, True)


def test_of_several_gaps_the_newest_is_named() -> None:
    line = one_line(status(with_gaps("orders", 1), with_gaps("events", 1200)))

    assert "1,201 gaps in 24 h, the newest: orders, orders-node (slow log): unproved" in line


# --- counted ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


def gap(number: int, *, noted_at: datetime = START, **fields: Any) -> Gap:
    """Return one of many gaps of a node; each lies an hour behind the one before, and is noticed then."""
    at = noted_at + number * HOUR
    usual: dict[str, Any] = {
        "instance": "orders",
        "log": LogKind.ERROR,
        "node": "node",
        "after": at - 2 * MINUTE,
        "until": at - MINUTE,
        "cause": GapCause.WINDOW_OVERFLOW,
        "noted_at": at,
        "cut": False,
        "path": f"snapshots/orders/node/{number}.log",
    }
    return Gap(**usual | fields)


def counts(ledger: Ledger, *, now: datetime = START, name: str = "orders") -> Gaps:
    with database.reading(ledger.path) as db:
        return status_queries.books(db, now=now).gaps[name]


async def test_the_count_never_falls_when_an_instance_leaves_and_returns(bed: Bed, clock: ManualClock) -> None:
    """Where nothing is missing then, its entry goes, and the count stays."""
    async with bed.open() as service:
        bed.sandbox.write(NODE, mongod_lines(0, 10))
        await next_cycle(bed)
        bed.sandbox.faults.api_errors = [ApiError(403, "DBS.200010")]
        await next_cycle(bed)
        gone = counts(service._archive.ledger, now=clock.now(), name="solo")
        await next_cycle(bed)
        back = counts(service._archive.ledger, now=clock.now(), name="solo")

    assert [(one.listed, one.total, one.recent) for one in (gone, back)] == [(1, 1, 1), (0, 1, 0)]


async def test_a_gap_that_is_noted_twice_is_counted_once(ledger: Ledger) -> None:
    book = StreamBook(ledger)
    for _ in range(3):
        await book.enter_gaps([(SERIES, gap(1)), (SERIES, gap(2))])

    assert counts(ledger).total == 2


async def test_what_stays_on_disk_is_not_counted_however_often_it_was_to_go(ledger: Ledger) -> None:
    book, lost = StreamBook(ledger), replace(gap(1), cause=GapCause.EVICTED_UNSHIPPED)
    for _ in range(3):
        await book.enter_gaps([(SERIES, lost)])
        await book.take_back([lost.path])
    before = counts(ledger) if "orders" in await totals(ledger) else Gaps()
    await book.enter_gaps([(SERIES, lost)])
    for _ in range(2):
        await book.forget_files([lost.path])

    assert (before.total, counts(ledger).total, counts(ledger).listed) == (0, 1, 1)


async def totals(ledger: Ledger) -> dict[str, int]:
    return dict(await ledger.run(lambda db: db.execute("SELECT instance, total FROM gap_totals").fetchall()))


async def test_a_gap_is_new_for_24_hours_around_the_time_that_was_noted(ledger: Ledger) -> None:
    """Of a clock that was some hours ahead, too; one of next year is not new until then."""
    await StreamBook(ledger).enter_gaps([(SERIES, gap(number)) for number in (-25, -23, 0, 8, 24 * 365)])

    found = counts(ledger)

    assert (found.recent, [one.noted_at - START for one in found.newest]) == (3, [8 * HOUR, timedelta(), -23 * HOUR])


# --- bounded ----------------------------------------------------------------------------------------------------------


def listed(ledger: Ledger) -> tuple[Gap, ...]:
    with database.reading(ledger.path) as db:
        return gaps(db)


async def test_the_oldest_are_merged_beyond_a_thousand_of_an_instance(ledger: Ledger) -> None:
    """None is dropped: it is said how many they are, from when to when, of which node and why."""
    number = MOST_GAPS + 200
    causes = [GapCause.FAILED_EXPORTS if one % 4 == 0 else GapCause.WINDOW_OVERFLOW for one in range(number)]
    for one, cause in enumerate(causes):
        await StreamBook(ledger).enter_gaps([(SERIES, replace(gap(one), cause=cause))])
    other = gap(1, instance="events", path="snapshots/events/node/1.log")
    await StreamBook(ledger).enter_gaps([("snapshots/events/node/*.log", other)])

    found = [one for one in listed(ledger) if one.instance == "orders"]
    merged = {one.cause: one for one in found if one.number > 1}

    assert (len(found), sum(one.number for one in found), counts(ledger).total) == (MOST_GAPS + 2, number, number)
    assert {cause: one.number for cause, one in merged.items()} == {
        GapCause.WINDOW_OVERFLOW: 150,
        GapCause.FAILED_EXPORTS: 50,
    }
    overflows = merged[GapCause.WINDOW_OVERFLOW]
    assert (overflows.node, overflows.after, overflows.until) == ("node", gap(1).after, gap(199).until)
    assert (overflows.first_noted_at, overflows.noted_at) == (gap(1).noted_at, gap(199).noted_at)
    assert [one.number for one in listed(ledger) if one.instance == "events"] == [1]


async def test_what_is_not_over_or_may_be_taken_back_is_not_merged(ledger: Ledger) -> None:
    book = StreamBook(ledger)
    evicted = gap(-2, cause=GapCause.EVICTED_UNSHIPPED)
    gone = gap(-1, cause=GapCause.INSTANCE_GONE, path="", until=None)
    await book.enter_gaps([(SERIES, evicted), (SERIES, gone)])
    await book.enter_gaps([(SERIES, gap(number)) for number in range(MOST_GAPS + 50)])
    before = {one.path for one in listed(ledger)}
    merged = {one.cause for one in listed(ledger) if one.path == "*"}
    await book.take_back([evicted.path])

    assert (evicted.path in before, gone.path in before, merged) == (True, True, {GapCause.WINDOW_OVERFLOW})
    assert evicted.path not in {one.path for one in listed(ledger)}


async def test_where_no_time_is_known_a_merged_gap_knows_none(ledger: Ledger) -> None:
    unknown = [(SERIES, gap(number, after=None, until=None)) for number in range(MOST_GAPS + 1)]
    await StreamBook(ledger).enter_gaps(unknown[:-1])
    await StreamBook(ledger).enter_gaps(unknown[-1:])
    before = [(one.number, one.after, one.until) for one in listed(ledger) if one.path == "*"]
    for number in range(MOST_GAPS + 1, MOST_GAPS + 3):
        await StreamBook(ledger).enter_gaps([(SERIES, gap(number))])
    with closing(sqlite3.connect(ledger.path)) as db, db:
        moments = "after_ms = 1767322800000, until_ms = 1767322800002"
        db.execute(f"UPDATE gaps SET {moments} WHERE path = 'snapshots/orders/node/3.log'")  # noqa: S608  # constants
    await StreamBook(ledger).enter_gaps([(SERIES, gap(MOST_GAPS + 3))])

    (merged,) = (one for one in listed(ledger) if one.path == "*")
    assert before == [(1, None, None)]
    assert (merged.number, merged.after is not None, merged.until is not None) == (4, True, True)


def test_merged_gaps_are_listed_with_their_number() -> None:
    one = replace(gap(5), path="*", number=1234, first_noted_at=START)

    (told,) = gap_objects([one])

    assert (told["number"], told["file"], told["first_noted"]) == (1234, None, "2026-01-02T03:04:05.000+00:00")
    assert "window overflow (1,234 gaps)" in gap_table([one])


async def test_an_old_ledger_with_very_many_is_brought_down_in_steps(tmp_path: Path) -> None:
    """Others have their turn between them; all are counted, and none is dropped."""
    number = 5 * MERGED_AT_ONCE + MOST_GAPS + 7
    old_ledger(tmp_path, number)
    ledger = Ledger(tmp_path)
    await ledger.open()
    at_first = len(listed(ledger))

    merging = asyncio.create_task(StreamBook(ledger).merge_gaps())
    between = []
    while not merging.done():
        between.append(await ledger.run(lambda db: db.execute("SELECT count(*) FROM gaps").fetchone()[0]))
    await merging
    found = listed(ledger)
    await ledger.close()

    steps = sorted(set(between), reverse=True)
    assert (at_first, len(found), sum(one.number for one in found)) == (number, MOST_GAPS + 1, number)
    assert (len(steps) > 3, max(one - other for one, other in pairwise(steps))) == (
        True,
        MERGED_AT_ONCE,
    )
    assert counts(ledger).total == number


def old_ledger(directory: Path, number: int) -> None:
    """Write a ledger of the version before gaps were counted."""
    with closing(sqlite3.connect(directory / "ledger.sqlite3")) as db, db:
        for version, schema in enumerate(MIGRATIONS[:4], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {version};")
        times = ((one, ms_of(START + one * MINUTE)) for one in range(number))
        rows = ((SERIES, f"{one}.log", "orders", at, at, at) for one, at in times)
        db.executemany("INSERT INTO gaps VALUES (?, ?, ?, 'error', 'node', ?, ?, 'window overflow', ?, 0)", rows)


async def test_the_daemon_brings_an_old_ledger_down_with_its_first_retention(bed: Bed) -> None:
    bed.state.mkdir()
    old_ledger(bed.state, 3 * MOST_GAPS)
    async with bed.open() as service:
        await service._prune()

    found = known_gaps(bed.state)
    assert (len(found), sum(one.number for one in found)) == (MOST_GAPS + 1, 3 * MOST_GAPS)
