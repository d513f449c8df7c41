"""One continuous log per node: what is on disk after cycles, and after all that can go wrong between them."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import random
import resource
import sqlite3
import threading
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import structlog

from ddslogd.config.settings import Rotate
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import StorageError
from ddslogd.model.instance import Every, LogKind
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.model.stream import Advance, Gap, GapCause
from ddslogd.sandbox import ApiError, replica_set
from ddslogd.storage import paths
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.stream_records import StreamBook
from ddslogd.storage.streams.overlap import TIMED_REACH
from ddslogd.storage.streams.stream_writer import COMPARED, Origin, Streams
from support.live_settings import live_settings
from support.log_streams import NODE, T0, cycle, files_in, line, lines, stream, stream_files
from support.testbed import known_gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

T = TypeVar("T")
ORIGIN = Origin(schedule=Every(interval=timedelta(minutes=20)), key="6ade8143870047b8999aba8f1891b48ein02")


async def test_a_stream_has_each_line_once_while_exports_grow_and_slide(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=6000) as cloud, bed.open():
        for generation in range(30):
            cloud.write(NODE, lines(generation * 20, generation * 20 + 20))
            await cycle(bed, clock)

        assert (len(bed.files()), stream(bed), known_gaps(bed.state)) == (30, cloud.log_of(NODE), ())


async def test_thirty_exports_with_cuts_restarts_and_rotations_are_one_log(bed: Bed, clock: ManualClock) -> None:
    """Exports are cut anywhere, transfers break, the daemon starts again, files rotate away, a line comes in halves."""
    chance = random.Random(5)
    async with bed.cloud(window=6000) as cloud:
        bed.set("instances:", "stream: {rotate: {size: 9KiB}}\ninstances:")
        written = 0
        for generation in range(30):
            log = lines(written, written := written + chance.randrange(5, 25))
            half = chance.randrange(len(log))
            cloud.write(NODE, log[:half])
            cloud.faults.cut_after = [chance.randrange(1, 3000) for _ in range(generation % 3)]
            await cycle(bed, clock)  # in a daemon of its own
            cloud.write(NODE, log[half:])
        await cycle(bed, clock)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())
    assert len(stream_files(bed)) > 3


async def test_each_kind_of_log_and_each_node_has_its_own_stream(bed: Bed, clock: ManualClock) -> None:
    fleet = (replica_set("solo", nodes=2),)
    async with bed.cloud(fleet=fleet) as cloud:
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        names = [node.name for node in cloud.fleet[0].nodes]
        for number, name in enumerate(names):
            cloud.write(name, lines(number * 100, number * 100 + 10))
            cloud.write(name, lines(number * 100 + 50, number * 100 + 60), kind="slow")
        await cycle(bed, clock)

        found = {(name, ending): stream(bed, name, ending) for name in names for ending in (".log", ".slow.log")}
        expected = {(name, ".log"): cloud.log_of(name) for name in names} | {
            (name, ".slow.log"): cloud.log_of(name, "slow") for name in names
        }
        assert found == expected


async def test_of_two_files_of_a_node_the_older_comes_first_though_it_takes_longer(
    bed: Bed, clock: ManualClock
) -> None:
    """The cloud exports a node again while its file is on the way; here the older one is the second node's."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as cloud:
        (first, first_id), (second, second_id) = ((node.name, node.id) for node in cloud.fleet[0].nodes)
        ready = iter(range(1))

        def renamed(reply: dict[str, Any]) -> dict[str, Any]:
            newer, older = reply["list"]
            if not (newer["file_link"] and older["file_link"]):
                return reply
            if next(ready, None) is None:
                return {**reply, "list": [newer]}
            older |= {"node_name": first, "updated_at": str(int(older["updated_at"]) - 60_000)}
            older["file_name"] = older["file_name"].replace(second_id, first_id)
            return {"list": [older], "status": "CREATING"}

        cloud.faults.mangle = renamed
        cloud.faults.bytes_per_second = 200_000
        cloud.write(first, lines(1000, 1010))
        cloud.write(second, lines(0, 800))
        await cycle(bed, clock)

        assert stream(bed, first) == lines(0, 800) + lines(1000, 1010)


async def test_of_a_lost_ledger_older_snapshots_than_the_stream_are_not_taken_again(
    bed: Bed, clock: ManualClock
) -> None:
    """Not even those of which the live file has nothing any more."""
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", "stream: {rotate: {size: 1KiB}}\ninstances:")
        for generation in range(8):
            cloud.write(NODE, lines(generation * 10, generation * 10 + 10))
            await cycle(bed, clock)
        for path in bed.state.iterdir():
            path.unlink()
        cloud.write(NODE, lines(80, 90))
        await cycle(bed, clock)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_a_ledger_that_is_damaged_while_running_doubles_nothing_after_the_next_start(
    bed: Bed, clock: ManualClock
) -> None:
    """The new one knows the stream by then, and the old snapshots come back to it."""
    async with bed.cloud(window=1500) as cloud:
        for generation in range(12):
            cloud.write(NODE, lines(generation * 10, generation * 10 + 10))
            if generation == 8:
                async with bed.open():
                    with (bed.state / "ledger.sqlite3").open("r+b") as file:
                        file.write(bytes(8192))
                    await cycle(bed, clock)
            else:
                with structlog.testing.capture_logs() as events:
                    await cycle(bed, clock)
                assert [event for event in events if event["event"] == "stream.passed_over"] == []

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_snapshots_that_a_start_adopts_are_not_taken_again(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=1500) as cloud:
        for generation in range(6):
            cloud.write(NODE, lines(generation * 10, generation * 10 + 10))
            await cycle(bed, clock)
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
            db.execute("DELETE FROM snapshots WHERE updated_ms < (SELECT max(updated_ms) FROM snapshots)")
        cloud.write(NODE, lines(60, 70))
        with structlog.testing.capture_logs() as events:
            await cycle(bed, clock)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())
    warned = [event["event"] for event in events if event["log_level"] == "warning"]
    assert warned == ["ledger.adopted"]


