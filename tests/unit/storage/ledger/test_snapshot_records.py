"""The books: a real SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed
from ddslogd.model.errors import ConfigError, StorageError
from ddslogd.model.export import Habit
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import LogKind, Node
from ddslogd.model.snapshot import LogFile, Snapshot, Stored, Unchanged
from ddslogd.storage import paths
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.cycle_records import KEPT_CYCLES
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import DROP_OLD, GROUP, Known, Ledger
from support.testbed import known_failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
FILE = LogFile(instance="orders", node="node-1", file_name="errorlog", updated_at=NOW)
SNAPSHOT = Snapshot(
    file=FILE,
    key=paths.key(FILE),
    path=paths.key(FILE),
    size=10,
    md5="aa",
    sha256="cc",
    etag='"aa"',
    verified=True,
    began_at=NOW,
    stored_at=NOW,
    request_ids=("r-1", "r-2"),
    first_at=NOW - timedelta(minutes=1),
    last_at=NOW,
    delta=True,
    fetched=4,
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path)
    await ledger.open()
    yield ledger
    await ledger.close()


def one_row(directory: Path, query: str) -> tuple[object, ...]:
    """Ask the file itself, next to the ledger."""
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
        outcomes=[
            Failed(node=node, file_name="x", reason=f"{node} failed", kind=FailureKind.CORRUPT) for node in failed
        ],
        error=error,
        error_kind=FailureKind.GONE if error else None,
    )


async def test_what_is_entered_is_held(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)

    assert (await ledger.known(paths.key(FILE))).held


async def test_a_name_that_is_given_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter_names({("eu", "a"): "orders", ("asia", "a"): "orders-a"})
    await ledger.close()

    again = Ledger(tmp_path)
    await again.open()
    names = await again.names()
    await again.close()
    assert names == {("eu", "a"): "orders", ("asia", "a"): "orders-a"}


async def test_another_update_time_is_another_file(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)

    later = LogFile(instance="orders", node="node-1", file_name="errorlog", updated_at=NOW + timedelta(milliseconds=1))
    assert not (await ledger.known(paths.key(later))).held


async def test_what_is_entered_outlives_the_process(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter(SNAPSHOT)
    await ledger.close()

    again = Ledger(tmp_path)
    held = (await again.known(paths.key(FILE))).held
    await again.close()
    assert held


async def test_the_nodes_newest_file_is_the_one_that_is_compared_with(ledger: Ledger) -> None:
    older = LogFile(instance="orders", node="node-1", file_name="old", updated_at=NOW - timedelta(minutes=20))
    await ledger.enter(SNAPSHOT)
    await ledger.enter(replace(SNAPSHOT, file=older, key=paths.key(older), path=paths.key(older), md5="bb"))

    same = [await ledger.promise(replace(SNAPSHOT, md5=md5)) for md5 in ("aa", "bb")]
    assert same == [paths.key(FILE), None]


async def test_every_column_of_a_snapshot_is_there(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter(SNAPSHOT)

    row = one_row(tmp_path, "SELECT * FROM snapshots")
    ms = 1767323045678
    directory = "snapshots/orders/node-1"
    key = f"{directory}/errorlog.20260102T030405.678Z.log"
    told = (10, "aa", "cc", '"aa"', 1, "r-1 r-2", 1, ms, ms, ms - 60_000, ms, 1, 0, 1, 4, 0)
    assert row == (key, key, f"{directory}/*.log", "orders", "error", "node-1", "errorlog", ms, 1, *told)


async def test_a_slow_log_is_not_compared_with_an_error_log(ledger: Ledger) -> None:
    slow = replace(FILE, log=LogKind.SLOW)
    await ledger.enter(SNAPSHOT)

    same = await ledger.promise(replace(SNAPSHOT, file=slow, key=paths.key(slow), path=paths.key(slow)))
    assert same is None


async def test_the_nodes_of_an_instance_are_those_of_the_last_list(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.enter_nodes({"orders": [Node(id="a", name="n1", group="shard", role="Primary")]})
    await ledger.enter_nodes({"orders": [Node(id="b", name="n2", group="mongos", role="master")]})

    assert one_row(tmp_path, "SELECT * FROM nodes") == ("orders", "b", "n2", "mongos", "master")


async def test_what_waits_at_the_same_time_is_made_durable_together(ledger: Ledger) -> None:
    """A commit costs the disk two syncs, for one entry as for many."""
    commits: list[str] = []
    await ledger.run(lambda db: db.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None))

    await asyncio.gather(*(ledger.enter(SNAPSHOT) for _ in range(200)))

    assert len(commits) <= 1 + 1 + 199 // GROUP + 1  # the statement that counts them, the first, and groups of the rest


async def test_a_transaction_that_fails_takes_no_other_with_it(ledger: Ledger) -> None:
    def refused(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('half', 'done')")
        db.execute("INSERT INTO no_such_table VALUES (1)")

    ended = await asyncio.gather(
        *(ledger.enter(SNAPSHOT), ledger.enter_names({("eu", "a"): "orders"})),
        *(ledger.run(refused), ledger.enter_names({("eu", "b"): "events"})),
        return_exceptions=True,
    )

    assert [isinstance(each, StorageError) for each in ended] == [False, False, True, False]
    assert await ledger.names() == {("eu", "a"): "orders", ("eu", "b"): "events"}
    assert await ledger.run(lambda db: db.execute("SELECT * FROM meta").fetchall()) == []


async def test_a_bug_in_one_transaction_is_told_to_its_caller_alone(ledger: Ledger) -> None:
    """Whatever else failed in its group: what was entered is not said to have failed."""

    def bug(_: sqlite3.Connection) -> None:
        raise OverflowError

    def refused(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO no_such_table VALUES (1)")

    ended = await asyncio.gather(
        *(ledger.enter(SNAPSHOT), ledger.enter_names({("eu", "a"): "orders"})),
        *(ledger.run(bug), ledger.run(refused), ledger.enter_names({("eu", "b"): "events"})),
        return_exceptions=True,
    )

    assert [type(each) for each in ended] == [type(None), type(None), OverflowError, StorageError, type(None)]
    assert await ledger.names() == {("eu", "a"): "orders", ("eu", "b"): "events"}


async def test_what_was_handed_in_before_the_end_is_done(ledger: Ledger, tmp_path: Path) -> None:
    tasks = [asyncio.create_task(ledger.enter_names({("eu", str(at)): "orders"})) for at in range(100)]
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*tasks)

    assert one_row(tmp_path, "SELECT count(*) FROM names") == (100,)


async def test_files_without_a_checksum_are_never_the_same(ledger: Ledger) -> None:
    """Equal lengths prove nothing."""
    later = replace(FILE, updated_at=NOW + timedelta(minutes=20))
    await ledger.enter(replace(SNAPSHOT, md5=""))

    same = await ledger.promise(replace(SNAPSHOT, md5="", file=later, key=paths.key(later), path=paths.key(later)))
    assert same is None


@pytest.mark.parametrize(
    ("minute", "md5", "beside"),
    [
        (-10, "aa", 0),
        (-10, "bb", None),
        (10, "aa", 0),
        (10, "bb", 30),
        (10, "cc", None),
        (70, "cc", 60),
        (70, "bb", None),
    ],
)
async def test_a_late_file_is_compared_with_the_one_before_it_and_the_one_after(
    ledger: Ledger, minute: int, md5: str, beside: int | None
) -> None:
    """Published are, at minute 0, 30 and 60, the bytes aa, bb and cc."""

    def at(minute: int, md5: str) -> Snapshot:
        file = replace(FILE, updated_at=NOW + timedelta(minutes=minute))
        return replace(SNAPSHOT, file=file, key=paths.key(file), path=paths.key(file), md5=md5)

    await ledger.enter(at(0, "aa"), at(60, "cc"), at(30, "bb"))

    same = None if beside is None else at(beside, "").path
    assert (await ledger.same_beside(at(minute, md5)), await ledger.promise(at(minute, md5))) == (same, same)


async def test_a_promise_that_is_insisted_on_is_noted_though_the_bytes_are_the_same(ledger: Ledger) -> None:
    later = replace(FILE, updated_at=NOW + timedelta(minutes=20))
    again = replace(SNAPSHOT, file=later, key=paths.key(later), path=paths.key(later))
    await ledger.enter(SNAPSHOT)

    same = [await ledger.promise(again), await ledger.promise(again, even_if_same=True)]
    assert (same, await ledger.promised()) == ([SNAPSHOT.path, None], (again,))


async def test_a_promise_is_no_entry(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)

    assert ((await ledger.known(SNAPSHOT.key)).held, await ledger.promise(SNAPSHOT)) == (False, None)


async def test_a_promise_is_remembered_whole(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)

    assert await ledger.promised() == (SNAPSHOT,)


async def test_a_promise_that_was_kept_is_none_any_more(ledger: Ledger) -> None:
    await ledger.promise(SNAPSHOT)
    await ledger.enter(SNAPSHOT)

    assert (await ledger.promised(), (await ledger.known(SNAPSHOT.key)).held) == ((), True)


async def test_an_entry_is_the_same_with_a_promise_before_it_and_without(ledger: Ledger, tmp_path: Path) -> None:
    told = replace(SNAPSHOT, first_at=NOW - timedelta(hours=2), last_at=NOW - timedelta(hours=1))
    await ledger.enter(told)
    alone = one_row(tmp_path, "SELECT * FROM snapshots")
    await ledger.promise(SNAPSHOT, even_if_same=True)
    await ledger.enter(told)

    assert one_row(tmp_path, "SELECT * FROM snapshots") == alone


@pytest.mark.parametrize(
    "change", [{"md5": "dd"}, {"size": 11}, {"path": "another/node.log"}, {"stored_at": NOW + timedelta(minutes=1)}]
)
async def test_an_entry_does_not_pass_for_what_was_promised_before_it(
    ledger: Ledger, tmp_path: Path, change: dict[str, Any]
) -> None:
    """A promise may be of an earlier process, whose file was another."""
    entered = replace(SNAPSHOT, **change)
    await ledger.promise(replace(SNAPSHOT, attempts=7))
    await ledger.enter(entered)

    row = one_row(tmp_path, "SELECT attempts, md5, size, path, stored_ms FROM snapshots WHERE published")
    stored_ms = round(entered.stored_at.timestamp() * 1000)
    assert row == (SNAPSHOT.attempts, entered.md5, entered.size, entered.path, stored_ms)


async def test_a_promise_can_be_taken_back_and_an_entry_cannot(ledger: Ledger) -> None:
    await ledger.enter(SNAPSHOT)
    await ledger.forget(SNAPSHOT)

    assert (await ledger.known(SNAPSHOT.key)).held


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
        await ledger.enter(replace(SNAPSHOT, file=file, key=paths.key(file), path=paths.key(file)))
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
    """Also where an earlier one had a later run, since the clock was wrong."""
    for minutes in (0, 20, 10):
        await ledger.close_cycle(report(), tick=NOW + timedelta(minutes=minutes))

    assert await ledger.last_ticks() == {"orders": NOW + timedelta(minutes=10)}


async def test_a_tick_whose_cycle_asked_for_nothing_is_still_to_come(ledger: Ledger) -> None:
    """It was put off, which only the process knew."""
    for minutes, outcome in ((0, CycleOutcome.OK), (10, CycleOutcome.CACHED)):
        at = NOW + timedelta(minutes=minutes)
        await ledger.close_cycle(report(at=at, outcome=outcome), tick=at)

    assert await ledger.last_ticks() == {"orders": NOW}


async def test_failures_count_from_the_first_one_on(ledger: Ledger, tmp_path: Path) -> None:
    for minutes in (0, 20, 40):
        await ledger.close_cycle(report(at=NOW + timedelta(minutes=minutes), failed=("a",)), tick=NOW)

    (failure,) = known_failures(tmp_path)["orders"]
    assert (failure.times, failure.last - failure.since, failure.reason) == (3, timedelta(minutes=40), "a failed")


async def test_a_node_that_succeeds_fails_no_more_while_another_still_does(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.close_cycle(report(failed=("a", "b")), tick=NOW)
    await ledger.close_cycle(report(failed=("b",)), tick=NOW)

    assert [(failure.node, failure.times) for failure in known_failures(tmp_path)["orders"]] == [("b", 2)]


async def test_a_cycle_that_failed_as_a_whole_says_nothing_of_its_nodes(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.close_cycle(report(failed=("a",)), tick=NOW)
    await ledger.close_cycle(report(outcome=CycleOutcome.FAILED, error="gone"), tick=NOW)

    failures = known_failures(tmp_path)["orders"]
    assert [(failure.node, failure.kind) for failure in failures] == [("", "gone"), ("a", "corrupt")]


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


def test_a_file_that_is_no_ledger_is_closed_when_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    file.write_bytes(b"no database" * 1000)

    with pytest.raises(sqlite3.DatabaseError) as refused:
        database.read_only(file)
    opened = [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.readlink() == file]
    assert (opened, str(refused.value)) == ([], "file is not a database")  # refused holds the frame, and what is in it


async def test_an_older_ledger_is_brought_up(tmp_path: Path) -> None:
    """Of what was fetched before, nobody knows how much crossed the wire."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db:
        for number in (0, 1):
            db.executescript(f"{MIGRATIONS[number]} PRAGMA user_version = {number + 1};")
        db.execute(
            "INSERT INTO snapshots VALUES ('k', 'k', 'n/*.log', 'orders', 'error', 'node-1', 'f', 1, 1, 10, 'aa', 'cc',"
            " 'e', 1, 'r', 1, 1, 1, 1, 1, 1, 0)"
        )
        db.commit()

    older = Ledger(tmp_path)
    await older.open()
    found = (await older.known("n/another.log")).newest
    await older.close()

    assert found is not None
    assert (found.key, found.size, found.delta, found.fetched) == ("k", 10, False, None)


