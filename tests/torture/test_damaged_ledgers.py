"""Damage of any kind: a start succeeds whatever a ledger holds, and streams go on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from ddslogd.cli import main
from ddslogd.model.cycle import CycleOutcome, CycleReport
from ddslogd.model.errors import ConfigError, LedgerDamaged, StorageError
from ddslogd.model.export import Habit
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.model.stream import Gap, GapCause, Intent, Piece, StreamState
from ddslogd.sandbox import replica_set
from ddslogd.service.systemd import Notifier
from ddslogd.storage import paths
from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.gap_records import gaps
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.stream_records import StreamBook
from support.clocks import START
from support.log_streams import NODE, cycle, lines, stream, stream_files
from support.testbed import ANY_PORT, known_gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

FLIPPED = (40, 40, 2, 1)  # bytes of a ledger, by turns


class Estate:
    """A replica set's logs and books, which can be damaged and put back as they were."""

    def __init__(self, bed: Bed, cloud: Sandbox, clock: ManualClock, home: Path) -> None:
        self.bed = bed
        self.cloud = cloud
        self.clock = clock
        self.nodes = [node.name for node in cloud.fleet[0].nodes]
        self._home = home
        self._written = 0

    async def cycle(self) -> None:
        self.clock.forward(minutes=20)
        await self.bed.collect()

    def write(self, count: int) -> None:
        for node in self.nodes:
            self.cloud.write(node, lines(self._written, self._written + count))
        self._written += count

    async def live(self) -> None:
        """Collect for a while: rotated files, a gap, and something that is about to be appended."""
        for _ in range(2):
            async with self.bed.open():
                for _ in range(6):
                    self.write(10)
                    await self.cycle()
            shutil.copyfile(self.ledger, self._home.with_name(f"copy-{self._written}"))
        shutil.copytree(self._home, self._home.with_name("kept"), symlinks=True)

    @property
    def ledger(self) -> Path:
        return self.bed.state / "ledger.sqlite3"

    def put_back(self) -> None:
        shutil.rmtree(self._home)
        shutil.copytree(self._home.with_name("kept"), self._home, symlinks=True)

    def flip(self, seed: int) -> None:
        chance = random.Random(seed)
        content = bytearray(self.ledger.read_bytes())
        for _ in range(FLIPPED[seed % len(FLIPPED)]):
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
        self.ledger.write_bytes(content)

    def streams(self) -> dict[str, bytes]:
        found = {}
        for node in self.nodes:
            found[node] = stream(self.bed, node)
        return found


@pytest.fixture
async def estate(bed: Bed, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Estate]:
    bed.directory, bed.state = tmp_path / "home" / "logs", tmp_path / "home" / "state"
    bed.set("instances:", "stream: {rotate: {size: 2KiB}}\ninstances:")
    async with bed.cloud(fleet=(replica_set("solo"),), window=2500) as cloud:
        estate = Estate(bed, cloud, clock, tmp_path / "home")
        await estate.live()
        yield estate


async def start_flipped(estate: Estate, seeds: range) -> None:
    """Start with flipped bytes, many or few, and expect of it what is expected of a sound ledger."""
    estate.write(10)
    began, logs = estate.clock.time, {node: estate.cloud.log_of(node) for node in estate.nodes}
    for seed in seeds:
        estate.put_back()
        estate.flip(seed)
        estate.clock.time = began
        with suppress(StorageError, ConfigError), database.reading(estate.ledger) as db:  # as commands do beforehand
            status_queries.books(db, all_nodes=True)
            gaps(db)

        await estate.cycle()

        with database.reading(estate.ledger) as db:
            assert list(status_queries.books(db, all_nodes=True).standings) == ["solo"], seed
            gaps(db)
        assert estate.streams() == logs, seed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 40, 10))
async def test_a_start_succeeds_whatever_bytes_of_the_ledger_are_flipped(estate: Estate, seed: int) -> None:
    await start_flipped(estate, range(seed, seed + 10))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 300, 50))
async def test_three_hundred_starts_of_three_hundred_succeed(estate: Estate, seed: int) -> None:
    await start_flipped(estate, range(seed, seed + 50))


