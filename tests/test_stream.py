"""One continuous log per node: what is on disk after cycles, and after all that can go wrong between them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import structlog

from conftest import known_gaps
from ddslogd.config import Rotate
from ddslogd.errors import StorageError
from ddslogd.models import Advance, CycleOutcome, Every, Gap, GapCause, LogFile, LogKind, Snapshot
from ddslogd.sandbox import ApiError, replica_set
from ddslogd.storage import layout
from ddslogd.storage import stream as stream_module
from ddslogd.storage.ledger import Ledger
from ddslogd.storage.stream import COMPARED, Origin, Streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from conftest import Bed, ManualClock
    from ddslogd.models import CycleReport
    from ddslogd.sandbox import Sandbox

T = TypeVar("T")

NODE = "solo_single_node_1"
T0 = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
ORIGIN = Origin(schedule=Every(interval=timedelta(minutes=20)), key="6ade8143870047b8999aba8f1891b48ein02")


def line(number: int) -> bytes:
    moment = (T0 + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    return f'{{"t":{{"$date":"{moment}"}},"s":"W","id":{number},"msg":"{"x" * (number % 50)}"}}\n'.encode()


def lines(first: int, end: int) -> bytes:
    """Give lines of a log, one a second, numbered."""
    return b"".join(map(line, range(first, end)))


# --- cycles against the sandbox ---------------------------------------------------------------------------------------


def stream_files(bed: Bed, node: str = NODE, ending: str = ".log") -> list[Path]:
    """Give the files of a node's stream, oldest first."""
    live = f"{node}{ending}"
    found = [*(bed.directory / "streams").glob(f"*/{live}*")]
    return sorted(found, key=lambda path: (path.name == live, path.name))


def stream(bed: Bed, node: str = NODE, ending: str = ".log") -> bytes:
    return b"".join(path.read_bytes() for path in stream_files(bed, node, ending))


async def cycle(bed: Bed, clock: ManualClock) -> CycleReport:
    """Let the cloud forget its last export, and run a cycle."""
    clock.forward(minutes=20)
    return await bed.collect()


async def test_a_stream_has_each_line_once_while_exports_grow_and_slide(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=6000) as cloud, bed.open():
        for generation in range(30):
            cloud.write(NODE, lines(generation * 20, generation * 20 + 20))
            await cycle(bed, clock)

        assert (len(bed.files()), stream(bed), known_gaps(bed.state)) == (30, cloud.log_of(NODE), ())


async def test_thirty_exports_with_cuts_restarts_and_rotations_are_one_log(bed: Bed, clock: ManualClock) -> None:
    """Exports are cut anywhere, transfers break, the daemon starts anew, files rotate away, a line comes in halves."""
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
    """The cloud gives one file a node, so far; here the second node's goes by the first one's name."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as cloud:
        first, second = (node.name for node in cloud.fleet[0].nodes)

        def renamed(reply: dict[str, Any]) -> dict[str, Any]:
            for row in reply.get("list", []):
                if row["node_name"] == second:
                    row |= {"node_name": first, "updated_at": str(int(row["updated_at"]) - 60_000)}
            return reply

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
        self.streams = Streams(directory, ledger=ledger, rotate=rotate, clock=clock)
        self.advances: list[Advance] = []

    def file(self, node: str = "node", log: LogKind = LogKind.ERROR) -> LogFile:
        """Name a snapshot that the cloud makes a minute later than the last."""
        self.clock.forward(minutes=1)
        return LogFile(instance="orders", log=log, node=node, file_name="f", updated_at=self.clock.now())

    async def give(self, content: bytes, file: LogFile | None = None) -> Snapshot:
        """Publish a snapshot; its stream does not take it yet."""
        file = file or self.file()
        key = layout.key(file)
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
    def live(self) -> Path:
        return self.directory / "streams" / "orders" / "node.log"

    @property
    def rotated(self) -> list[Path]:
        return sorted(self.live.parent.glob("node.log.*"))

    def content(self) -> bytes:
        return b"".join(path.read_bytes() for path in [*self.rotated, *([self.live] if self.live.exists() else [])])

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
    odd = [b"\xff\xfe%d\x00\r\n" % number for number in range(20)]
    await shelf.deliver(b"".join(odd[:10]), b"".join(odd[3:20]))

    assert (shelf.content(), shelf.gaps()) == (b"".join(odd), ())


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

    assert size == (len(lines(0, 10)),)
    assert (before, [path.name for path in shelf.rotated]) == (0, [f"node.log.{layout.stamp(moment)}"])
    assert (shelf.rotated[0].read_bytes(), shelf.live.read_bytes()) == (lines(0, 10), lines(10, 15))


async def test_the_name_of_a_rotated_file_is_never_used_again(shelf: Shelf, clock: ManualClock) -> None:
    await shelf.deliver(lines(0, 5))
    clock.forward(hours=24)
    taken = shelf.live.with_name(f"node.log.{layout.stamp(clock.now() + timedelta(minutes=1))}")
    taken.write_bytes(b"somebody's\n")
    await shelf.deliver(lines(0, 6))

    assert (taken.read_bytes(), len(shelf.rotated)) == (b"somebody's\n", 2)


@pytest.mark.parametrize("rotate", [Rotate(size=1000)])
async def test_a_shipper_that_follows_the_file_reads_each_line_once_across_rotations(shelf: Shelf) -> None:
    """It holds the file open, and takes the next one when the name is another file's."""
    read, file = b"", None
    for number in range(0, 60, 5):
        await shelf.deliver(lines(max(0, number - 3), number + 5))
        file = file or shelf.live.open("rb")  # open over rotations, as shippers do
        read += file.read()
        if os.fstat(file.fileno()).st_ino != shelf.live.stat().st_ino:
            file.close()
            file = shelf.live.open("rb")
            read += file.read()
    assert file is not None
    file.close()

    assert (read, len(shelf.rotated) > 2) == (lines(0, 60), True)


