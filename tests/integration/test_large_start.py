"""A start reads no more of a large ledger than of a small one, and cycles wait for their own instance's files only."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import structlog

from bench.books import names, write_books, write_files
from ddslogd.sandbox import replica_set, single
from ddslogd.storage import paths
from ddslogd.storage.ledger.snapshot_records import FILE_NAME, Ledger
from ddslogd.storage.ledger.stream_records import BEHIND, StreamBook
from ddslogd.storage.recovery import Recovery
from ddslogd.storage.snapshots.store import Store
from support.clocks import START
from support.live_settings import live_settings

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import pytest

    from support.clocks import ManualClock
    from support.testbed import Bed

INSTANCES = 10


async def steps_of_a_start(tmp_path: Path, *, snapshots: int) -> int:
    """Return how many steps SQLite takes for all that a start asks the ledger, the streams' catching up included."""
    state = tmp_path / str(snapshots)
    write_books(state, tmp_path / "logs", instances=INSTANCES, snapshots=snapshots, now=START, cycles=5)
    ledger, steps = Ledger(state), 0

    def count() -> None:
        nonlocal steps
        steps += 1

    await ledger.open()
    await ledger.run(lambda db: db.set_progress_handler(count, 1))
    await ledger.belong_to(tmp_path / "logs")
    await ledger.promised()
    await ledger.last_ticks()
    await ledger.forget_instances(set(names(INSTANCES)))
    await ledger.directories()
    await StreamBook(ledger).behind(born_until=START)
    await ledger.close()
    return steps


async def test_what_a_start_asks_the_ledger_does_not_grow_with_its_snapshots(tmp_path: Path) -> None:
    """Only ``planned`` and the check after a crash do, and nothing waits for them but what is removed."""
    few, many = [await steps_of_a_start(tmp_path, snapshots=number) for number in (300, 6000)]

    assert (few > 100, many <= few * 1.1) == (True, True), (few, many)


async def test_streams_that_are_behind_are_found_by_their_index(tmp_path: Path) -> None:
    write_books(tmp_path, tmp_path / "logs", instances=1, snapshots=3, now=START, cycles=1)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        plan = " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {BEHIND}", (0, False)))

    assert "USING INDEX snapshots_to_take" in plan, plan


class CountingStore(Store):
    """Notes which directories are looked through."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, settings=live_settings())
        self.seen: list[str] = []

    def survey(self, instance: str, now: datetime) -> tuple[str, ...]:
        self.seen.append(instance)
        return super().survey(instance, now)


async def test_a_first_cycle_looks_through_its_own_directory_and_each_is_looked_through_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    write_books(tmp_path / "state", tmp_path / "logs", instances=50, snapshots=450, now=START, cycles=1)
    write_files(tmp_path / "logs", instances=50, snapshots=450, now=START)
    store, ledger = CountingStore(tmp_path / "logs"), Ledger(tmp_path / "state")
    recovery = Recovery(store, ledger, names=names(50), clock=clock)

    await recovery.of("db-00030")
    first = list(store.seen)
    await asyncio.gather(recovery.whole(), recovery.of("db-00049"), recovery.of("db-00030"), recovery.whole())
    await recovery.of("db-00007")
    await ledger.close()

    assert (first, sorted(store.seen)) == (["db-00030"], names(50))


def flags(bed: Bed) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(bed.state / FILE_NAME)) as db:
        return db.execute("SELECT node, present FROM snapshots ORDER BY node").fetchall()


async def test_files_that_went_while_nobody_ran_are_noted_although_their_directories_went_too(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("trio", nodes=2), single("solo"))) as cloud:
        for node in ("trio_replica_node_1", "trio_replica_node_2", "solo_single_node_1"):
            cloud.write(node, b"a line\n")
        for name in ("trio", "solo"):
            await bed.collect(name)
        for path in bed.files():
            if path.parent.name != "trio_replica_node_2":
                path.unlink()
                path.parent.rmdir()
        (bed.directory / "snapshots" / "solo" / paths.OWNER).unlink()
        (bed.directory / "snapshots" / "solo").rmdir()

        async with bed.open() as service:
            await service._archive.recovery.whole()

    assert flags(bed) == [("solo_single_node_1", 0), ("trio_replica_node_1", 0), ("trio_replica_node_2", 1)]


class BusyStore(Store):
    """While it looks through a directory, somebody publishes a file there and enters it."""

    def survey(self, instance: str, now: datetime) -> tuple[str, ...]:
        found = super().survey(instance, now)
        return (*(key for key in found if "node_1/" not in key), f"snapshots/{instance}/gone_node/{STRAY}")


STRAY = "errorlog.20260102T030400.000Z.log"


async def test_what_came_or_went_meanwhile_is_looked_at_again(tmp_path: Path, clock: ManualClock) -> None:
    """A file that was not seen and is there counts as there; one that was seen and is gone is no stranger."""
    write_books(tmp_path / "state", tmp_path / "logs", instances=1, snapshots=9, now=START, cycles=1)
    write_files(tmp_path / "logs", instances=1, snapshots=9, now=START)
    store = BusyStore(tmp_path / "logs", settings=live_settings())
    ledger = Ledger(tmp_path / "state")
    with structlog.testing.capture_logs() as events:
        await Recovery(store, ledger, names=[], clock=clock).whole()
    present = await ledger.run(lambda db: db.execute("SELECT sum(present), count(*) FROM snapshots").fetchone())
    await ledger.close()

    assert (events, present) == ([], (9, 9))


async def test_a_promise_that_a_cycle_is_keeping_is_not_adopted(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has its name already, and its entry is on its way."""
    monkeypatch.setenv("DDSLOGD_TOKEN", bed.sandbox.issue_token())
    bed.sandbox.write("solo_single_node_1", b"a line\n")
    await bed.collect()
    ledger = Ledger(bed.state)
    await ledger.run(lambda db: db.execute("UPDATE snapshots SET published = 0"))
    store = Store(bed.directory, settings=live_settings())
    with structlog.testing.capture_logs() as events:
        await Recovery(store, ledger, names=[], clock=bed.clock).whole()
    kept = await ledger.promised()
    await ledger.close()

    assert (events, len(kept), tmp_path.exists()) == ([], 1, True)


class SlowStore(Store):
    """Looks through a directory for as long as it is held, and to its end."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, settings=live_settings())
        self.reached, self.go, self.under_way = threading.Event(), threading.Event(), False

    def survey(self, instance: str, now: datetime) -> tuple[str, ...]:
        self.under_way = True
        self.reached.set()
        self.go.wait(10)
        found = super().survey(instance, now)
        self.under_way = False
        return found


async def test_a_cycle_that_is_cancelled_while_files_are_looked_through_lets_no_other_begin_before_that_is_over(
    tmp_path: Path, clock: ManualClock
) -> None:
    """As by a reload, or by ``cycle_timeout``: the thread that goes on would sweep the parts that the other makes."""
    store, ledger = SlowStore(tmp_path), Ledger(tmp_path)
    recovery = Recovery(store, ledger, names=["orders"], clock=clock)
    first = asyncio.create_task(recovery.of("orders"))
    await asyncio.to_thread(store.reached.wait, 10)
    first.cancel()
    second = asyncio.create_task(recovery.of("orders"))
    over, _ = await asyncio.wait([first, second], timeout=0.2)
    store.go.set()
    await asyncio.wait([first, second])
    await ledger.close()
    store.close()

    assert (over, first.cancelled(), second.exception(), store.under_way) == (set(), True, None, False)