async def test_an_export_that_has_the_bytes_of_one_that_was_removed_is_stored(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """Removed before its stream had taken it: its lines are nowhere else."""
    async with bed.open():
        sandbox.write(NODE, lines(0, 10))
        await cycle(bed, clock)
        bed.files()[0].unlink()
        report = await cycle(bed, clock)

    assert (report.stored, [path.read_bytes() for path in bed.files()]) == (1, [lines(0, 10)])


async def test_snapshots_that_come_back_to_the_ledger_are_not_taken_again(shelf: Shelf) -> None:
    """Nor is one word said of them."""
    entries = []
    for number in range(0, 60, 20):
        entries.append(await shelf.give(lines(number, number + 25)))
        await shelf.take()
    with closing(sqlite3.connect(shelf.directory / "ledger.sqlite3")) as db, db:
        db.execute("DELETE FROM snapshots WHERE updated_ms < (SELECT max(updated_ms) FROM snapshots)")
    await shelf.ledger.adopt(*entries[:2])
    with structlog.testing.capture_logs() as events:
        await shelf.take()

    assert (shelf.content(), shelf.gaps(), events) == (lines(0, 65), (), [])


async def test_half_a_line_that_a_crash_left_is_completed_though_the_ledger_is_lost(
    tmp_path: Path, clock: ManualClock
) -> None:
    ledger = CountingLedger(tmp_path)
    await ledger.open()
    shelf = Shelf(tmp_path, clock, ledger, Rotate())
    await shelf.deliver(lines(0, 10))
    with shelf.live.open("ab") as file:
        file.write(line(10)[:15])
    await ledger.close()
    for path in tmp_path.glob("ledger*"):
        path.unlink()

    again = CountingLedger(tmp_path)
    await again.open()
    shelf = Shelf(tmp_path, clock, again, Rotate())
    await shelf.deliver(lines(5, 15))
    await again.close()

    assert (shelf.live.read_bytes(), shelf.rotated) == (lines(0, 15), [])


async def test_a_gap_is_kept_told_counted_and_bounded_by_the_log_s_own_times(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """The line that waited for its end is kept, and so is what is left of the one that the gap cut."""
    async with bed.cloud(window=3000) as cloud, bed.open():
        cloud.write(NODE, lines(0, 10) + line(10)[:30])
        await cycle(bed, clock)
        cloud.write(NODE, line(10)[30:] + lines(11, 300))
        with structlog.testing.capture_logs() as events:
            report = await cycle(bed, clock)

        rest = cloud.log_of(NODE)[-3000:]
        first_whole = rest.index(b"\n") + 1
        after = datetime.fromisoformat(json.loads(rest[first_whole:].splitlines()[0])["t"]["$date"])
        (gap,) = known_gaps(bed.state)
        assert stream(bed) == lines(0, 10) + line(10)[:30] + b"\n" + rest
    assert (gap.after, gap.until, gap.cause, gap.cut) == (
        T0 + timedelta(seconds=9),
        after,
        GapCause.WINDOW_OVERFLOW,
        True,
    )
    told = [event for event in events if event["event"] == "stream.gap"]
    assert (report.gaps, report.outcome, [event["log_level"] for event in told]) == (1, CycleOutcome.OK, ["warning"])
    assert sandbox.calls["errorlog-download"] == 0


async def test_without_streams_there_are_snapshots_alone_and_later_all_are_taken(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=3000) as cloud:
        bed.set("instances:", "stream: {enabled: false}\ninstances:")
        for generation in range(3):
            cloud.write(NODE, lines(generation * 10, generation * 10 + 10))
            await cycle(bed, clock)
        before = stream_files(bed)
        bed.set("stream: {enabled: false}", "stream: {enabled: true}")
        cloud.write(NODE, lines(30, 40))
        await cycle(bed, clock)

        assert (before, stream(bed), known_gaps(bed.state)) == ([], cloud.log_of(NODE), ())


async def test_of_a_lost_ledger_the_stream_goes_on_where_it_ends(bed: Bed, clock: ManualClock) -> None:
    """What it has is on disk: nothing is appended twice, whether or not the snapshots are there still."""
    async with bed.cloud(window=3000) as cloud:
        for generation in range(4):
            cloud.write(NODE, lines(generation * 10, generation * 10 + 10))
            await cycle(bed, clock)
        for path in bed.state.iterdir():
            path.unlink()
        cloud.write(NODE, lines(40, 50))
        await cycle(bed, clock)
        for path in [*bed.state.iterdir(), *bed.files()]:
            path.unlink()
        cloud.write(NODE, lines(50, 60))
        await cycle(bed, clock)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_a_stream_that_is_behind_is_brought_up_by_the_next_start(bed: Bed, clock: ManualClock) -> None:
    """Not only by the next cycle of its instance, which may be far, or may never come."""
    async with bed.cloud() as cloud:
        cloud.write(NODE, lines(0, 10))
        bed.set("instances:", "stream: {enabled: false}\ninstances:")
        await cycle(bed, clock)
        bed.set("stream: {enabled: false}", "stream: {enabled: true}")
        async with bed.open() as service:
            await service._catch_up()

        assert stream(bed) == cloud.log_of(NODE)


async def test_the_file_of_a_node_that_no_cycle_brings_any_more_is_closed_by_age(bed: Bed, clock: ManualClock) -> None:
    """Else a shipper would hold it open for ever, and retention would keep it as the newest."""
    async with bed.cloud() as cloud:
        cloud.write(NODE, lines(0, 10))
        await cycle(bed, clock)
    bed.set('name: "solo"', 'name: "another"')
    behind, states = [], []
    for hours in (22, 2):
        clock.forward(hours=hours)
        async with bed.open() as service:
            await service._catch_up()
            behind.append(await service._archive.streams.behind())
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
            states += db.execute("SELECT size, closed FROM streams").fetchall()

    assert (behind, states) == ([(), ()], [(len(lines(0, 10)), 0), (0, 1)])
    assert stream(bed) == lines(0, 10)


@pytest.mark.parametrize(
    ("known", "cause"),
    [(True, GapCause.WINDOW_OVERFLOW), (False, GapCause.DAEMON_DOWN)],
    ids=["configured", "not configured any more"],
)
async def test_the_hourly_look_notes_gaps_and_judges_them_by_the_schedule_of_the_instance(
    bed: Bed, clock: ManualClock, cause: GapCause, *, known: bool
) -> None:
    """Five hours between two exports are as they should be once a week; of who is not known, the default counts."""
    async with bed.cloud(window=3000) as cloud:
        bed.set("instances:", "stream: {enabled: false}\ninstances:")
        bed.set('name: "solo"', 'name: "solo"\n    every: 7d')
        for first, end in ((0, 10), (10, 300)):
            clock.forward(hours=5)
            cloud.write(NODE, lines(first, end))
            await bed.collect()
        bed.set("stream: {enabled: false}", "stream: {enabled: true}")
        if not known:
            bed.set('name: "solo"', 'name: "another"')
        with structlog.testing.capture_logs() as events:
            async with bed.open() as service:
                await service._catch_up()

    (gap,) = known_gaps(bed.state)
    assert (gap.instance, gap.node, gap.cause) == ("solo", NODE, cause)
    assert [(event["instance"], event["cause"]) for event in events if event["event"] == "stream.gap"] == [
        ("solo", cause.value)
    ]
    assert stream(bed) == b"".join(bed.contents())


async def test_an_instance_that_is_gone_leaves_a_gap_without_an_end_told_of_once(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.write(NODE, lines(0, 10))
    async with bed.open():
        await cycle(bed, clock)
        sandbox.faults.api_errors = [ApiError(404, "DBS.200002")] * 2
        with structlog.testing.capture_logs() as events:
            await cycle(bed, clock)
            noted = clock.now()
            await cycle(bed, clock)

    assert [event["cause"] for event in events if event["event"] == "stream.gap"] == ["instance gone"]
    (gap,) = known_gaps(bed.state)
    assert (gap.cause, gap.after, gap.until) == (GapCause.INSTANCE_GONE, T0 + timedelta(seconds=9), None)
    assert (gap.noted_at, stream(bed)) == (noted, lines(0, 10))


@pytest.mark.parametrize(("written", "expected"), [(5, []), (300, [GapCause.INSTANCE_GONE])])
async def test_an_instance_that_comes_back_has_a_gap_if_lines_are_missing_and_else_none(
    bed: Bed, clock: ManualClock, written: int, expected: list[GapCause]
) -> None:
    async with bed.cloud(window=3000) as cloud, bed.open():
        cloud.write(NODE, lines(0, 10))
        await cycle(bed, clock)
        cloud.faults.api_errors = [ApiError(404, "DBS.200002")]
        await cycle(bed, clock)
        cloud.write(NODE, lines(10, 10 + written))
        await cycle(bed, clock)

    found = known_gaps(bed.state)
    assert ([gap.cause for gap in found], all(gap.until for gap in found)) == (expected, True)


# --- streams alone ----------------------------------------------------------------------------------------------------


class CountingLedger(Ledger):
    """Counts its transactions."""

    transactions = 0

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T:
        self.transactions += 1
        return await super().run(transaction)


class Shelf:
    """A ledger, snapshots that the test makes, and their streams."""

    def __init__(self, directory: Path, clock: ManualClock, ledger: CountingLedger, rotate: Rotate) -> None:
        self.directory = directory
        self.clock = clock
        self.ledger = ledger
        self.settings = live_settings(stream={"rotate": rotate})
        self.streams = Streams(directory, ledger=ledger, settings=self.settings, clock=clock)
        self.advances: list[Advance] = []

    def file(self, node: str = "node", log: LogKind = LogKind.ERROR) -> LogFile:
        """Name a snapshot that the cloud makes a minute later than the last."""
        self.clock.forward(minutes=1)
        return LogFile(instance="orders", log=log, node=node, file_name="f", updated_at=self.clock.now())

    async def give(self, content: bytes, file: LogFile | None = None) -> Snapshot:
        """Publish a snapshot; its stream does not take it yet."""
        file = file or self.file()
        key = paths.key(file)
        (self.directory / key).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / key).write_bytes(content)
        snapshot = Snapshot(
            file=file,
            key=key,
            path=key,
            size=len(content),
            md5="",
            etag="",
            verified=True,
            began_at=self.clock.now(),
            stored_at=self.clock.now(),
        )
        await self.ledger.enter(snapshot)
        return snapshot

    async def take(self, series: str = "snapshots/orders/node/*.log") -> None:
        await self.streams.catch_up(series, origin=ORIGIN, note=self.advances.append)

    async def deliver(self, *contents: bytes) -> None:
        """Publish snapshots and have each taken."""
        for content in contents:
            await self.give(content)
            await self.take()

    @property
    def link(self) -> Path:
        return self.directory / "streams" / "orders" / "node.log"

    @property
    def home(self) -> Path:
        return self.directory / "streams" / "orders" / "node"

    @property
    def files(self) -> list[Path]:
        return files_in(self.link.parent, "node")

    @property
    def live(self) -> Path:
        return self.files[-1]

    @property
    def rotated(self) -> list[Path]:
        return self.files[:-1]

    def content(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.files if path.is_file())

    def gaps(self) -> tuple[Gap, ...]:
        return known_gaps(self.directory)

    def row(self, query: str) -> tuple[Any, ...]:
        with closing(sqlite3.connect(self.directory / "ledger.sqlite3")) as db:
            row: tuple[Any, ...] = db.execute(query).fetchone()
            return row


@pytest.fixture
def rotate() -> Rotate:
    return Rotate()


@pytest.fixture
async def shelf(tmp_path: Path, clock: ManualClock, rotate: Rotate) -> AsyncIterator[Shelf]:
    ledger = CountingLedger(tmp_path)
    await ledger.open()
    yield Shelf(tmp_path, clock, ledger, rotate)
    await ledger.close()


async def test_only_whole_lines_are_appended_and_the_last_one_waits_for_its_end(shelf: Shelf) -> None:
    log = lines(0, 4)
    await shelf.deliver(log[:-20])
    first = shelf.content()
    await shelf.deliver(log)

    assert (first, shelf.content()) == (lines(0, 3), log)


async def test_an_export_without_a_whole_line_changes_nothing(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 3), line(3)[:-5])
    between = shelf.content()
    await shelf.deliver(lines(1, 5))

    assert (between, shelf.content(), shelf.gaps()) == (lines(0, 3), lines(0, 5), ())


async def test_snapshots_that_wait_are_taken_in_order_of_their_update_time(shelf: Shelf) -> None:
    older, newer = shelf.file(), shelf.file()
    await shelf.give(lines(2, 8), newer)
    await shelf.give(lines(0, 4), older)
    await shelf.take()

    assert (shelf.content(), [advance.new for advance in shelf.advances], shelf.gaps()) == (
        lines(0, 8),
        [len(lines(0, 4)), len(lines(4, 8))],
        (),
    )


async def test_an_older_export_that_comes_late_adds_nothing_and_the_next_goes_on_behind_the_newer(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(2, 6), lines(5, 12))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 12), ())