@pytest.mark.parametrize("how", ["unlink", "rename", "truncate"])
async def test_a_live_file_that_was_taken_away_is_begun_anew(shelf: Shelf, how: str) -> None:
    """An operator's own log rotation loses and doubles nothing."""
    await shelf.deliver(lines(0, 5))
    match how:
        case "unlink":
            shelf.live.unlink()
        case "rename":
            shelf.live.rename(shelf.live.with_name("node.log.1"))
        case _:
            os.truncate(shelf.live, 0)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(2, 9))

    assert (shelf.live.read_bytes(), [event["event"] for event in events if event["log_level"] == "warning"]) == (
        lines(5, 9),
        ["stream.begun_anew"],
    )


@pytest.mark.parametrize("foreign", [b"foreign\n", b"x", lines(0, 40)])
async def test_a_live_file_that_others_wrote_to_is_put_aside(shelf: Shelf, foreign: bytes) -> None:
    await shelf.deliver(lines(0, 5))
    with shelf.live.open("ab") as file:
        file.write(foreign)
    with structlog.testing.capture_logs() as events:
        await shelf.deliver(lines(2, 9))

    assert ([path.read_bytes() for path in shelf.rotated], shelf.live.read_bytes()) == (
        [lines(0, 5) + foreign],
        lines(5, 9),
    )
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["stream.put_aside"]
    assert shelf.row("SELECT path, size FROM stream_parts") == (
        shelf.rotated[0].relative_to(shelf.directory).as_posix(),
        len(lines(0, 5) + foreign),
    )


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
        await shelf.take(layout.series((await shelf.give(content, file)).key))

    found = {path.name: path.read_bytes() for path in shelf.live.parent.iterdir()}
    assert found == {"a.slow~.log": lines(0, 5), "a.slow.log": lines(50, 55)}


async def test_a_stream_is_readable_for_the_group_and_nobody_else(shelf: Shelf) -> None:
    mask = os.umask(0o077)
    try:
        await shelf.deliver(lines(0, 5))
    finally:
        os.umask(mask)

    modes = [oct(path.stat().st_mode & 0o777) for path in (shelf.live, shelf.live.parent, shelf.live.parent.parent)]
    assert modes == ["0o640", "0o750", "0o750"]


async def test_nothing_is_written_through_a_link(shelf: Shelf, tmp_path: Path) -> None:
    shelf.live.parent.mkdir(parents=True)
    target = tmp_path / "elsewhere"
    target.write_bytes(b"")
    shelf.live.symlink_to(target)
    await shelf.give(lines(0, 5))

    with pytest.raises(StorageError, match="ELOOP"):
        await shelf.take()
    assert target.read_bytes() == b""


async def test_rebuilt_from_snapshots_a_stream_is_the_same_and_the_old_files_are_put_aside(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10), lines(5, 15), lines(40, 50), lines(45, 60))
    before, found = shelf.content(), shelf.gaps()
    aside = await shelf.streams.rebuild("snapshots/orders/node/*.log", origin=ORIGIN, note=shelf.advances.append)

    assert aside is not None
    assert (shelf.content(), (aside / "node.log").read_bytes(), shelf.gaps()) == (before, before, found)
    assert (aside.parent, aside.name[:10], len(found)) == (shelf.live.parent, ".replaced.", 1)


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