FILE = LogFile(instance="solo", node="node", file_name="f", updated_at=START)
SNAPSHOT = Snapshot(
    file=FILE,
    key=paths.key(FILE),
    path=paths.key(FILE),
    size=1,
    md5="a",
    etag="e",
    verified=True,
    began_at=START,
    stored_at=START,
)
GAP = Gap(
    instance="solo",
    log=LogKind.ERROR,
    node="node",
    after=START,
    until=START,
    cause=GapCause.DAEMON_DOWN,
    noted_at=START,
    cut=False,
    path="p",
)
STATE = StreamState(
    series=paths.series(SNAPSHOT.key),
    instance="solo",
    log=LogKind.ERROR,
    node="node",
    path="streams/solo/node/20260102T030405.000Z.log",
    size=0,
    born_at=START,
    reference_at=START,
)
INTENT = Intent(
    snapshot=SNAPSHOT.key,
    lines=Piece(path=SNAPSHOT.path, start=0, end=1),
    path="streams/solo/node/20260102T030405.000Z.log",
    base=0,
    delivered=1,
    updated_at=START,
    first_at=START,
    gap=GAP,
)
HABIT = Habit(log=LogKind.ERROR, asked="all", takes=(1.0,), fresh_until=START)


async def small_ledger(directory: Path) -> Path:
    """Make a ledger with a row of each kind."""
    ledger = Ledger(directory)
    await ledger.open()
    book = StreamBook(ledger)
    await ledger.enter(SNAPSHOT)
    await book.intend(STATE, INTENT)
    await book.enter_gaps([(STATE.series, GAP)])
    report = CycleReport(instance="solo", started_at=START, finished_at=START, outcome=CycleOutcome.OK, habits=[HABIT])
    await ledger.close_cycle(report, tick=START)
    await ledger.close()
    return ledger.path


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"CREATE TABLE snapshots", b"CREATE TABLE snapsh\xffts", id="a schema that is no text"),
        pytest.param(b"CREATE TABLE gaps", b"CREATE TABLE gbps", id="a table of another name"),
        pytest.param(b"request_ids TEXT", b"requesc_ids TEXT", id="a column of another name"),
        pytest.param(b"daemon down", b"daemon\xffdown", id="a value that is no text"),
        pytest.param(b"daemon down", b"daemon gown", id="a cause that there is not"),
        pytest.param(b"[1.0]", b"[1.0}", id="no JSON"),
        pytest.param(b"snapshots/solo/node/f.", b"snapshots/solo/node\0f.", id="no path"),
        pytest.param(b"SQLite format 3", b"SQLite format 4", id="no database"),
    ],
)
async def test_whatever_is_not_as_it_was_written_is_damage(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = await small_ledger(tmp_path)
    overwrite(path, old, new)
    again = Ledger(tmp_path)
    with structlog.testing.capture_logs() as events:
        known = await again.open()
    await again.close()

    told = [event["event"] for event in events]
    assert (known, told, path.with_name(f"{path.name}.damaged-1").exists()) == (False, ["ledger.damaged"], True)


@pytest.mark.parametrize(
    ("offset", "number"),
    [(60, 3), (60, 2**31), (60, 10_000), (18, 0x03000000), (44, 9), (56, 2)],
    ids=["an older version", "a negative version", "a version far off", "file format", "schema format", "encoding"],
)
async def test_a_header_that_was_not_written_so_is_damage(tmp_path: Path, offset: int, number: int) -> None:
    path = await small_ledger(tmp_path)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(number.to_bytes(4, "big"))

    again = Ledger(tmp_path)
    known = await again.open()
    await again.close()

    assert (known, path.with_name(f"{path.name}.damaged-1").exists()) == (False, True)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gaps SET cause = 'xyz'",
        "UPDATE snapshots SET log = 'xyz'",
        "UPDATE snapshots SET path = '/etc/passwd'",
        "UPDATE streams SET intent = '{}'",
        "UPDATE streams SET intent = json_set(intent, '$.lines.start', 'x')",
        "UPDATE streams SET intent = json_set(intent, '$.updated_at', 'x')",
        "UPDATE streams SET intent = json_set(intent, '$.gap.cause', 'xyz')",
        "UPDATE exports SET takes = '[\"x\"]'",
        "UPDATE standings SET new_bytes = '{'",
    ],
)
async def test_a_row_that_was_not_written_so_is_found_when_it_is_read(tmp_path: Path, statement: str) -> None:
    """Where the ledger is too large to be read whole at the start."""
    await small_ledger(tmp_path)
    ledger = Ledger(tmp_path)
    await ledger.open()
    await ledger.run(lambda db: db.execute(statement).fetchall())
    book = StreamBook(ledger)
    with structlog.testing.capture_logs() as events:
        await ledger.known(paths.key(replace(FILE, file_name="other")))
        await book.backlog(STATE.series)
        await book.gap(STATE.series, "p")
        await ledger.habits()
        report = CycleReport(instance="solo", started_at=START, finished_at=START, outcome=CycleOutcome.OK)
        await ledger.close_cycle(report, tick=START)
    await ledger.close()

    assert ([event["event"] for event in events], ledger.generation) == (["ledger.damaged"], 1)