async def test_a_file_that_is_offered_is_told_the_newest_of_its_series_that_is_published(ledger: Ledger) -> None:
    older, newer, offered = (replace(FILE, updated_at=NOW + timedelta(minutes=minutes)) for minutes in (-20, 20, 40))
    older_one, newer_one = (
        replace(SNAPSHOT, file=file, key=paths.key(file), path=paths.key(file)) for file in (older, newer)
    )
    await ledger.enter(SNAPSHOT)
    await ledger.enter(older_one)
    await ledger.promise(newer_one)

    found = [await ledger.known(key) for key in (paths.key(offered), SNAPSHOT.key, "another/node.log")]

    assert found == [Known(held=False, newest=SNAPSHOT), Known(held=True, newest=None), Known(held=False, newest=None)]


@pytest.mark.usefixtures("ledger")
async def test_it_is_in_wal_mode_and_only_ours_to_read(tmp_path: Path) -> None:
    mode = one_row(tmp_path, "PRAGMA journal_mode")[0]

    assert (mode, (tmp_path / "ledger.sqlite3").stat().st_mode & 0o777) == ("wal", 0o600)
    assert known_failures(tmp_path) == {}


async def test_damage_that_shows_in_the_middle_of_work_is_put_aside_and_the_work_is_done(
    ledger: Ledger, tmp_path: Path
) -> None:
    """As a disk does that loses a page while the daemon runs."""
    await ledger.enter(SNAPSHOT)
    overwrite_all_pages(tmp_path)

    later = replace(FILE, file_name="later")
    with structlog.testing.capture_logs() as events:
        await ledger.enter(replace(SNAPSHOT, file=later, key=paths.key(later), path=paths.key(later)))

    told = [(event["event"], "it is rebuilt" in event["todo"]) for event in events]
    assert (told, (await ledger.known(paths.key(later))).held, (tmp_path / "ledger.sqlite3.damaged-1").exists()) == (
        [("ledger.damaged", True)],
        True,
        True,
    )