async def test_a_snapshot_with_nothing_new_is_what_the_next_one_is_compared_with(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(4, 10))
    reference = shelf.row("SELECT reference_ms FROM streams")
    await shelf.deliver(lines(8, 12))

    assert reference == (round(shelf.advances[1].file.updated_at.timestamp() * 1000),)
    assert (shelf.content(), shelf.gaps()) == (lines(0, 12), ())


async def test_lines_that_are_no_text_or_end_as_on_windows_stay_as_they_are(shelf: Shelf) -> None:
    odd = [line(number)[:-1] + b"\xff\xfe%d\x00\r\n" % number for number in range(20)]
    await shelf.deliver(b"".join(odd[:10]), b"".join(odd[3:20]))

    assert (shelf.content(), shelf.gaps()) == (b"".join(odd), ())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_an_export_that_was_cut_right_before_a_line_end_puts_no_empty_line_into_the_stream(
    shelf: Shelf, end: bytes
) -> None:
    """At a stream's beginning, at a gap, and at a gap behind half a line."""
    half = line(12)[:30]
    await shelf.deliver(end + lines(0, 4), end + lines(10, 12) + half, end + lines(20, 25), lines(24, 30))

    assert shelf.content() == lines(0, 4) + lines(10, 12) + half + b"\n" + lines(20, 30)
    assert [gap.cut for gap in shelf.gaps()] == [False, False]


async def test_an_export_that_is_nothing_but_a_line_end_and_half_a_line_changes_nothing(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 5), b"\n" + line(8)[:20], lines(3, 9))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 9), ())


async def test_what_an_advance_says(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(0, 12), lines(5, 20))

    said = [(advance.new, advance.window, advance.full, advance.took) for advance in shelf.advances]
    minute = timedelta(minutes=1)
    assert said == [
        (len(lines(0, 10)), len(lines(0, 10)), False, None),
        (len(lines(10, 12)), len(lines(0, 12)), False, minute),
        (len(lines(12, 20)), len(lines(5, 20)), True, minute),
    ]


@pytest.mark.parametrize("rotate", [Rotate(size=len(lines(0, 12)))])
async def test_the_ledger_knows_the_times_of_the_live_file_and_of_rotated_ones(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(5, 12), lines(8, 15))

    def ms(second: int) -> int:
        return round((T0 + timedelta(seconds=second)).timestamp() * 1000)

    live = shelf.row("SELECT first_ms, last_ms, delivered_ms, size FROM streams")
    part = shelf.row("SELECT first_ms, last_ms, size, path FROM stream_parts")
    assert live == (ms(12), ms(14), ms(14), len(lines(12, 15)))
    assert part == (ms(0), ms(11), len(lines(0, 12)), shelf.rotated[0].relative_to(shelf.directory).as_posix())


@pytest.mark.parametrize("rotate", [Rotate(size=1000)])
async def test_a_live_file_is_rotated_before_it_would_grow_too_large(shelf: Shelf) -> None:
    for number in range(0, 100, 5):
        await shelf.deliver(lines(max(0, number - 3), number + 5))

    sizes = [path.stat().st_size for path in shelf.rotated]
    assert (len(sizes) > 5, max(sizes) <= 1000, shelf.content()) == (True, True, lines(0, 100))


async def test_a_live_file_is_rotated_when_its_first_line_came_long_ago(shelf: Shelf, clock: ManualClock) -> None:
    await shelf.deliver(lines(0, 5), lines(0, 10))
    clock.forward(hours=24)
    await shelf.deliver(lines(0, 10))  # nothing new: nothing is rotated
    before, size = len(shelf.rotated), shelf.row("SELECT size FROM streams")
    moment = clock.now() + timedelta(minutes=1)
    await shelf.deliver(lines(5, 15))

    assert size == (0,)  # closed
    assert (before, shelf.live.name) == (0, f"{paths.stamp(moment)}.log")
    assert (shelf.rotated[0].read_bytes(), shelf.live.read_bytes()) == (lines(0, 10), lines(10, 15))


async def test_a_name_is_above_all_that_are_there_and_none_is_used_again(shelf: Shelf, clock: ManualClock) -> None:
    """Whoever made them, though the clock was set back, and also where rebuild moved them away."""
    await shelf.deliver(lines(0, 5))
    first = shelf.live
    await shelf.streams.rebuild("snapshots/orders/node/*.log", origin=ORIGIN, note=shelf.advances.append)
    clock.forward(hours=-30)
    await shelf.streams.rebuild("snapshots/orders/node/*.log", origin=ORIGIN, note=shelf.advances.append)
    second = shelf.live
    taken = shelf.home / "20300102T030405.678Z.log"
    taken.write_bytes(b"somebody's\n")
    shelf.settings.current = live_settings(stream={"rotate": Rotate(size=1)}).current
    await shelf.deliver(lines(0, 6), lines(0, 7))

    assert first.name < second.name
    assert taken.read_bytes() == b"somebody's\n"
    assert [path.name for path in shelf.files[-2:]] == ["20300102T030405.679Z.log", "20300102T030405.680Z.log"]


@pytest.mark.parametrize("rotate", [Rotate(size=1000)])
async def test_a_shipper_that_follows_the_file_reads_each_line_once_across_rotations(shelf: Shelf) -> None:
    """It holds the file open, and takes the next one when the name is another file's."""
    read, file = b"", None
    for number in range(0, 60, 5):
        await shelf.deliver(lines(max(0, number - 3), number + 5))
        file = file or shelf.link.open("rb")  # open over rotations, as shippers do
        read += file.read()
        if os.fstat(file.fileno()).st_ino != shelf.link.stat().st_ino:
            file.close()
            file = shelf.link.open("rb")
            read += file.read()
    assert file is not None
    file.close()

    assert (read, len(shelf.rotated) > 2) == (lines(0, 60), True)


def take_away(path: Path, how: str) -> None:
    match how:
        case "unlink":
            path.unlink()
        case "rename":
            path.rename(path.with_name("taken away"))
        case "link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to("elsewhere")
        case _:
            os.truncate(path, 0)


AWAY = ["unlink", "rename", "truncate", "link"]


@pytest.mark.parametrize("how", AWAY)
async def test_after_a_file_that_was_taken_away_the_next_begins(shelf: Shelf, how: str) -> None:
    """An operator's own log rotation loses and doubles nothing, and no path has another line at an offset."""
    await shelf.deliver(lines(0, 5))
    name = shelf.live.name
    take_away(shelf.live, how)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(2, 9))

    assert (shelf.live.name > name, shelf.live.read_bytes()) == (True, lines(5, 9))
    told = [event["event"] for event in events if event["log_level"] in {"info", "warning"}]
    assert told == ["stream.file_changed"]


@pytest.mark.parametrize("rotate", [Rotate(size=500)])
@pytest.mark.parametrize("how", AWAY)
async def test_a_file_that_is_taken_away_when_it_is_full_is_reported(shelf: Shelf, how: str) -> None:
    await shelf.deliver(lines(0, 5))
    take_away(shelf.live, how)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(2, 9), lines(6, 14))

    told = [event["event"] for event in events if event["log_level"] in {"info", "warning"}]
    assert ([path.read_bytes() for path in shelf.files[-2:]], told) == (
        [lines(5, 9), lines(9, 14)],
        ["stream.file_changed", "stream.rotated", "stream.rotated"],
    )