async def test_a_bug_of_ours_is_no_damage(tmp_path: Path) -> None:
    path = await small_ledger(tmp_path)
    ledger = Ledger(tmp_path)
    await ledger.open()

    def bug(_: sqlite3.Connection) -> None:
        GapCause("xyz")

    with pytest.raises(ValueError, match="xyz"):
        await ledger.run(bug)
    with pytest.raises(StorageError, match="no such table"):
        await ledger.run(lambda db: db.execute("SELECT * FROM no_such_table").fetchall())
    await ledger.close()

    assert not path.with_name(f"{path.name}.damaged-1").exists()


@pytest.mark.parametrize("command", ["status", "gaps", "prune"])
async def test_a_command_says_that_the_ledger_is_damaged_and_who_repairs_it(
    estate: Estate, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = estate.bed.state.with_name("ddslogd.yaml")
    config.write_text(estate.bed.text + ANY_PORT)
    overwrite(estate.ledger, b"CREATE TABLE snapshots", b"CREATE TABLE snapsh\xffts")
    arguments = ["--dry-run"] if command == "prune" else []
    monkeypatch.setattr("sys.argv", ["ddslogd", command, "-c", str(config), *arguments])

    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main.main)

    said = capsys.readouterr().err
    assert (ended.value.code, "the ledger is damaged" in said, "start the daemon" in said) == (74, True, True)


# --- while it runs ----------------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


def _remove_the_file_alone(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"another file")
    other.rename(path)


def _truncate(path: Path) -> None:
    os.truncate(path, 8192)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


def _write_a_copy_over(path: Path) -> None:
    """Of before the last start but one."""
    shutil.copyfile(path.parents[2] / "copy-60", path)


