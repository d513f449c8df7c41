"""A ledger that is older than the files: put back from a copy, as the README lets operators do."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.model.stream import GapCause
from support.log_streams import NODE, cycle, lines, stream, stream_files
from support.testbed import known_gaps

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

pytestmark = pytest.mark.slow

ROTATED = "stream: {rotate: {size: 1KiB}}\ninstances:"
WHOLE = "stream: {rotate: {size: 1MiB}}\ninstances:"


class Diary:
    """Cycles that write ten lines each, and what was said."""

    def __init__(self, bed: Bed, cloud: Sandbox, clock: ManualClock) -> None:
        self.bed = bed
        self.cloud = cloud
        self.clock = clock
        self.events: list[str] = []
        self._written = 0

    async def write(self, cycles: int, *, each: int = 10) -> None:
        """Run so many cycles in one daemon, the one that is open or one of its own."""
        with structlog.testing.capture_logs() as events:
            async with self.bed.open() if self.bed.service is None else nullcontext():
                for _ in range(cycles):
                    self.cloud.write(NODE, lines(self._written, self._written + each))
                    self._written += each
                    await cycle(self.bed, self.clock)
        self.events += [event["event"] for event in events if event["log_level"] in {"warning", "error"}]

    @property
    def ledger(self) -> Path:
        return self.bed.state / "ledger.sqlite3"

    def copy(self) -> None:
        shutil.copy(self.ledger, self.bed.state.with_name("copy"))

    def put_back(self) -> None:
        for ending in ("-wal", "-shm"):
            self.ledger.with_name(f"{self.ledger.name}{ending}").unlink(missing_ok=True)
        shutil.copy(self.bed.state.with_name("copy"), self.ledger)


@pytest.mark.parametrize("rotate", [ROTATED, WHOLE])
@pytest.mark.parametrize("snapshots", ["all", "latest", "none"])
@pytest.mark.parametrize("cycles", [1, 8])
async def test_a_ledger_put_back_from_a_copy_doubles_nothing_and_is_said_once(
    bed: Bed, clock: ManualClock, rotate: str, snapshots: str, cycles: int
) -> None:
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", rotate)
        bed.snapshots = snapshots
        diary = Diary(bed, cloud, clock)
        await diary.write(8)
        diary.copy()
        await diary.write(cycles)
        diary.put_back()
        diary.events.clear()
        await diary.write(8)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())
    adopted = [] if snapshots == "none" else ["ledger.adopted"]
    assert diary.events == [*adopted, "ledger.outdated", "stream.adopted"]


async def test_where_the_snapshots_since_are_gone_the_next_export_shows_it(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", WHOLE)
        diary = Diary(bed, cloud, clock)
        await diary.write(4)
        diary.copy()
        await diary.write(4)
        diary.put_back()
        for path in bed.files():
            path.unlink()
        await diary.write(4)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_an_export_that_overflowed_since_is_one_gap_and_no_line_is_twice(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", ROTATED)
        diary = Diary(bed, cloud, clock)
        await diary.write(4)
        diary.copy()
        await diary.write(6)
        diary.put_back()
        await diary.write(1, each=40)

        found = stream(bed).splitlines()
        assert [gap.cause for gap in known_gaps(bed.state)] == [GapCause.WINDOW_OVERFLOW]
    assert len(found) == len(set(found))


async def test_a_copy_that_is_put_back_beside_what_the_last_process_left(bed: Bed, clock: ManualClock) -> None:
    """A crash left the -wal, which SQLite would lay over the older file."""
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", ROTATED)
        diary = Diary(bed, cloud, clock)
        await diary.write(4)
        diary.copy()
        async with bed.open():
            await diary.write(6)
            wal = diary.ledger.with_name(f"{diary.ledger.name}-wal")
            left = wal.read_bytes()
        diary.put_back()
        wal.write_bytes(left)
        await diary.write(6)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_a_copy_that_was_made_while_something_was_about_to_be_appended(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", ROTATED)
        diary = Diary(bed, cloud, clock)
        await diary.write(4)
        intents: list[bytes] = []
        async with bed.open() as service:
            assert service._archive.streams is not None
            book = service._archive.streams.book
            commit = book.commit

            async def copy_first(*args: object, **kwargs: object) -> object:
                with (
                    closing(sqlite3.connect(diary.ledger)) as db,
                    closing(sqlite3.connect(bed.state.with_name("copy"))) as to,
                ):
                    db.backup(to)
                    intents.extend(to.execute("SELECT intent FROM streams").fetchone())
                return await commit(*args, **kwargs)  # type: ignore[arg-type]

            book.commit = copy_first  # type: ignore[method-assign,assignment]
            await diary.write(1)
        await diary.write(6)
        diary.put_back()
        await diary.write(6)

        assert all(intents)
        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_books_that_fit_the_files_are_not_doubted(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(window=1500) as cloud:
        bed.set("instances:", ROTATED)
        diary = Diary(bed, cloud, clock)
        for _ in range(6):
            await diary.write(2)

        assert (stream(bed), len(stream_files(bed)) > 3, diary.events) == (cloud.log_of(NODE), True, [])