def overwrite_all_pages(directory: Path) -> None:
    """Move everything out of the WAL, so that it is read from the file again, and destroy the file in place."""
    with closing(sqlite3.connect(directory / "ledger.sqlite3")) as db:
        db.execute("UPDATE snapshots SET size = size + 1")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path = directory / "ledger.sqlite3"
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


async def test_a_refused_row_is_no_damage(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="NOT NULL"):
        await ledger.enter(replace(SNAPSHOT, md5=None))  # type: ignore[arg-type]  # a bug of ours

    assert not (tmp_path / "ledger.sqlite3.damaged-1").exists()


async def test_damage_is_found_at_an_open_after_a_clean_end_too(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(300):
        file = replace(FILE, file_name=f"file-{number}")
        await ledger.enter(replace(SNAPSHOT, file=file, key=paths.key(file), path=paths.key(file)))
    await ledger.close()
    with (tmp_path / "ledger.sqlite3").open("r+b") as pages:
        pages.seek(8192)
        pages.write(b"\xff" * 65536)

    again = Ledger(tmp_path)
    known = await again.open()
    await again.close()
    assert (known, (tmp_path / "ledger.sqlite3.damaged-1").exists()) == (False, True)


async def test_an_empty_file_holds_nothing_that_was_known(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").touch()
    ledger = Ledger(tmp_path)

    known = await ledger.open()

    await ledger.close()
    assert not known


async def test_what_succeeded_before_the_cycle_failed_as_a_whole_fails_no_more(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.close_cycle(report(failed=("node-1", "a", "node-2")), tick=NOW)
    second = replace(FILE, node="node-2")
    broken = report(outcome=CycleOutcome.FAILED, error="gone")

    await ledger.close_cycle(
        replace(broken, outcomes=[Stored(snapshot=SNAPSHOT, fetched=1), Unchanged(file=second)]), tick=NOW
    )

    assert [failure.node for failure in known_failures(tmp_path)["orders"]] == ["", "a"]


async def test_instances_that_are_gone_leave_no_failures_and_no_nodes(ledger: Ledger, tmp_path: Path) -> None:
    for name in ("orders", "gone"):
        await ledger.enter_nodes({name: [Node(id="a", name="n1", group="shard", role="Primary")]})
        await ledger.close_cycle(replace(report(failed=("a",)), instance=name), tick=NOW)

    await ledger.forget_instances({"orders"})

    nodes = one_row(tmp_path, "SELECT group_concat(instance) FROM nodes")
    assert (list(known_failures(tmp_path)), nodes) == (["orders"], ("orders",))


async def test_entries_that_nothing_asks_for_are_dropped_and_each_series_keeps_its_newest(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Of node-1 a newer one is known; node-2 exported nothing since; the file of node-3 is there still."""
    there = ""
    for node, days in (("node-1", 40), ("node-1", 29), ("node-2", 50), ("node-2", 40), ("node-3", 40), ("node-3", 1)):
        at = NOW - timedelta(days=days)
        file = replace(FILE, node=node, updated_at=at)
        there = paths.key(file) if (node, days) == ("node-3", 40) else there
        await ledger.enter(replace(SNAPSHOT, file=file, key=paths.key(file), path=paths.key(file), stored_at=at))
    await ledger.reconcile({"snapshots/orders": [there]}, is_there=lambda key: key == there)

    await ledger.close_cycle(report(), tick=NOW)

    kept = one_row(
        tmp_path, "SELECT group_concat(node || ' ' || ((1767323045678 - updated_ms) / 86400000)) FROM snapshots"
    )
    assert kept == ("node-1 29,node-2 40,node-3 40,node-3 1",)


@pytest.mark.usefixtures("ledger")
async def test_the_drop_of_old_entries_reads_an_index(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db:
        plan = " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {DROP_OLD}", ("orders", 1, 1)))

    assert ("snapshots_gone (instance=? AND stored_ms<?)" in plan, "SCAN" in plan) == (True, False), plan
    assert known_failures(tmp_path) == {}


async def test_a_ledger_of_another_directory_is_refused_until_its_files_have_moved(
    ledger: Ledger, tmp_path: Path
) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "snapshots").mkdir(parents=True)
    await ledger.belong_to(before)
    await ledger.enter(SNAPSHOT)

    with pytest.raises(ConfigError, match=r"set storage\.directory back, or move .* a storage\.state of its own"):
        await ledger.belong_to(now)

    before.rename(now)
    before.mkdir()  # systemd makes it again
    await ledger.belong_to(now)
    assert one_row(tmp_path, "SELECT * FROM meta") == ("directory", str(now))


async def test_a_ledger_without_snapshots_goes_to_any_directory(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "before" / "snapshots").mkdir(parents=True)
    await ledger.belong_to(tmp_path / "before")

    await ledger.belong_to(tmp_path / "now")

    assert one_row(tmp_path, "SELECT value FROM meta") == (str(tmp_path / "now"),)


# --- how exports go ---------------------------------------------------------------------------------------------------

HABIT = Habit(log=LogKind.ERROR, asked="id node", takes=(12.5, 13.0), fresh_until=NOW)
SLOW = Habit(log=LogKind.SLOW, asked="id")


async def test_what_a_cycle_learned_is_kept_for_each_kind_of_log(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.close_cycle(replace(report(), habits=[HABIT, SLOW]), tick=NOW)
    await ledger.close_cycle(replace(report(), habits=[replace(SLOW, takes=(9.0,))]), tick=NOW)
    await ledger.close_cycle(report(), tick=NOW)
    again = Ledger(tmp_path)
    habits = await again.habits()
    await again.close()

    assert habits == {("orders", LogKind.ERROR): HABIT, ("orders", LogKind.SLOW): replace(SLOW, takes=(9.0,))}


async def test_how_exports_of_an_instance_went_is_forgotten_with_it(ledger: Ledger) -> None:
    await ledger.close_cycle(replace(report(), habits=[HABIT]), tick=NOW)
    await ledger.close_cycle(replace(report(), instance="events", habits=[HABIT]), tick=NOW)

    await ledger.forget_instances({"events"})

    assert list(await ledger.habits()) == [("events", LogKind.ERROR)]


async def test_a_file_of_an_older_version_is_brought_up_and_keeps_what_it_holds(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as db:
        for number, schema in enumerate(MIGRATIONS[:2], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        db.execute("INSERT INTO names VALUES ('eu', 'id', 'orders')")

    ledger = Ledger(tmp_path)
    known = await ledger.open()
    await ledger.close_cycle(replace(report(), habits=[HABIT]), tick=NOW)
    found = await ledger.names(), await ledger.habits()
    await ledger.close()

    assert (known, found) == (True, ({("eu", "id"): "orders"}, {("orders", LogKind.ERROR): HABIT}))
