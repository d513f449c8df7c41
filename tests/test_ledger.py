"""The books: a real SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.errors import ConfigError
from ddslogd.models import CycleOutcome, CycleReport, Failed, LogFile, LogKind, Node, Snapshot
from ddslogd.storage import layout
from ddslogd.storage.ledger import KEPT_CYCLES, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
FILE = LogFile(instance="orders", node="node-1", file_name="errorlog", updated_at=NOW)
SNAPSHOT = Snapshot(
    file=FILE,
    key=layout.key(FILE),
    path=layout.key(FILE),
    size=10,
    md5="aa",
    sha256="cc",
    etag='"aa"',
    verified=True,
    began_at=NOW,
    stored_at=NOW,
    request_ids=("r-1", "r-2"),
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path)
    await ledger.open()
    yield ledger
    await ledger.close()


def one_row(directory: Path, query: str) -> tuple[object, ...]:
    """Ask the file itself, beside the ledger."""
    with closing(sqlite3.connect(directory / "ledger.sqlite3")) as db:
        row: tuple[object, ...] = db.execute(query).fetchone()
        return row


def report(
    *, at: datetime = NOW, outcome: CycleOutcome = CycleOutcome.OK, failed: tuple[str, ...] = (), error: str = ""
) -> CycleReport:
    return CycleReport(
        instance="orders",
        started_at=at,
        finished_at=at + timedelta(seconds=3),
        outcome=outcome,
        outcomes=[Failed(node=node, file_name="x", reason=f"{node} failed", kind="Corrupt") for node in failed],
        error=error,
        error_kind="Gone" if error else "",
    )


async def test_what_is_entered_is_held(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)

    assert await ledger.holds(layout.key(FILE))


async def test_another_update_time_is_another_file(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)

    later = LogFile(instance="orders", node="node-1", file_name="errorlog", updated_at=NOW + timedelta(milliseconds=1))
    assert not await ledger.holds(layout.key(later))


async def test_what_is_entered_outlives_the_process(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter(SNAPSHOT)
    await ledger.close()

    again = Ledger(tmp_path)
    held = await again.holds(layout.key(FILE))
    await again.close()
    assert held


async def test_the_nodes_newest_file_is_the_one_that_is_compared_with(ledger: Ledger) -> None:
    older = LogFile(instance="orders", node="node-1", file_name="old", updated_at=NOW - timedelta(minutes=20))
    await ledger.enter(SNAPSHOT)
    await ledger.enter(replace(SNAPSHOT, file=older, key=layout.key(older), path=layout.key(older), md5="bb"))

    same = [await ledger.same_as_last(replace(SNAPSHOT, md5=md5)) for md5 in ("aa", "bb")]
    assert same == [layout.key(FILE), None]


async def test_every_column_of_a_snapshot_is_there(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter(SNAPSHOT)

    row = one_row(tmp_path, "SELECT * FROM snapshots")
    ms = 1767323045678
    directory = "snapshots/orders/node-1"
    key = f"{directory}/errorlog.20260102T030405.678Z.log"
    told = (10, "aa", "cc", '"aa"', 1, "r-1 r-2", 1, ms, ms)
    assert row == (key, key, f"{directory}/*.log", "orders", "error", "node-1", "errorlog", ms, 1, *told)


async def test_a_slow_log_is_not_compared_with_an_error_log(ledger: Ledger) -> None:
    slow = replace(FILE, log=LogKind.SLOW)
    await ledger.enter(SNAPSHOT)

    same = await ledger.same_as_last(replace(SNAPSHOT, file=slow, key=layout.key(slow), path=layout.key(slow)))
    assert same is None


async def test_the_nodes_of_an_instance_are_those_of_the_last_list(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter_nodes("orders", [Node(id="a", name="n1", group="shard", role="Primary")])
    await ledger.enter_nodes("orders", [Node(id="b", name="n2", group="mongos", role="master")])

    assert one_row(tmp_path, "SELECT * FROM nodes") == ("orders", "b", "n2", "mongos", "master")


async def test_a_promise_is_no_entry(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)

    assert (await ledger.holds(SNAPSHOT.key), await ledger.same_as_last(SNAPSHOT)) == (False, None)


async def test_a_promise_is_remembered_whole(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)

    assert await ledger.promised() == (SNAPSHOT,)


async def test_a_promise_that_was_kept_is_none_any_more(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)
    await ledger.enter(SNAPSHOT)

    assert (await ledger.promised(), await ledger.holds(SNAPSHOT.key)) == ((), True)


async def test_a_promise_can_be_taken_back_and_an_entry_cannot(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)
    await ledger.forget(SNAPSHOT)

    assert await ledger.holds(SNAPSHOT.key)


async def test_a_file_that_is_no_database_is_put_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"this is no database, " * 100)
    ledger = Ledger(tmp_path)
    with structlog.testing.capture_logs() as events:
        known = await ledger.open()
    await ledger.enter(SNAPSHOT)
    await ledger.close()

    kept = (tmp_path / "ledger.sqlite3.damaged-1").read_bytes()
    assert (known, kept[:10], [event["event"] for event in events]) == (False, b"this is no", ["ledger.damaged"])


async def test_a_page_that_was_overwritten_is_found_after_a_crash(tmp_path: Path) -> None:
    """A copy of the files as a crash leaves them, with damage in the middle."""
    ledger = Ledger(tmp_path)
    await ledger.open()
    for number in range(300):
        file = replace(FILE, file_name=f"file-{number}")
        await ledger.enter(replace(SNAPSHOT, file=file, key=layout.key(file), path=layout.key(file)))
    await ledger.close()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    data = bytearray((tmp_path / "ledger.sqlite3").read_bytes())
    data[8192:65536] = b"\xff" * (65536 - 8192)
    (crashed / "ledger.sqlite3").write_bytes(data)
    (crashed / "ledger.sqlite3-wal").write_bytes(b"")

    again = Ledger(crashed)
    known = await again.open()
    await again.close()
    assert (known, (crashed / "ledger.sqlite3.damaged-1").exists()) == (False, True)


async def test_since_when_an_instance_fails_is_told_with_each_cycle(ledger: Ledger) -> None:
    told = [
        await ledger.close_cycle(report(at=NOW + timedelta(minutes=minutes), failed=failed), tick=NOW)
        for minutes, failed in ((0, ("a",)), (20, ("a", "b")), (40, ("b",)), (60, ()))
    ]

    first, second = NOW + timedelta(seconds=3), NOW + timedelta(minutes=20, seconds=3)
    assert told == [first, first, second, None]


async def test_the_tick_of_each_instances_last_cycle_is_known(ledger: Ledger) -> None:
    """Also where an earlier one had a later tick, since the clock was wrong."""
    for minutes in (0, 20, 10):
        await ledger.close_cycle(report(), tick=NOW + timedelta(minutes=minutes))

    assert await ledger.last_ticks() == {"orders": NOW + timedelta(minutes=10)}


async def test_only_a_cycle_without_failures_is_a_success(ledger: Ledger) -> None:
    await ledger.close_cycle(report(), tick=NOW)
    for outcome in (CycleOutcome.FAILED, CycleOutcome.PARTIAL, CycleOutcome.NO_ROOM):
        await ledger.close_cycle(report(at=NOW + timedelta(hours=1), outcome=outcome), tick=NOW)

    assert await ledger.last_successes() == {"orders": NOW + timedelta(seconds=3)}


async def test_failures_count_from_the_first_one_on(ledger: Ledger) -> None:
    for minutes in (0, 20, 40):
        await ledger.close_cycle(report(at=NOW + timedelta(minutes=minutes), failed=("a",)), tick=NOW)

    (failure,) = await ledger.failures()
    assert (failure.times, failure.last - failure.since, failure.last_error) == (3, timedelta(minutes=40), "a failed")


async def test_a_node_that_succeeds_fails_no_more_while_another_still_does(ledger: Ledger) -> None:
    await ledger.close_cycle(report(failed=("a", "b")), tick=NOW)
    await ledger.close_cycle(report(failed=("b",)), tick=NOW)

    assert [(failure.node, failure.times) for failure in await ledger.failures("orders")] == [("b", 2)]


async def test_a_cycle_that_failed_as_a_whole_says_nothing_of_its_nodes(ledger: Ledger) -> None:
    await ledger.close_cycle(report(failed=("a",)), tick=NOW)
    await ledger.close_cycle(report(outcome=CycleOutcome.FAILED, error="gone"), tick=NOW)

    assert [(failure.node, failure.kind) for failure in await ledger.failures()] == [("", "Gone"), ("a", "Corrupt")]


async def test_old_cycles_make_room_for_new_ones(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(KEPT_CYCLES + 5):
        await ledger.close_cycle(report(), tick=NOW + timedelta(minutes=number))

    rows = one_row(tmp_path, "SELECT min(tick_ms), count(*) FROM cycles")
    assert rows == (1767323045678 + 5 * 60_000, KEPT_CYCLES)


async def test_a_ledger_of_a_newer_ddslogd_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.sqlite3")
    db.execute("PRAGMA user_version = 999")
    db.close()

    newer = Ledger(tmp_path)
    with pytest.raises(ConfigError, match="a newer ddslogd wrote this ledger"):
        await newer.open()
    await newer.close()


async def test_it_is_in_wal_mode_and_only_ours_to_read(ledger: Ledger, tmp_path: Path) -> None:
    mode = one_row(tmp_path, "PRAGMA journal_mode")[0]

    assert (mode, (tmp_path / "ledger.sqlite3").stat().st_mode & 0o777) == ("wal", 0o640)
    assert await ledger.failures() == ()