async def _begin_and_die(shelf: Shelf, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Leave an intent behind, and nothing appended."""

    def dying(*_: object) -> int:
        raise OSError(errno.EIO, "as if killed")

    snapshot = await shelf.give(content)
    with monkeypatch.context() as patched:
        patched.setattr(os, "copy_file_range", dying)
        with pytest.raises(StorageError):
            await shelf.take()
    return snapshot


async def test_a_stream_that_fails_is_said_by_the_cycle_and_stops_no_other(bed: Bed, clock: ManualClock) -> None:
    fleet = (replica_set("solo", nodes=2),)
    async with bed.cloud(fleet=fleet) as cloud:
        first, second = (node.name for node in cloud.fleet[0].nodes)
        for name in (first, second):
            cloud.write(name, lines(0, 10))
        (bed.directory / "streams" / "solo" / f"{first}.log").mkdir(parents=True)
        report = await cycle(bed, clock)
        (bed.directory / "streams" / "solo" / f"{first}.log").rmdir()
        await cycle(bed, clock)

        assert (report.outcome, report.error_kind, "no regular file" in report.error) == (
            CycleOutcome.PARTIAL,
            "StorageError",
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
    await shelf.ledger.enter(replace(first, file=again, key=layout.key(again)))
    await shelf.give(lines(15, 40))
    await shelf.take()

    assert (shelf.content(), shelf.advances[-1].took) == (lines(0, 40), timedelta(minutes=1))


async def test_a_late_export_before_one_that_is_the_same_again_is_passed_over(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10))
    first = await shelf.give(lines(0, 20))
    late, again = shelf.file(), shelf.file()
    await shelf.ledger.enter(replace(first, file=again, key=layout.key(again)))
    await shelf.give(lines(500, 520), late)
    await shelf.give(lines(15, 40))
    await shelf.take()

    assert (shelf.content(), shelf.gaps()) == (lines(0, 40), ())


async def test_what_waits_is_taken_though_a_later_export_has_the_same_bytes(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10))
    first = await shelf.give(lines(100, 120))
    again = shelf.file()
    await shelf.ledger.enter(replace(first, file=again, key=layout.key(again)))
    await shelf.take()

    assert (shelf.content(), len(shelf.gaps())) == (lines(0, 10) + lines(100, 120), 1)


async def test_a_lost_ledger_and_a_log_without_times_whose_live_file_was_rotated_away_double_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    def plain(first: int, end: int) -> bytes:
        return b"".join(b"line %06d\n" % number for number in range(first, end))

    ledger = CountingLedger(tmp_path)
    shelf = Shelf(tmp_path, clock, ledger, Rotate())
    await shelf.deliver(plain(0, 50))
    await ledger.close()
    shelf.live.rename(shelf.live.with_name(f"node.log.{layout.stamp(clock.now())}"))
    for path in tmp_path.glob("ledger*"):
        path.unlink()

    again = CountingLedger(tmp_path)
    shelf = Shelf(tmp_path, clock, again, Rotate())
    await shelf.deliver(plain(0, 60))
    await again.close()

    assert shelf.content() == plain(0, 60)


async def test_an_instance_is_back_with_an_export_that_holds_no_whole_line(shelf: Shelf) -> None:
    await shelf.deliver(lines(0, 10))
    shelf.clock.forward(minutes=1)
    await shelf.streams.note_gone("orders")
    gone = [gap.cause for gap in shelf.gaps()]
    await shelf.deliver(line(9)[:20])

    assert (gone, shelf.gaps()) == ([GapCause.INSTANCE_GONE], ())


@pytest.mark.parametrize(("owner", "step"), [(Streams, "_look"), (stream_module, "adoption")], ids=["taken", "adopted"])
async def test_a_comparison_whose_caller_is_cancelled_has_its_turn_until_its_end(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    """Of a log that repeats itself it holds much in memory. Whoever waits for a turn need not wait when cancelled."""
    go, running = threading.Event(), threading.Semaphore(0)
    look = getattr(owner, step)

    def held_up(*arguments: Any) -> Any:
        running.release()
        go.wait()
        return look(*arguments)

    monkeypatch.setattr(owner, step, held_up)
    nodes = [f"node-{number}" for number in range(COMPARED + 1)]
    for node in nodes:
        await shelf.give(lines(0, 5), shelf.file(node))
    first, *_, last = tasks = [asyncio.create_task(shelf.take(f"snapshots/orders/{node}/*.log")) for node in nodes]
    for _ in range(COMPARED):
        await asyncio.to_thread(running.acquire)
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