def _remove_the_wal(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


HARM = [_remove, _remove_the_file_alone, _replace, _truncate, _overwrite, _write_a_copy_over, _remove_the_wal]


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
async def test_a_ledger_that_is_harmed_while_running_is_said_and_no_line_is_lost_or_doubled(
    estate: Estate, harm: Callable[[Path], None]
) -> None:
    async with estate.bed.open() as service:
        estate.write(10)
        await estate.cycle()
        harm(estate.ledger)
        with structlog.testing.capture_logs() as events:
            await service._look()
        for _ in range(3):
            estate.write(10)
            await estate.cycle()
    for _ in range(2):
        estate.write(10)
        await estate.cycle()

    told = [event["event"] for event in events if event["log_level"] == "error"]
    assert told in (["ledger.lost"], ["ledger.damaged"])
    assert estate.streams() == {node: estate.cloud.log_of(node) for node in estate.nodes}
    assert service._archive.ledger.trouble


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
async def test_a_ledger_that_is_harmed_in_mid_cycle_is_made_good_at_once(
    estate: Estate, harm: Callable[[Path], None]
) -> None:
    """No look comes before the transactions of the cycle."""
    async with estate.bed.open() as service:
        estate.write(10)
        estate.clock.forward(minutes=20)
        cycle = asyncio.create_task(service.once([estate.bed.instance()]))
        while not estate.cloud.calls["object"] % 3:
            await asyncio.sleep(0)
        harm(estate.ledger)
        await cycle
        await service._look()
        for _ in range(3):
            estate.write(10)
            await estate.cycle()

    with database.reading(estate.ledger) as db:
        assert list(status_queries.books(db).standings) == ["solo"]
    assert estate.streams() == {node: estate.cloud.log_of(node) for node in estate.nodes}


class Loss:
    """The ledger is found damaged by a transaction, that many from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: int | None = None
        committed = Ledger._committed

        def damaged(ledger: Ledger, group: Any) -> list[Any]:
            if self.after == 0:
                self.after = None
                raise LedgerDamaged("lost")
            self.after = None if self.after is None else self.after - 1
            return committed(ledger, group)

        monkeypatch.setattr(Ledger, "_committed", damaged)


def known_parts(bed: Bed) -> list[Path]:
    """Return the files of streams that were rotated away, as the ledger knows them, oldest first."""
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
        return [bed.directory / path for (path,) in db.execute("SELECT path FROM stream_parts ORDER BY path")]


def untimed(first: int, end: int) -> bytes:
    return b"".join(b"line %d of the log\n" % number for number in range(first, end))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snapshots", "write"),
    [("all", lines), ("all", untimed), ("latest", lines), ("latest", untimed), ("none", lines)],
)
async def test_a_ledger_that_is_lost_at_any_step_of_a_cycle_loses_and_doubles_no_line(
    bed: Bed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, snapshots: str, write: Callable[[int, int], bytes]
) -> None:
    """Also of a log without times, while a snapshot is there to prove it. And retention knows each rotated file."""
    bed.snapshots = snapshots
    bed.set("instances:", "stream: {rotate: {size: 100}}\ninstances:")
    loss, numbers = Loss(monkeypatch), count(step=2)
    async with bed.cloud() as cloud, bed.open():

        async def run(*, lost_after: int | None = None) -> None:
            first = next(numbers)
            cloud.write(NODE, write(first, first + 2))
            loss.after = lost_after
            await cycle(bed, clock)

        await run()
        with structlog.testing.capture_logs() as events:
            for step in count():
                await run(lost_after=step)
                if loss.after is not None:  # a cycle has no more steps
                    break
                await run()
                assert (stream(bed), known_parts(bed)) == (cloud.log_of(NODE), stream_files(bed)[:-1]), step
        loss.after = None

    told = [event["event"] for event in events]
    assert (told.count("ledger.damaged"), "stream.gap" in told) == (step, False)
    assert step >= 8  # else the steps were not counted


async def test_what_a_removed_ledger_held_is_saved(estate: Estate) -> None:
    """Not only what the disk tells: the gaps too."""
    async with estate.bed.open() as service:
        await StreamBook(service._archive.ledger).enter_gaps([(STATE.series, GAP)])
        _remove(estate.ledger)
        await service._look()

        assert known_gaps(estate.bed.state) == (GAP,)


async def test_the_status_line_says_that_the_ledger_was_lost(estate: Estate) -> None:
    said: list[str] = []

    class Heard(Notifier):
        def status(self, text: str) -> None:
            said.append(text)

    async with estate.bed.open() as service:
        _remove(estate.ledger)
        await service._look()
        await service._tell(Heard())

    assert said[0].startswith("the ledger was removed while it was in use")


# --- times ------------------------------------------------------------------------------------------------------------


@given(st.one_of(st.integers(), st.floats(), st.text(), st.none()))
@example(253_402_300_800_000)
@example(1e300)
@example(-(2**63))
def test_every_number_is_read_as_some_moment(ms: Any) -> None:
    assert database.moment_of(ms).tzinfo is UTC
    found = database.log_moment(ms)
    assert found is None or 1990 <= found.year < 2100


@pytest.mark.parametrize("year", [1, 1989, 2100, 9999])
def test_a_lines_time_that_is_none_is_not_written(year: int) -> None:
    assert database.log_ms(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)) is None


async def test_times_of_lines_that_older_versions_took_for_times_heal(tmp_path: Path) -> None:
    """A line dated in the year 9999: rounded, it reaches the year 10000, and every reader of the row raised."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as db:
        for number, schema in enumerate(MIGRATIONS[:4], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        series, late = STATE.series, 253_402_300_800_000
        intent = '{"snapshot": "k", "lines": {"path": "k", "start": 0, "end": 1}, "unfinished": null, "rotate_to": "",'
        intent += '"rotated_inode": 0, "base": 0, "delivered": 1, "updated_at": "2026-01-02T00:00:00+00:00",'
        intent += '"first_at": "9999-12-31T23:59:59.999999+00:00", "last_at": null, "older": false, "gap": null}'
        db.execute(
            "INSERT INTO snapshots VALUES ('k', 'k', ?, 'solo', 'error', 'n', 'f', 1, 1, 1, '', '', '', 1, '', 1, 1,"
            " 1, ?, ?, 1, 1, 0, 1)",
            (series, -1, late),
        )
        db.execute(
            "INSERT INTO streams VALUES (?, 'solo', 'error', 'n', 0, 1, ?, ?, '', 1, 0, ?, ?)",
            (series, late, late, late, intent),
        )
        db.execute("INSERT INTO stream_parts VALUES ('p', 's', 0, ?, ?, 1)", (late, late))
        db.execute("INSERT INTO gaps VALUES ('s', 'p', 'solo', 'error', 'n', ?, ?, 'daemon down', 1, 0)", (late, late))
        cycle = "INSERT INTO cycles VALUES (1, 'solo', 1, 1, 1, 'ok', 0, 0, 0, 0, 0, '', '', 0)"
        db.execute(cycle)
        db.execute("INSERT INTO standings VALUES ('solo', 1, 1, 0, ?, '[]')", (late,))

    ledger = Ledger(tmp_path)
    known = await ledger.open()
    state = (await StreamBook(ledger).backlog(series)).state
    await ledger.close()

    with database.reading(tmp_path / "ledger.sqlite3") as db:
        (gap,) = gaps(db)
        books = status_queries.books(db, all_nodes=True)
    assert state is not None
    assert state.intent is not None
    assert (known, state.last_at, state.delivered_at, state.intent.first_at) == (True, None, None, None)
    assert (gap.after, gap.until, books.standings["solo"].newest_line) == (None, None, None)