@pytest.mark.parametrize("rotate", [Rotate(size=500)])
@pytest.mark.parametrize("how", AWAY)
async def test_a_file_that_is_taken_away_when_the_next_is_about_to_begin_is_reported(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await shelf.deliver(lines(0, 5))
    before = shelf.live
    await _begin_and_die(shelf, lines(2, 9), monkeypatch)
    take_away(before, how)
    with structlog.testing.capture_logs() as events:
        await shelf.take()
        await shelf.deliver(lines(6, 14))

    told = [event["event"] for event in events if event["log_level"] in {"info", "warning"}]
    assert ([path.read_bytes() for path in shelf.files[-2:]], told) == (
        [lines(5, 9), lines(9, 14)],
        ["stream.file_changed", "stream.rotated", "stream.rotated"],
    )


async def test_a_file_that_others_make_at_the_same_moment_is_not_written_to(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is created once, by who writes it."""
    real, left = os.open, [b"foreign\n"]

    def racing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith("Z.log") and flags & os.O_CREAT and left:
            Path(path).write_bytes(left.pop())
        return real(path, flags, *more, **named)

    await shelf.give(lines(0, 5))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", racing)
        with pytest.raises(StorageError, match="EEXIST"):
            await shelf.take()
    await shelf.take()

    assert [path.read_bytes() for path in shelf.files] == [b"foreign\n", lines(0, 5)]


@pytest.mark.parametrize("foreign", [b"foreign\n", b"x", b"\n", b"x\n", lines(0, 40), line(5)[:40] + b"?\n"])
async def test_a_file_that_others_wrote_to_stays_as_it_is_and_the_next_begins(shelf: Shelf, foreign: bytes) -> None:
    await shelf.deliver(lines(0, 5))
    with shelf.live.open("ab") as file:
        file.write(foreign)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(2, 9))

    assert ([path.read_bytes() for path in shelf.rotated], shelf.live.read_bytes()) == (
        [lines(0, 5) + foreign],
        lines(5, 9),
    )
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["stream.file_changed"]
    assert shelf.row("SELECT path, size FROM stream_parts") == (
        shelf.rotated[0].relative_to(shelf.directory).as_posix(),
        len(lines(0, 5) + foreign),
    )


@pytest.mark.parametrize("rotate", [Rotate(size=1)])
async def test_the_link_leads_to_the_newest_file_and_comes_back_where_it_was_taken_away(shelf: Shelf) -> None:
    found = []
    for end in (5, 6, 7):
        await shelf.deliver(lines(0, end))
        found.append(shelf.link.readlink() == shelf.live.relative_to(shelf.link.parent))
    shelf.link.unlink()
    await shelf.deliver(lines(0, 8))

    assert (found, shelf.link.read_bytes()) == ([True] * 3, lines(7, 8))
    assert not list(shelf.link.parent.glob(".*"))


async def test_what_has_the_name_of_the_link_stays_and_stops_no_stream(shelf: Shelf) -> None:
    shelf.link.mkdir(parents=True)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(0, 5))

    assert (shelf.live.read_bytes(), shelf.link.is_dir()) == (lines(0, 5), True)
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["stream.link_failed"]


async def test_a_file_of_an_operator_in_place_of_the_link_is_not_touched(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 5))
    shelf.link.unlink()
    shelf.link.write_bytes(b"mine\n")
    shelf.settings.current = live_settings(stream={"rotate": Rotate(size=1)}).current
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(0, 6))

    assert (shelf.link.read_bytes(), shelf.content()) == (b"mine\n", b"mine\n" + lines(0, 6))
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["stream.link_failed"]


@pytest.mark.parametrize("how", AWAY)
async def test_a_quiet_node_s_file_that_was_taken_away_is_reported_when_it_is_closed(
    shelf: Shelf, clock: ManualClock, how: str
) -> None:
    await shelf.deliver(lines(0, 5))
    take_away(shelf.live, how)
    clock.forward(hours=24)
    with structlog.testing.capture_logs() as events:
        await shelf.take()
        await shelf.deliver(lines(3, 8))

    told = [event["event"] for event in events if event["log_level"] in {"info", "warning"}]
    assert (shelf.live.read_bytes(), shelf.gaps(), told) == (lines(5, 8), (), ["stream.file_changed", "stream.rotated"])


async def test_a_quiet_node_s_file_is_closed_by_age_and_the_next_line_begins_another(
    shelf: Shelf, clock: ManualClock
) -> None:
    await shelf.deliver(lines(0, 5))
    first = shelf.live
    clock.forward(hours=24)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(0, 5))
        await shelf.take()
    closed = shelf.row("SELECT path, size, last_ms FROM stream_parts")
    again = Shelf(shelf.directory, clock, shelf.ledger, Rotate())
    await again.deliver(lines(3, 8))

    assert closed[:2] == (first.relative_to(shelf.directory).as_posix(), len(lines(0, 5)))
    assert [event["event"] for event in events if event["event"].startswith("stream.r")] == ["stream.rotated"]
    assert ([path.read_bytes() for path in again.files], again.gaps()) == ([lines(0, 5), lines(5, 8)], ())


async def test_where_the_last_snapshot_is_gone_the_stream_itself_is_compared_with(shelf: Shelf) -> None:
    snapshot = await shelf.give(lines(0, 10))
    await shelf.take()
    (shelf.directory / snapshot.path).unlink()
    await shelf.deliver(lines(6, 14))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 14), ())


async def test_where_the_last_snapshot_cannot_be_read_the_stream_itself_is_compared_with(shelf: Shelf) -> None:
    snapshot = await shelf.give(lines(0, 10))
    await shelf.take()
    (shelf.directory / snapshot.path).unlink()
    (shelf.directory / snapshot.path).mkdir()
    await shelf.deliver(lines(6, 14), lines(9, 20))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 20), ())


async def test_where_both_are_gone_it_is_a_gap(shelf: Shelf) -> None:
    snapshot = await shelf.give(lines(0, 10))
    await shelf.take()
    (shelf.directory / snapshot.path).unlink()
    shelf.live.unlink()
    await shelf.deliver(lines(6, 14))

    (gap,) = shelf.gaps()
    assert (shelf.content(), gap.after, gap.until, gap.cut) == (
        lines(6, 14),
        T0 + timedelta(seconds=9),
        T0 + timedelta(seconds=6),
        False,
    )


async def test_a_snapshot_that_is_gone_before_it_was_taken_is_told_and_passed_over(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 5))
    gone = await shelf.give(lines(2, 8))
    (shelf.directory / gone.path).unlink()
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(3, 12))

    assert (shelf.content(), [event["event"] for event in events if event["log_level"] == "warning"]) == (
        lines(0, 12),
        ["stream.passed_over"],
    )


async def test_nodes_whose_names_would_make_one_file_have_two(shelf: Shelf) -> None:
    """The error log of ``a.slow``, and the slow log of ``a``."""
    first, second = shelf.file("a.slow"), shelf.file("a", LogKind.SLOW)
    for file, content in ((first, lines(0, 5)), (second, lines(50, 55))):
        await shelf.take(paths.series((await shelf.give(content, file)).key))

    found = {path.name: path.read_bytes() for path in shelf.link.parent.iterdir() if path.is_file()}
    assert found == {"a.slow~.log": lines(0, 5), "a.slow.log": lines(50, 55)}


async def test_the_directory_of_a_node_is_no_other_node_s_link(shelf: Shelf) -> None:
    """Nodes ``a`` and ``a.log``."""
    first, second = shelf.file("a.log"), shelf.file("a")
    for file, content in ((first, lines(0, 5)), (second, lines(50, 55))):
        await shelf.take(paths.series((await shelf.give(content, file)).key))

    found = {path.name: path.read_bytes() for path in shelf.link.parent.iterdir() if path.is_file()}
    assert found == {"a.log.log": lines(0, 5), "a.log": lines(50, 55)}
    assert sorted(path.name for path in shelf.link.parent.iterdir() if path.is_dir()) == ["a", "a.log~"]


async def test_a_stream_is_readable_for_the_group_and_nobody_else(shelf: Shelf) -> None:
    mask = os.umask(0o077)
    try:
        await shelf.deliver(lines(0, 5))
    finally:
        os.umask(mask)

    modes = [oct(path.stat().st_mode & 0o777) for path in (shelf.live, shelf.live.parent, shelf.live.parent.parent)]
    assert modes == ["0o640", "0o750", "0o750"]


async def test_nothing_is_written_through_a_link(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shelf.home.parent.mkdir(parents=True)
    shelf.home.symlink_to(tmp_path / "elsewhere")
    await shelf.give(lines(0, 5))

    with pytest.raises(StorageError, match="no directory"):
        await shelf.take()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def _content(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.iterdir()))


async def test_rebuilt_from_snapshots_a_stream_is_the_same_and_the_old_files_are_put_aside(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(5, 15), lines(40, 50), lines(45, 60))
    before, found = shelf.content(), shelf.gaps()
    names = {path.name for path in shelf.files}
    with structlog.testing.capture_logs() as events:
        aside = await shelf.streams.rebuild("snapshots/orders/node/*.log", origin=ORIGIN, note=shelf.advances.append)

    assert [event["event"] for event in events if event["log_level"] == "warning"][:1] == ["stream.replaced"]
    assert not names & {path.name for path in shelf.files}
    assert aside is not None
    assert (shelf.content(), _content(aside / "node"), shelf.gaps()) == (before, before, found)
    assert (aside.parent, aside.name[:10], len(found)) == (shelf.link.parent, ".replaced.", 1)


# --- what a power cut would miss --------------------------------------------------------------------------------------


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of what is synced from now on."""
    names, real = list[str](), os.fsync

    def fsync(fd: int) -> None:
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


async def test_directories_that_an_earlier_process_made_are_synced_once_before_a_stream_relies_on_them(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.home.mkdir(parents=True)
    names = syncs(monkeypatch)

    await shelf.deliver(lines(0, 5))
    first, live = sorted({*names}), shelf.live.name
    names.clear()
    await shelf.deliver(lines(2, 9))

    assert (first, names) == (sorted([shelf.directory.name, "streams", "orders", "node", live]), [live])


async def test_a_stream_that_is_adopted_is_durable_before_the_ledger_relies_on_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed on the way had written it, and synced nothing."""
    shelf.home.mkdir(parents=True)
    (shelf.home / "20260102T030000.000Z.log").write_bytes(lines(0, 5))
    names = syncs(monkeypatch)

    await shelf.deliver(lines(0, 5))

    assert sorted(names) == sorted([shelf.directory.name, "streams", "orders", "node", shelf.live.name])
    assert (shelf.content(), shelf.row("SELECT size FROM streams")) == (lines(0, 5), (len(lines(0, 5)),))


# --- a disk that refuses ----------------------------------------------------------------------------------------------


async def test_what_a_full_disk_broke_off_is_completed_and_nothing_is_twice(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try writes some bytes, then the disk is full."""
    await shelf.deliver(lines(0, 5))
    copy, sizes = os.copy_file_range, [100, 50]

    def filling(source: int, target: int, size: int, at: int, to: int) -> int:
        if not sizes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target, min(size, sizes.pop(0)), at, to)

    monkeypatch.setattr(os, "copy_file_range", filling)
    await shelf.give(lines(2, 30))
    with pytest.raises(StorageError, match="ENOSPC"):
        await shelf.take()
    broken_off = shelf.live.stat().st_size
    monkeypatch.setattr(os, "copy_file_range", copy)
    await shelf.deliver(lines(10, 40))

    assert (broken_off, shelf.content(), shelf.gaps()) == (len(lines(0, 5)) + 150, lines(0, 40), ())


async def test_after_a_failed_sync_everything_is_written_anew(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have given the pages up: a second sync alone would succeed without them."""
    await shelf.deliver(lines(0, 5))
    sync, fails, copied = os.fsync, [True], []
    copy = os.copy_file_range

    def failing(fd: int) -> None:
        if fails:
            fails.pop()
            raise OSError(errno.EIO, "Input/output error")
        sync(fd)

    def counting(source: int, target: int, size: int, at: int, to: int) -> int:
        copied.append(size)
        return copy(source, target, size, at, to)

    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(os, "copy_file_range", counting)
    await shelf.give(lines(2, 30))
    with pytest.raises(StorageError, match="EIO"):
        await shelf.take()
    await shelf.take()

    assert (shelf.content(), copied) == (lines(0, 30), [len(lines(5, 30))] * 2)


async def test_where_the_kernel_does_not_copy_the_bytes_pass_through_us(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "copy_file_range", refusing)
    await shelf.deliver(lines(0, 20_000), lines(15_000, 30_000))

    assert shelf.content() == lines(0, 30_000)


async def test_blocks_of_zeroes_that_a_power_cut_left_are_filled_in_place(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file had its length, and not all of its bytes."""
    await shelf.deliver(lines(0, 5))
    base, new = shelf.live.stat().st_size, lines(5, 200)
    await _begin_and_die(shelf, lines(2, 200), monkeypatch)
    block = 4096 - base
    with shelf.live.open("r+b") as file:
        file.seek(base)
        file.write(new[: block + 100] + bytes(4096 - 100) + new[block + 4096 : block + 6000])
    inode = shelf.live.stat().st_ino
    await shelf.take()

    assert (shelf.content(), shelf.live.stat().st_ino) == (lines(0, 200), inode)


async def test_what_was_about_to_be_appended_and_has_lost_its_snapshot_is_told(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next export brings it again: the snapshot before is what it is compared with."""
    await shelf.deliver(lines(0, 5))
    lost = await _begin_and_die(shelf, lines(2, 20), monkeypatch)
    (shelf.directory / lost.path).unlink()
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(3, 25))

    told = [event["event"] for event in events if event["log_level"] in {"warning", "error"}]
    assert told == ["stream.source_gone", "stream.adopted"]
    assert (shelf.content(), shelf.gaps()) == (lines(0, 25), ())


@pytest.mark.parametrize("rotate", [Rotate(size=1500)])
async def test_a_snapshot_that_is_lost_after_its_lines_are_on_disk_leaves_them_there_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotated, appended, and not yet noted when the ledger's disk was full."""
    await shelf.deliver(lines(0, 15))
    lost = await _append_and_fail_to_note(shelf, lines(10, 30), monkeypatch)
    (shelf.directory / lost.path).unlink()
    await shelf.deliver(lines(20, 40))

    on_disk = {path.relative_to(shelf.directory).as_posix() for path in shelf.rotated}
    with closing(sqlite3.connect(shelf.directory / "ledger.sqlite3")) as db:
        in_books = {path for (path,) in db.execute("SELECT path FROM stream_parts")}
    assert (shelf.content(), shelf.gaps(), in_books) == (lines(0, 40), (), on_disk)


async def _append_and_fail_to_note(shelf: Shelf, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Let lines be appended, and the ledger refuse to note that."""

    async def refuse(*_: object, **__: object) -> None:
        raise StorageError("the ledger's disk is full")

    snapshot = await shelf.give(content)
    with monkeypatch.context() as patched:
        patched.setattr(shelf.streams.book, "commit", refuse)
        for _ in range(3):
            with pytest.raises(StorageError):
                await shelf.take()
    return snapshot


async def test_tries_that_could_not_be_noted_append_once_though_the_file_was_taken_away(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.deliver(lines(0, 5))
    shelf.live.rename(shelf.live.with_name("taken away"))
    await _append_and_fail_to_note(shelf, lines(2, 9), monkeypatch)
    await shelf.take()

    assert (shelf.live.read_bytes(), shelf.rotated) == (lines(5, 9), [])


@pytest.mark.parametrize("rotate", [Rotate(size=1500)])
async def test_a_rotation_that_could_not_be_noted_is_not_done_again_though_its_file_is_gone(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.deliver(lines(0, 15))
    await _append_and_fail_to_note(shelf, lines(10, 30), monkeypatch)
    (rotated,) = shelf.rotated
    rotated.unlink()
    await shelf.take()

    assert (shelf.live.read_bytes(), shelf.rotated) == (lines(15, 30), [])
    assert shelf.row("SELECT count(*) FROM stream_parts") == (0,)


async def test_where_the_line_that_waited_is_gone_too_the_rest_is_appended(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await shelf.give(lines(0, 5) + line(5)[:10])
    await shelf.take()
    await _begin_and_die(shelf, lines(50, 60), monkeypatch)
    (shelf.directory / first.path).unlink()
    await shelf.take()

    assert (shelf.content(), len(shelf.gaps())) == (lines(0, 5) + lines(50, 60), 1)


@pytest.mark.parametrize("how", ["link", "directory"])
async def test_a_snapshot_that_cannot_be_read_stops_no_stream(shelf: Shelf, how: str) -> None:
    await shelf.deliver(lines(0, 5))
    bad = await shelf.give(lines(2, 9))
    (shelf.directory / bad.path).unlink()
    if how == "link":
        (shelf.directory / bad.path).symlink_to("/dev/null")
    else:
        (shelf.directory / bad.path).mkdir()
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(3, 20))

    told = [event["event"] for event in events if event["log_level"] == "warning"]
    assert (shelf.content(), told) == (lines(0, 20), ["stream.passed_over"])


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """Let this process have no more of something for a while, as on a full disk."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.mark.parametrize("lost", [False, True], ids=["known", "adopted"])
async def test_a_compressed_snapshot_waits_while_the_disk_has_no_room_for_its_lines(
    shelf: Shelf, *, lost: bool
) -> None:
    """It is good, and so is taken as soon as there is room; nothing is said of it."""
    await shelf.deliver(lines(0, 20))
    await shelf.give(gzip.compress(lines(0, 40_000)))
    if lost:
        await shelf.streams.book.forget("snapshots/orders/node/*.log")
    with structlog.testing.capture_logs() as events:
        with limited(resource.RLIMIT_FSIZE, 1_500_000), pytest.raises(StorageError, match="EFBIG"):
            await shelf.take()
        await shelf.take()
    await shelf.deliver(lines(39_000, 40_010))

    warned = [event["event"] for event in events if event["log_level"] == "warning"]
    assert (shelf.content() == lines(0, 40_010), shelf.gaps()) == (True, ())
    assert warned == (["stream.adopted"] if lost else [])


@pytest.mark.parametrize(
    ("number", "is_passing"),
    [
        (errno.ENOSPC, True),
        (errno.EDQUOT, True),
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ENOMEM, True),
        (errno.EFBIG, True),
        (errno.EROFS, True),
        (errno.EIO, False),
        (errno.ELOOP, False),
        (errno.ENOENT, False),
    ],
)
def test_what_the_host_has_not_says_nothing_of_a_file(number: int, *, is_passing: bool) -> None:
    with pytest.raises(StorageError) as found, disk(Path("file")):
        raise OSError(number, os.strerror(number))
    with pytest.raises(StorageError) as unpacking, disk(Path("file"), host=True):
        raise OSError(number, os.strerror(number))

    assert (found.value.passing, unpacking.value.passing) == (is_passing, True)


async def test_an_older_export_with_nothing_in_common_is_passed_over_and_told(shelf: Shelf) -> None:
    older = shelf.file()
    await shelf.deliver(lines(100, 120))
    await shelf.give(lines(0, 10), older)
    with structlog.testing.capture_logs() as events:
        await shelf.take()
    await shelf.deliver(lines(110, 130))

    told = [event["event"] for event in events if event["log_level"] == "warning"]
    assert (shelf.content(), shelf.gaps(), told) == (lines(100, 130), (), ["stream.passed_over"])


async def test_of_a_ledger_that_was_lost_on_the_way_what_is_not_taken_is(tmp_path: Path, clock: ManualClock) -> None:
    """By what is in the files: their times would say that all was, or nothing."""
    ledger = CountingLedger(tmp_path)
    await ledger.open()
    shelf = Shelf(tmp_path, clock, ledger, Rotate(size=2000))
    entries = [await shelf.give(lines(number, number + 20)) for number in range(0, 100, 10)]
    for entry in entries[4:]:
        await shelf.streams.book.pass_over([entry.key])
    await shelf.take()
    await ledger.close()
    for path in tmp_path.glob("ledger*"):
        path.unlink()
    for path in tmp_path.glob("snapshots/*/*/*"):
        os.utime(path, (chance := random.Random(path.name).randrange(10**9), chance))

    again = CountingLedger(tmp_path)
    await again.open()
    await again.enter(*entries)
    shelf = Shelf(tmp_path, clock, again, Rotate(size=2000))
    await shelf.take()
    await again.close()

    assert (shelf.content(), shelf.gaps()) == (lines(0, 110), ())


def untimed(first: int, end: int) -> bytes:
    return b"".join(b"   frame %d of the one backtrace\n" % number for number in range(first, end))


async def without_books(shelf: Shelf, clock: ManualClock, entries: list[Snapshot], rotate: Rotate) -> Shelf:
    """Return a shelf whose ledger was lost, and knows no more than that these snapshots are there."""
    await shelf.ledger.close()
    for path in shelf.directory.glob("ledger*"):
        path.unlink()
    again = CountingLedger(shelf.directory)
    await again.open()
    await again.enter(*entries)
    return Shelf(shelf.directory, clock, again, rotate)


async def _published(_: Shelf) -> None:
    """No more: the stream has nothing of it."""


async def _appended(shelf: Shelf) -> None:
    """The ledger was lost before it could be noted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamBook, "commit", _refuse)
        with pytest.raises(StorageError, match="lost"):
            await shelf.take()


async def _refuse(*_: object, **__: object) -> None:
    raise StorageError("lost")


async def _committed(shelf: Shelf) -> None:
    await shelf.take()


async def _superseded(shelf: Shelf) -> None:
    """Of ``snapshots: latest`` there is one file."""
    await shelf.take()
    min((shelf.directory / "snapshots" / "orders" / "node").iterdir()).unlink()


@pytest.mark.parametrize("rotate", [Rotate(), Rotate(size=300)], ids=["one file", "rotated"])
@pytest.mark.parametrize("step", [_published, _appended, _committed, _superseded])
async def test_a_ledger_lost_at_any_step_doubles_no_line_of_a_short_log_without_times(
    shelf: Shelf, rotate: Rotate, step: Callable[[Shelf], Awaitable[None]]
) -> None:
    """Its end is no proof; but all of it is one of the snapshots."""
    entries = [await shelf.give(untimed(0, 20))]
    await shelf.take()
    entries.append(await shelf.give(untimed(0, 40)))
    await step(shelf)
    entries = [entry for entry in entries if (shelf.directory / entry.path).exists()]
    again = await without_books(shelf, shelf.clock, entries, rotate)
    with structlog.testing.capture_logs() as events:
        await again.take()
        adopted = again.content()
        await again.deliver(untimed(0, 60))
    await again.ledger.close()

    warned = [event["event"] for event in events if event["log_level"] == "warning"]
    assert (adopted, again.content(), again.gaps()) == (untimed(0, 40), untimed(0, 60), ())
    assert warned == ["stream.adopted"]


@pytest.mark.parametrize(
    ("size", "is_spoilt"), [(60, True), (TIMED_REACH, False)], ids=["the oldest cannot be read", "longer than is read"]
)
async def test_files_that_are_not_all_of_a_stream_are_not_taken_for_a_snapshot_with_the_same_lines(
    tmp_path: Path, clock: ManualClock, size: int, *, is_spoilt: bool
) -> None:
    """The log repeats itself: its lines come again, and that is said."""
    ledger, rotate, equal = CountingLedger(tmp_path), Rotate(size=size), b"the same\n"
    await ledger.open()
    shelf = Shelf(tmp_path, clock, ledger, rotate)
    await shelf.deliver(*(equal * (size // part) for part in (10, 5, 3)))
    oldest, *rotated = shelf.rotated
    if is_spoilt:
        oldest.rename(oldest_was := tmp_path / "moved")
        oldest.symlink_to(oldest_was)
    read = [*(rotated if is_spoilt else []), shelf.live]
    entry = await shelf.give(b"".join(path.read_bytes() for path in read))
    again = await without_books(shelf, clock, [entry], rotate)
    await again.deliver(equal * (size // 2) + b"another\n")
    await again.ledger.close()

    assert {gap.cause for gap in again.gaps()} == {GapCause.UNPROVED}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("cut", [1, 20, 60])
async def test_a_ledger_put_back_whose_files_end_with_a_line_that_was_ended_early_is_known(
    tmp_path: Path, clock: ManualClock, cut: int, ending: bytes
) -> None:
    """With ``snapshots: latest`` the export that had the line so is gone; the next one has it whole."""

    async def shelf() -> Shelf:
        ledger = CountingLedger(tmp_path)
        await ledger.open()
        return Shelf(tmp_path, clock, ledger, Rotate())

    first = await shelf()
    await first.deliver(lines(0, 60))
    await first.ledger.close()
    books = (tmp_path / "ledger.sqlite3").read_bytes()
    second = await shelf()
    since = await second.give(lines(0, 80) + line(80)[:cut] + ending)
    await second.take()
    await second.ledger.close()
    (tmp_path / since.path).unlink()
    (tmp_path / "ledger.sqlite3").write_bytes(books)
    again = await shelf()
    with structlog.testing.capture_logs() as events:
        await again.deliver(lines(0, 100))
    await again.ledger.close()

    warned = [event["event"] for event in events if event["log_level"] in {"warning", "error"}]
    assert (again.content(), again.gaps()) == (lines(0, 80) + line(80)[:cut] + ending + lines(80, 100), ())
    assert warned == ["ledger.outdated", "stream.adopted"]


@pytest.mark.parametrize("left", [b"", untimed(0, 3), line(100)[:20]], ids=["nothing", "no time", "half a line"])
async def test_a_lost_ledger_and_a_newest_file_that_proves_nothing_double_nothing(
    tmp_path: Path, clock: ManualClock, left: bytes
) -> None:
    """A rotation came just before: the files before the live one are the same log."""
    ledger, rotate = CountingLedger(tmp_path), Rotate(size=2000)
    await ledger.open()
    shelf, log, entries = Shelf(tmp_path, clock, ledger, rotate), b"", []
    for number in range(0, 100, 10):
        log += lines(number, number + 10)
        entries.append(await shelf.give(log[-3000:]))
        await shelf.take()
    (shelf.home / "20260102T031430.000Z.log").write_bytes(left)
    again = await without_books(shelf, clock, entries, rotate)
    await again.take()
    delivered_at = again.row("SELECT delivered_ms FROM streams")
    log += left if left.endswith(b"\n") else b""
    await again.deliver((log + lines(100, 110))[-3000:])
    await again.ledger.close()

    assert (again.content(), again.gaps()) == (log + lines(100, 110), ())
    assert delivered_at == ((T0 + timedelta(seconds=99)).timestamp() * 1000,)


@pytest.mark.parametrize("number", [0, -2], ids=["the oldest", "the newest"])
async def test_a_rotated_file_that_cannot_be_read_is_reported_and_stops_no_adoption(
    tmp_path: Path, clock: ManualClock, number: int
) -> None:
    ledger, rotate = CountingLedger(tmp_path), Rotate(size=1000)
    await ledger.open()
    shelf = Shelf(tmp_path, clock, ledger, rotate)
    entries = []
    for start in range(0, 50, 10):
        entries.append(await shelf.give(lines(max(0, start - 10), start + 10)))
        await shelf.take()
    gone = shelf.files[number]
    moved = gone.rename(tmp_path / "moved")
    moved.with_name("link").symlink_to(moved)
    moved.with_name("link").rename(gone)
    content = shelf.content()
    again = await without_books(shelf, clock, entries, rotate)
    with structlog.testing.capture_logs() as events:
        await again.deliver(lines(40, 60))
    await again.ledger.close()

    warned = [event["event"] for event in events if event["log_level"] == "warning"]
    assert (sorted(again.content()), again.gaps()) == (sorted(content + lines(50, 60)), ())
    assert warned == ["stream.part_skipped", "stream.adopted"]


async def test_where_the_newest_file_cannot_be_read_no_other_is_written_to(shelf: Shelf, clock: ManualClock) -> None:
    """The ledger is lost, too. What is in that file comes again, in the next."""
    shelf.settings.current = live_settings(stream={"rotate": Rotate(size=1000)}).current
    entries = []
    for end in (10, 20):
        entries.append(await shelf.give(lines(max(0, end - 15), end)))
        await shelf.take()
    first, newest = shelf.files
    newest.rename(shelf.directory / "moved")
    newest.symlink_to(shelf.directory / "moved")
    again = await without_books(shelf, clock, entries, Rotate())
    await again.deliver(lines(5, 30))
    await again.ledger.close()

    assert ((shelf.directory / "moved").read_bytes(), first.read_bytes()) == (lines(10, 20), lines(0, 10))
    assert (again.files[:2], again.live.read_bytes(), again.gaps()) == ([first, newest], lines(10, 30), ())


async def test_where_the_snapshot_is_gone_and_the_live_file_was_emptied_the_rotated_file_is_compared_with(
    shelf: Shelf,
) -> None:
    await shelf.deliver(lines(0, 10))
    shelf.settings.current = live_settings(stream={"rotate": Rotate(size=1)}).current
    snapshot = await shelf.give(lines(0, 12))
    await shelf.take()
    (shelf.directory / snapshot.path).unlink()
    shelf.live.write_bytes(b"")
    await shelf.deliver(lines(6, 14))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 14), ())


@pytest.mark.parametrize("how", ["damaged", "link", "directory"])
async def test_a_last_snapshot_that_cannot_be_read_stops_no_stream_after_a_restart(
    shelf: Shelf, clock: ManualClock, how: str
) -> None:
    snapshot = await shelf.give(gzip.compress(lines(0, 10)))
    await shelf.take()
    path = shelf.directory / snapshot.path
    content = path.read_bytes()
    path.unlink()
    match how:
        case "damaged":
            path.write_bytes(content[:-20])
        case "link":
            (shelf.directory / "elsewhere").write_bytes(content)
            path.symlink_to(shelf.directory / "elsewhere")
        case _:
            path.mkdir()
    again = Shelf(shelf.directory, clock, shelf.ledger, Rotate())
    await again.deliver(lines(0, 14), lines(5, 20))

    assert (again.content(), again.gaps()) == (lines(0, 20), ())


async def _begin_and_die(
    shelf: Shelf, content: bytes, monkeypatch: pytest.MonkeyPatch, *, at: str = "copy_file_range"
) -> Snapshot:
    """Leave an intent behind, and nothing appended."""

    def dying(*_: object) -> int:
        raise OSError(errno.EIO, "as if killed")

    snapshot = await shelf.give(content)
    with monkeypatch.context() as patched:
        patched.setattr(os, at, dying)
        with pytest.raises(StorageError):
            await shelf.take()
    return snapshot


async def test_a_stream_that_fails_is_said_by_the_cycle_and_stops_no_other(bed: Bed, clock: ManualClock) -> None:
    fleet = (replica_set("solo", nodes=2),)
    async with bed.cloud(fleet=fleet) as cloud:
        first, second = (node.name for node in cloud.fleet[0].nodes)
        for name in (first, second):
            cloud.write(name, lines(0, 10))
        (bed.directory / "streams" / "solo").mkdir(parents=True)
        (bed.directory / "streams" / "solo" / first).touch()
        report = await cycle(bed, clock)
        (bed.directory / "streams" / "solo" / first).unlink()
        await cycle(bed, clock)

        assert (report.outcome, report.error_kind, "no directory" in report.error) == (
            CycleOutcome.PARTIAL,
            "storage_error",
            True,
        )
        assert (stream(bed, first), stream(bed, second)) == (lines(0, 10), lines(0, 10))


async def test_new_lines_take_three_transactions_and_a_quiet_node_one(shelf: Shelf) -> None:
    """Thousands of nodes share one ledger: what is asked of it for each is counted."""
    await shelf.deliver(lines(0, 5), lines(0, 10))
    await shelf.give(lines(5, 15))
    counts = []
    for _ in range(2):
        before = shelf.ledger.transactions
        await shelf.take()
        counts.append(shelf.ledger.transactions - before)

    assert counts == [3, 1]


async def test_several_snapshots_that_wait_are_taken_by_one_look_into_the_ledger(shelf: Shelf) -> None:
    for end in (10, 20, 30):
        await shelf.give(lines(0, end))
    before = shelf.ledger.transactions
    await shelf.take()

    assert (shelf.ledger.transactions - before, shelf.content()) == (1 + 2 * 3, lines(0, 30))


async def test_an_export_with_the_bytes_of_one_that_waits_counts_once_that_is_taken(shelf: Shelf) -> None:
    """It is entered at the other's path, and how fast the node writes is told by it."""
    await shelf.deliver(lines(0, 10))
    first = await shelf.give(lines(0, 20))
    again = shelf.file()
    await shelf.ledger.enter(replace(first, file=again, key=paths.key(again)))
    await shelf.give(lines(15, 40))
    await shelf.take()

    assert (shelf.content(), shelf.advances[-1].took) == (lines(0, 40), timedelta(minutes=1))


async def test_an_export_after_one_that_was_made_ahead_of_the_clock_is_not_passed_over(shelf: Shelf) -> None:
    """The cloud's clock, and its nodes', were hours ahead and were set back: what is new now looks older than that."""
    first = shelf.file()
    await shelf.give(lines(5000, 5010), replace(first, updated_at=first.updated_at + timedelta(hours=2)))
    await shelf.take()
    await shelf.deliver(lines(0, 10), lines(5, 20))

    (gap,) = shelf.gaps()
    assert (shelf.content(), gap.until) == (lines(5000, 5010) + lines(0, 20), T0)


async def test_a_late_export_before_one_that_is_the_same_again_is_passed_over(shelf: Shelf) -> None:
    await shelf.deliver(lines(500, 510))
    first = await shelf.give(lines(500, 520))
    late, again = shelf.file(), shelf.file()
    await shelf.ledger.enter(replace(first, file=again, key=paths.key(again)))
    await shelf.give(lines(0, 20), late)
    await shelf.give(lines(515, 540))
    await shelf.take()

    assert (shelf.content(), shelf.gaps()) == (lines(500, 540), ())


async def test_what_is_older_by_the_clouds_clock_alone_is_taken(shelf: Shelf) -> None:
    """The clock was set back by two hours, and more was written meanwhile than an export holds."""
    await shelf.deliver(lines(0, 10))
    now = shelf.file().updated_at
    for number in range(1, 6):
        file = replace(shelf.file(), updated_at=now - timedelta(hours=2) + number * timedelta(minutes=20))
        await shelf.give(lines(100 * number, 100 * number + 10), file)
        await shelf.take()

    expected = b"".join(lines(100 * number, 100 * number + 10) for number in range(6))
    assert (shelf.content(), len(shelf.gaps())) == (expected, 5)


async def test_what_waits_is_taken_though_a_later_export_has_the_same_bytes(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10))
    first = await shelf.give(lines(100, 120))
    again = shelf.file()
    await shelf.ledger.enter(replace(first, file=again, key=paths.key(again)))
    await shelf.take()

    assert (shelf.content(), len(shelf.gaps())) == (lines(0, 10) + lines(100, 120), 1)


async def test_a_lost_ledger_and_a_log_without_times_whose_live_file_was_rotated_away_double_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    def plain(first: int, end: int) -> bytes:
        return b"".join(b"line %06d\n" % number for number in range(first, end))

    ledger = CountingLedger(tmp_path)
    shelf = Shelf(tmp_path, clock, ledger, Rotate())
    await shelf.deliver(plain(0, 300))
    await ledger.close()
    for path in tmp_path.glob("ledger*"):
        path.unlink()

    again = CountingLedger(tmp_path)
    shelf = Shelf(tmp_path, clock, again, Rotate())
    await shelf.deliver(plain(0, 310))
    await again.close()

    assert shelf.content() == plain(0, 310)


async def test_an_instance_is_back_with_an_export_that_holds_no_whole_line(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10))
    shelf.clock.forward(minutes=1)
    await shelf.streams.note_gone("orders")
    gone = [gap.cause for gap in shelf.gaps()]
    await shelf.deliver(line(9)[:20])

    assert (gone, shelf.gaps()) == ([GapCause.INSTANCE_GONE], ())


async def test_a_comparison_whose_caller_is_cancelled_has_its_turn_until_its_end(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads as much as the disk gives. Whoever waits for a turn need not wait when cancelled."""
    go, running = threading.Event(), threading.Semaphore(0)
    look = Streams._look

    def held_up(*arguments: Any, **named: Any) -> Any:
        running.release()
        go.wait()
        return look(*arguments, **named)

    monkeypatch.setattr(Streams, "_look", held_up)
    nodes = [f"node-{number}" for number in range(COMPARED + 1)]
    for node in nodes:
        await shelf.give(lines(0, 5), shelf.file(node))
    *others, waits = (shelf.take(f"snapshots/orders/{node}/*.log") for node in nodes)
    first, *_ = tasks = [asyncio.create_task(one) for one in others]
    for _ in tasks:
        await asyncio.to_thread(running.acquire)
    last = asyncio.create_task(waits)
    while not shelf.streams._steps._waiting:
        await asyncio.sleep(0)
    tasks.append(last)
    first.cancel()
    last.cancel()
    await asyncio.wait([last], timeout=5)
    was_waiting = first.done()
    go.set()
    await asyncio.wait(tasks)

    assert (was_waiting, first.cancelled(), last.cancelled(), running.acquire(blocking=False)) == (
        False,
        True,
        True,
        False,
    )


async def test_an_intent_is_remembered_whole(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gap, its times and its unfinished line too: whoever finds it knows nothing else."""
    await shelf.deliver(lines(0, 5) + line(5)[:10])
    await _begin_and_die(shelf, lines(50, 60), monkeypatch)
    state = (await shelf.streams.book.backlog("snapshots/orders/node/*.log")).state
    await shelf.take()

    assert state is not None
    assert state.intent is not None
    assert state.intent.unfinished is not None
    assert (state.intent.gap, state.intent.first_at) == (shelf.gaps()[0], T0 + timedelta(seconds=50))
    assert shelf.content() == lines(0, 5) + line(5)[:10] + b"\n" + lines(50, 60)
    assert replace(state, intent=None).size == len(lines(0, 5))


# --- what the log says, and what it does not prove --------------------------------------------------------------------

STORM = b"".join(b" src/mongo/util/stacktrace_posix.cpp:%d\n" % number for number in range(20))


async def test_an_overflow_within_a_storm_of_equal_backtraces_is_a_gap_that_may_hide_no_line(shelf: Shelf) -> None:
    """Both windows are cut within an event, so that the second begins with lines that the first ends with."""
    events = [line(number) + STORM for number in range(40)]
    first, second = b"".join(events[:10]), STORM[200:] + b"".join(events[30:40])
    await shelf.deliver(first, second)

    assert (shelf.content(), [gap.cause for gap in shelf.gaps()]) == (first + second, [GapCause.UNPROVED])


async def test_a_storm_that_is_cut_anywhere_is_one_log(shelf: Shelf) -> None:
    log = b"".join(line(number) + STORM for number in range(60))
    chance, end = random.Random(1), 0
    while end < len(log):
        end = min(len(log), end + chance.randrange(500, 5000))
        await shelf.deliver(log[max(0, end - 8000) : end])

    assert (shelf.content(), shelf.gaps()) == (log, ())


@pytest.mark.parametrize("mark", [b"\n", b"[truncated]\n", b"", b"\n-- end of export --\n"])
async def test_a_last_line_that_the_next_export_has_otherwise_makes_no_gap(shelf: Shelf, mark: bytes) -> None:
    """Four exports: at most the changed lines are there twice."""
    for generation in range(1, 5):
        end = generation * 20
        cut = line(end)[:-9] + mark if mark != b"" else line(end).replace(b'"W"', b'"E"')
        await shelf.deliver(lines(max(0, end - 40), end) + cut)

    content = shelf.content()
    assert shelf.gaps() == ()
    assert [content.count(line(number)) for number in range(80)] == [1] * 80
    assert len(content.splitlines()) <= 80 + 2 * 4


async def test_an_export_that_ends_and_begins_earlier_than_the_last_one_adds_nothing(shelf: Shelf) -> None:
    await shelf.deliver(lines(20, 60), lines(0, 40), lines(10, 50)[:-7], lines(55, 70))

    assert (shelf.content(), shelf.gaps()) == (lines(20, 70), ())


async def test_an_export_that_begins_within_the_last_line_delivered_goes_on(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 20), line(19)[-40:] + lines(20, 40))

    assert (shelf.content(), shelf.gaps()) == (lines(0, 40), ())


async def test_a_log_without_times_that_is_shorter_than_an_export_grows_without_gaps(
    shelf: Shelf, tmp_path: Path
) -> None:
    """As long as all that was ever delivered is known to be its beginning: across a restart, and a lost snapshot."""
    plain = [b"no time in line %d\n" % number for number in range(8)]
    await shelf.deliver(plain[0], b"".join(plain[:3]))
    for snapshot in (tmp_path / "snapshots" / "orders" / "node").glob("*.log"):
        snapshot.unlink()
    await shelf.deliver(b"".join(plain[:5]), b"".join(plain))

    assert (shelf.content(), shelf.gaps()) == (b"".join(plain), ())


EXTREMES = [
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.000Z",
    "0001-01-01T00:00:00.000Z",
    "2099-12-31T00:00:00Z",
]


@pytest.mark.parametrize("moment", EXTREMES)
@pytest.mark.parametrize("form", ['{{"t":{{"$date":"{}"}},"s":"W"}}\n', "{} W NETWORK [conn1] text\n"])
async def test_no_date_of_a_line_stops_a_stream(shelf: Shelf, moment: str, form: str) -> None:
    """Neither as the newest line nor as the bound of a gap."""
    odd = form.format(moment).encode()
    await shelf.deliver(lines(0, 5) + odd, lines(4, 5) + odd + lines(5, 8) + odd)
    await shelf.deliver(odd * 2 + lines(100, 105), lines(104, 110))
    state = (await shelf.streams.book.backlog("snapshots/orders/node/*.log")).state
    (gap,) = shelf.gaps()

    assert shelf.content().replace(odd, b"") == lines(0, 8) + lines(100, 110)
    assert state is not None
    assert state.delivered_at == T0 + timedelta(seconds=109)
    assert (gap.after, gap.until) == (T0 + timedelta(seconds=7), T0 + timedelta(seconds=100))


# --- the layout of before ---------------------------------------------------------------------------------------------

OLD = next(number for number, schema in enumerate(MIGRATIONS) if "streams ADD COLUMN path" in schema)


async def as_before(shelf: Shelf) -> None:
    """Make of a stream and its ledger what a version left that renamed files."""
    await shelf.ledger.close()
    books, before = shelf.directory / "ledger.sqlite3", shelf.directory / "before.sqlite3"
    *closed, live = shelf.files
    with closing(sqlite3.connect(before, isolation_level=None)) as db:
        for number, schema in enumerate(MIGRATIONS[:OLD], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        db.execute("ATTACH ? AS now", (str(books),))
        for table in ("snapshots", "streams", "stream_parts"):
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")  # noqa: S608  # its own
        for path in closed:
            name = f"streams/orders/node.log.{path.name.removesuffix('.log')}"
            old = path.relative_to(shelf.directory).as_posix()
            db.execute("UPDATE stream_parts SET path = ? WHERE path = ?", (name, old))
            path.rename(shelf.directory / name)
    before.rename(books)
    shelf.link.unlink()
    live.rename(shelf.link)
    shelf.home.rmdir()


def old_intent(shelf: Shelf, **given: Any) -> None:
    """Write an intent as it was written before."""
    with closing(sqlite3.connect(shelf.directory / "ledger.sqlite3")) as db, db:
        intent = json.loads(db.execute("SELECT intent FROM streams").fetchone()[0])
        intent.pop("path")
        db.execute("UPDATE streams SET intent = ?", (json.dumps(intent | given),))


@asynccontextmanager
async def upgraded(shelf: Shelf, clock: ManualClock, rotate: Rotate | None = None) -> AsyncIterator[Shelf]:
    ledger = CountingLedger(shelf.directory)
    await ledger.open()
    yield Shelf(shelf.directory, clock, ledger, rotate or Rotate())
    await ledger.close()


@pytest.mark.parametrize("rotate", [Rotate(size=1500)])
async def test_a_stream_of_the_layout_of_before_goes_on(shelf: Shelf, clock: ManualClock, rotate: Rotate) -> None:
    """Its newest file is renamed once more, and the link takes its name with the next line."""
    for end in (15, 30, 45):
        await shelf.deliver(lines(max(0, end - 25), end))
    contents = [path.read_bytes() for path in shelf.files]
    await as_before(shelf)
    with structlog.testing.capture_logs() as events:
        async with upgraded(shelf, clock, rotate) as again:
            await again.deliver(lines(20, 45))
            quiet = again.link.is_file() and not again.link.is_symlink()
            await again.deliver(lines(30, 47), lines(46, 80))

    *old, first, last = again.files
    assert (quiet, [path.read_bytes() for path in old]) == (True, contents)
    assert (first.read_bytes() + last.read_bytes(), again.gaps()) == (lines(45, 80), ())
    assert (again.link.readlink(), {path.parent for path in old}) == (
        last.relative_to(again.link.parent),
        {again.link.parent},
    )
    with closing(sqlite3.connect(shelf.directory / "ledger.sqlite3")) as db:
        known = dict(db.execute("SELECT path, size FROM stream_parts").fetchall())
    there = [*old, first]
    assert known == {path.relative_to(shelf.directory).as_posix(): path.stat().st_size for path in there}
    assert [event["event"] for event in events if event["log_level"] in {"warning", "error"}] == []


@pytest.mark.parametrize("how", ["nothing of it", "half of it", "all of it"])
async def test_what_a_version_of_before_was_about_to_append_is_appended_once(
    shelf: Shelf, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await shelf.deliver(lines(0, 10))
    await _begin_and_die(shelf, lines(5, 20), monkeypatch)
    await as_before(shelf)
    old_intent(shelf, rotate_to="", rotated_inode=0)
    part = {"nothing of it": 0, "half of it": 321, "all of it": len(lines(10, 20))}[how]
    with shelf.link.open("ab") as file:
        file.write(lines(10, 20)[:part])
    shelf.clock.forward(minutes=1)
    async with upgraded(shelf, clock) as again:
        await again.deliver(lines(15, 30))

    assert ([path.read_bytes() for path in again.files], again.gaps()) == ([lines(0, 20), lines(20, 30)], ())
    assert again.link.is_symlink()


@pytest.mark.parametrize("how", ["not renamed", "renamed", "begun"])
async def test_a_rotation_that_a_version_of_before_had_begun_is_carried_out(
    shelf: Shelf, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await shelf.deliver(lines(0, 10))
    await _begin_and_die(shelf, lines(5, 20), monkeypatch)
    await as_before(shelf)
    target = "streams/orders/node.log.20260101T040506.789Z"
    old_intent(shelf, rotate_to=target, rotated_inode=shelf.link.stat().st_ino, base=0)
    if how != "not renamed":
        shelf.link.rename(shelf.directory / target)
    if how == "begun":
        shelf.link.write_bytes(lines(10, 20)[:200])
    with structlog.testing.capture_logs() as events:
        async with upgraded(shelf, clock) as again:
            await again.deliver(lines(15, 30))

    assert (again.content(), again.gaps(), again.link.is_symlink()) == (lines(0, 30), (), True)
    with closing(sqlite3.connect(shelf.directory / "ledger.sqlite3")) as db:
        known = {path for (path,) in db.execute("SELECT path FROM stream_parts")}
    assert known == {path.relative_to(shelf.directory).as_posix() for path in again.rotated}
    assert [event["event"] for event in events if event["log_level"] in {"warning", "error"}] == []


async def test_where_the_last_rename_could_not_be_noted_its_file_is_known_in_the_end(
    shelf: Shelf, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.deliver(lines(0, 10))
    await as_before(shelf)
    async with upgraded(shelf, clock) as again:
        await _append_and_fail_to_note(again, lines(5, 20), monkeypatch)
    async with upgraded(shelf, clock) as again:
        await again.take()

    assert ([path.read_bytes() for path in again.files], again.gaps()) == ([lines(0, 10), lines(10, 20)], ())
    assert again.row("SELECT path, size FROM stream_parts") == (
        again.rotated[0].relative_to(again.directory).as_posix(),
        len(lines(0, 10)),
    )


@pytest.mark.parametrize("rotate", [Rotate(size=1500)])
async def test_a_lost_ledger_and_a_stream_of_the_layout_of_before_double_nothing(
    shelf: Shelf, clock: ManualClock, rotate: Rotate
) -> None:
    entries = []
    for end in (15, 30, 45):
        entries.append(await shelf.give(lines(max(0, end - 25), end)))
        await shelf.take()
    await as_before(shelf)
    again = await without_books(shelf, clock, entries, rotate)
    await again.deliver(lines(30, 60))
    await again.ledger.close()

    assert (again.content(), again.gaps(), again.link.is_symlink()) == (lines(0, 60), (), True)
