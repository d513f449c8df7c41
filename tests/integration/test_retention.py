"""What goes and what stays: files that are on disk, a ledger that knows them, and limits as an operator writes them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.config.live_settings import LiveSettings
from ddslogd.config.settings import Storage
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import ConfigError, StorageError
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.model.stream import Gap, GapCause, StreamPart, StreamState
from ddslogd.storage import paths as storage_paths
from ddslogd.storage import retention_plan
from ddslogd.storage.file_age import Ages
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.stream_records import StreamBook
from ddslogd.storage.retention import Retention
from ddslogd.storage.retention_plan import planned
from ddslogd.storage.shippers.read_positions import AllRead, NothingRead
from support.clocks import START, TurnClock
from support.live_settings import live_settings
from support.log_streams import new_lines
from support.testbed import known_gaps, next_cycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from structlog.typing import EventDict

    from ddslogd.storage.retention_plan import Removal
    from ddslogd.storage.shippers.read_positions import Registry
    from support.clocks import ManualClock
    from support.testbed import Bed

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NODE = "solo_single_node_1"
PLENTY = 10**18  # bytes, which no disk has free: whatever may make room goes
TAKEN, UNTAKEN = True, False
LIVE = storage_paths.stream_file("snapshots/orders/node-1/*.log", START).as_posix()


class Shelf:
    """A storage directory and its ledger."""

    def __init__(self, directory: Path, state: Path, *, ledger: Ledger, clock: ManualClock) -> None:
        self.directory = directory
        self.ledger = ledger
        self.state = state
        self._clock = clock

    async def snapshot(
        self, age: timedelta, *, node: str = "node-1", size: int = 100, taken: bool = TAKEN, same_as: str = ""
    ) -> str:
        """Put a snapshot there that is so old; give its path.

        Args:
            age: By the cloud's time.
            node: Whose.
            size: Bytes.
            taken: Whether its stream has it.
            same_as: The path of an older one with the same bytes, in place of a file of its own.
        """
        at = START - age
        file = LogFile(instance="orders", node=node, file_name="errorlog", updated_at=at)
        key = storage_paths.key(file)
        entry = Snapshot(
            file=file,
            key=key,
            path=same_as or key,
            size=size,
            md5="aa",
            etag="",
            verified=True,
            began_at=START,
            stored_at=START,
        )
        await self.ledger.enter(entry)
        if not same_as:
            self._write(key, size)
        if taken:
            await StreamBook(self.ledger).pass_over([key])
        return key

    async def stream(
        self, *ages: timedelta, node: str = "node-1", size: int = 100, live: int = 10, reference: str = ""
    ) -> list[str]:
        """Put a stream there; give the paths of its rotated files.

        Args:
            ages: How long ago each of them was rotated away.
            node: Whose.
            size: Bytes of each.
            live: Bytes of the live file.
            reference: The snapshot that the next one is compared with.
        """
        name = storage_paths.series(f"snapshots/orders/{node}/x.log")
        path = storage_paths.stream_file(name, START)
        parts = [
            StreamPart(
                path=storage_paths.stream_file(name, START - age).as_posix(),
                series=name,
                size=size,
                first_at=START - age - HOUR,
                last_at=START - age,
                rotated_at=START - age,
            )
            for age in ages
        ]
        state = StreamState(
            series=name,
            instance="orders",
            log=LogKind.ERROR,
            node=node,
            path=path.as_posix(),
            size=live,
            born_at=START,
            reference=reference,
            reference_at=START,
        )
        await StreamBook(self.ledger).adopt(state, parts=parts, taken=())
        self._write(path.as_posix(), live)
        for part in parts:
            self._write(part.path, size)
        return [part.path for part in parts]

    def _write(self, path: str, size: int) -> None:
        (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / path).write_bytes(b"x" * size)

    def storage(self, **given: Any) -> Storage:
        """Return the settings, with no limits but those that are given."""
        keep = {"age": None, "size": None, **given.pop("keep", {})}
        base = {
            "directory": str(self.directory),
            "state": str(self.state),
            "keep_free": 0,
            "keep": keep,
            "snapshots": "all",
        }
        return Storage.model_validate(base | given)

    def removals(self, *, streamed: bool = True, registry: Registry | None = None, **given: Any) -> tuple[Removal, ...]:
        """Return what would go."""
        return planned(self.storage(**given), streamed=streamed, registry=registry or AllRead(), now=START)

    def going(self, *, streamed: bool = True, registry: Registry | None = None, **given: Any) -> list[str]:
        """Return the paths of what would go, in order."""
        return [removal.file.path for removal in self.removals(streamed=streamed, registry=registry, **given)]

    def retention(self, *, streamed: bool = True, **given: Any) -> Retention:
        base = live_settings(stream={"enabled": streamed}).current
        live = LiveSettings(base.model_copy(update={"storage": self.storage(**given)}))
        return Retention(live, ledger=self.ledger, clock=self._clock)

    def files(self) -> list[str]:
        """Return the paths of all files that are there."""
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.directory).as_posix() for path in paths)

    def gaps(self) -> tuple[Gap, ...]:
        return known_gaps(self.state)


@pytest.fixture
async def shelf(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Shelf]:
    (tmp_path / "logs").mkdir(exist_ok=True)
    ledger = Ledger(tmp_path / "state")
    await ledger.open()
    yield Shelf(tmp_path / "logs", tmp_path / "state", ledger=ledger, clock=clock)
    await ledger.close()


class ReadSoFar:
    """What a shipper has read: bytes by path; nothing is known of other files."""

    def __init__(self, directory: Path, positions: Mapping[str, int]) -> None:
        self._positions = {directory / path: size for path, size in positions.items()}

    def position(self, path: Path) -> int | None:
        return self._positions.get(path)


def free(directory: Path) -> int:
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


class Disk:
    """A tmpfs of its own, where nobody else takes room."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> int:
        return free(self.path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "logs"
    path.mkdir(exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        pytest.skip(f"this machine forbids mounts (uid {os.getuid()}): {exc}")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def small(disk: Disk, shelf: Shelf) -> Shelf:
    """Put the shelf on a disk of its own."""
    assert shelf.directory == disk.path
    return shelf


def shares(removals: tuple[Removal, ...]) -> list[tuple[str, str, bool]]:
    return [(removal.file.path, removal.reason.value, removal.unshipped) for removal in removals]


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_what_is_older_than_the_age_goes_the_oldest_first(shelf: Shelf) -> None:
    """To the millisecond; of each kind."""
    parts = await shelf.stream(31 * DAY, 30 * DAY + MINUTE, 30 * DAY, DAY)
    snapshots = [await shelf.snapshot(age) for age in (30 * DAY, 40 * DAY, 35 * DAY, HOUR)]

    assert shares(shelf.removals(keep={"age": "30d"})) == [
        (snapshots[1], "age", False),
        (snapshots[2], "age", False),
        (parts[0], "age", False),
        (parts[1], "age", False),
    ]


async def test_while_there_is_too_much_of_a_kind_its_oldest_go_and_no_more(shelf: Shelf) -> None:
    """Live files and what may not go count too: 310 bytes of streams, 400 of snapshots."""
    parts = await shelf.stream(3 * DAY, 2 * DAY, DAY)
    snapshots = [await shelf.snapshot(age * DAY) for age in (4, 3, 2, 1)]

    assert shares(shelf.removals(keep={"size": 210})) == [
        (snapshots[0], "size", False),
        (snapshots[1], "size", False),
        (parts[0], "size", False),
    ]


@pytest.mark.parametrize(("size", "going"), [(310, 0), (309, 1), (211, 1), (210, 1), (209, 2), (1, 3)])
async def test_as_much_as_the_size_may_stay(shelf: Shelf, size: int, going: int) -> None:
    parts = await shelf.stream(3 * DAY, 2 * DAY, DAY)

    assert shelf.going(keep={"size": size}) == parts[:going]


@pytest.mark.parametrize(("kind", "gone"), [("snapshots", "snapshots"), ("streams", "streams")])
@pytest.mark.parametrize("limit", [{"age": "1d"}, {"size": 50}])
async def test_each_kind_can_have_limits_of_its_own(
    shelf: Shelf, kind: str, gone: str, limit: dict[str, object]
) -> None:
    await shelf.stream(5 * DAY, 4 * DAY)
    for age in (5, 4, 3):
        await shelf.snapshot(age * DAY)

    going = shelf.going(keep={"age": "10d", "size": "1MiB", kind: limit})

    assert [path.partition("/")[0] for path in going] == [gone] * 2


async def test_a_kind_with_one_limit_of_its_own_has_the_other_of_all(shelf: Shelf) -> None:
    parts = await shelf.stream(5 * DAY, 4 * DAY, 3 * DAY)

    going = shelf.going(keep={"age": "100h", "size": 20, "streams": {"size": "1MiB"}})

    assert going == parts[:1]


async def test_without_limits_nothing_goes(shelf: Shelf) -> None:
    await shelf.stream(3000 * DAY, 2 * DAY)
    await shelf.snapshot(3000 * DAY)
    await shelf.snapshot(DAY)

    assert shelf.going(keep={"age": None, "size": None}) == []


def test_30_days_and_50_gib_of_each_kind_are_kept_where_nothing_else_is_said() -> None:
    keep = Storage().keep

    limits = {(limits.age, limits.size) for limits in (keep.limits(keep.snapshots), keep.limits(keep.streams))}
    assert limits == {(30 * DAY, 50 * 1024**3)}


# --- what never goes --------------------------------------------------------------------------------------------------

NEVER_ENOUGH: dict[str, Any] = {"keep_free": PLENTY, "keep": {"age": "1m", "size": 1}, "snapshots": "latest"}


async def test_the_newest_snapshot_of_each_node_and_log_stays(shelf: Shelf) -> None:
    for node in ("node-1", "node-2"):
        for days in (3, 2, 1):
            await shelf.snapshot(days * DAY, node=node)

    going = shelf.going(**NEVER_ENOUGH)

    stay = [path for path in shelf.files() if path not in going]
    assert [(path.split("/")[2], path.endswith(".20260101T030405.000Z.log")) for path in stay] == [
        ("node-1", True),
        ("node-2", True),
    ]


async def test_a_file_whose_bytes_the_newest_export_had_again_stays(shelf: Shelf) -> None:
    """It is what the next one is compared with."""
    oldest = await shelf.snapshot(3 * DAY)
    same = await shelf.snapshot(2 * DAY)
    await shelf.snapshot(DAY, same_as=same)

    assert shelf.going(**NEVER_ENOUGH) == [oldest]


async def test_what_a_stream_compares_the_next_export_with_stays(shelf: Shelf) -> None:
    """The newest snapshot may have had not one whole line."""
    oldest, reference = await shelf.snapshot(3 * DAY), await shelf.snapshot(2 * DAY)
    await shelf.snapshot(DAY)
    await shelf.stream(reference=reference)

    assert shelf.going(**NEVER_ENOUGH) == [oldest]


async def test_what_a_stream_has_yet_to_take_stays(shelf: Shelf) -> None:
    oldest = await shelf.snapshot(4 * DAY)
    for days in (3, 2, 1):
        await shelf.snapshot(days * DAY, taken=UNTAKEN)

    assert shelf.going(**NEVER_ENOUGH) == [oldest]


async def test_without_streams_nothing_has_to_be_taken(shelf: Shelf) -> None:
    snapshots = [await shelf.snapshot(days * DAY, taken=UNTAKEN) for days in (3, 2, 1)]

    assert shelf.going(streamed=False, **NEVER_ENOUGH) == snapshots[:2]


async def test_what_is_about_to_get_its_name_stays(shelf: Shelf, tmp_path: Path) -> None:
    promised = await shelf.snapshot(3 * DAY)
    await shelf.snapshot(DAY)
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE snapshots SET published = 0 WHERE key = ?", (promised,))

    assert shelf.going(**NEVER_ENOUGH) == []


async def test_live_files_stay(shelf: Shelf) -> None:
    parts = await shelf.stream(2 * DAY, DAY, live=100_000)

    assert shelf.going(**NEVER_ENOUGH) == parts


async def test_the_newest_file_of_a_stream_stays_though_it_is_closed(shelf: Shelf) -> None:
    """Where the ledger is lost, it says where the stream goes on; its bytes count once."""
    *parts, newest = await shelf.stream(3 * DAY, 2 * DAY, DAY, live=0)
    with closing(sqlite3.connect(shelf.state / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE streams SET path = ?, closed = 1", (newest,))

    assert shelf.going(**NEVER_ENOUGH) == parts


# --- only the latest snapshots ----------------------------------------------------------------------------------------


async def test_where_only_the_latest_are_wanted_the_others_go(shelf: Shelf) -> None:
    """All that nothing needs any more, whatever the limits; streams are not meant."""
    await shelf.stream(DAY, reference=await shelf.snapshot(4 * HOUR))
    old = [await shelf.snapshot(hours * HOUR, node="node-2") for hours in (3, 2)]
    await shelf.snapshot(HOUR, node="node-2")

    assert shares(shelf.removals(snapshots="latest")) == [(path, "superseded", False) for path in old]


# --- what a shipper has read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"keep": {"age": "1h"}}, {"keep": {"size": 10}}])
async def test_what_was_read_to_its_end_goes_and_nothing_else(shelf: Shelf, limits: dict[str, Any]) -> None:
    """Of the first nothing is known, the second was read but for a byte, the fourth is longer than it was."""
    parts = await shelf.stream(5 * DAY, 4 * DAY, 3 * DAY, 2 * DAY)
    registry = ReadSoFar(shelf.directory, {parts[1]: 99, parts[2]: 100, parts[3]: 101})

    assert shelf.going(registry=registry, **limits) == parts[2:]


async def test_as_much_goes_as_has_to_though_the_oldest_was_not_read(shelf: Shelf) -> None:
    parts = await shelf.stream(4 * DAY, 3 * DAY, 2 * DAY, DAY)
    registry = ReadSoFar(shelf.directory, dict.fromkeys(parts[1:], 100))

    assert shelf.going(registry=registry, keep={"size": 310}) == parts[1:2]


async def test_what_snapshots_hold_streams_hold_too_so_they_count_as_read(shelf: Shelf) -> None:
    old = await shelf.snapshot(2 * DAY)
    await shelf.snapshot(DAY)

    assert shelf.going(registry=NothingRead(), keep={"age": "1h"}) == [old]


async def test_without_streams_a_shipper_reads_snapshots(shelf: Shelf) -> None:
    _, read = await shelf.snapshot(3 * DAY), await shelf.snapshot(2 * DAY)
    await shelf.snapshot(DAY)
    registry = ReadSoFar(shelf.directory, {read: 100})

    going = [
        shelf.going(streamed=False, registry=registry, keep=limit)
        for limit in ({"age": "1h"}, {"size": 1}, {"size": 250})
    ]

    assert going == [[read]] * 3


async def test_where_room_is_short_what_was_read_goes_and_nothing_else(shelf: Shelf) -> None:
    """Half of ``keep_free`` is free still."""
    parts = await shelf.stream(4 * DAY, 3 * DAY, 2 * DAY)
    registry = ReadSoFar(shelf.directory, {parts[1]: 100})

    removals = shelf.removals(registry=registry, keep_free=free(shelf.directory) * 3 // 2)

    assert shares(removals) == [(parts[1], "room", False)]


async def test_where_not_even_half_of_keep_free_is_free_the_unread_go_too_after_the_read(shelf: Shelf) -> None:
    parts = await shelf.stream(4 * DAY, 3 * DAY, 2 * DAY)
    registry = ReadSoFar(shelf.directory, {parts[1]: 100})

    removals = shelf.removals(registry=registry, keep_free=free(shelf.directory) * 3)

    assert shares(removals) == [(parts[1], "room", False), (parts[0], "room", True), (parts[2], "room", True)]


async def test_no_more_goes_than_brings_back_keep_free(small: Shelf, disk: Disk) -> None:
    """Snapshots first, then streams, of each the oldest first."""
    parts = await small.stream(9 * DAY, 8 * DAY, size=4096)
    snapshots = [await small.snapshot(days * DAY, size=4096) for days in (3, 2, 1)]

    going = [small.going(keep_free=disk.free() + short) for short in (0, 1, 4096, 4097, 8193, 12289)]

    expected = [*snapshots[:2], *parts]
    assert going == [expected[:files] for files in (0, 1, 1, 2, 3, 4)]


async def test_no_more_of_the_unread_goes_than_brings_back_half_of_keep_free(small: Shelf, disk: Disk) -> None:
    parts = await small.stream(*(days * DAY for days in (5, 4, 3, 2, 1)), size=4096)
    registry = ReadSoFar(small.directory, {parts[4]: 4096})

    lost = [
        [removal.file.path for removal in small.removals(registry=registry, keep_free=2 * keep) if removal.unshipped]
        for keep in (disk.free(), disk.free() + 4096, disk.free() + 4097, disk.free() + 8193)
    ]

    assert lost == [[], [], parts[:1], parts[:2]]  # the one that was read makes room for the first 4,096 bytes


async def test_what_goes_for_its_age_makes_room_as_well(small: Shelf, disk: Disk) -> None:
    parts = await small.stream(9 * DAY, 8 * DAY, size=4096)

    going = small.going(keep_free=disk.free() + 4096, keep={"age": "204h"})

    assert going == parts[:1]


async def test_a_real_shipper_is_asked(shelf: Shelf, tmp_path: Path) -> None:
    """Alloy's positions: files by path."""
    parts = await shelf.stream(3 * DAY, 2 * DAY, DAY)
    positions = tmp_path / "positions.yml"
    known = {parts[0]: 40, parts[1]: 100}
    positions.write_text(
        "positions:\n"
        + "".join(f"  ? {{path: {shelf.directory / path}}}\n  : '{size}'\n" for path, size in known.items())
    )

    removed = await shelf.retention(keep={"age": "1h"}, shipper={"kind": "alloy", "registry": str(positions)}).run()

    assert shares(removed) == [(parts[1], "age", False)]
    assert (parts[1] in shelf.files(), parts[0] in shelf.files(), parts[2] in shelf.files()) == (False, True, True)


async def test_where_a_shippers_books_cannot_be_read_nothing_counts_as_read_and_it_is_told_once(
    shelf: Shelf, tmp_path: Path
) -> None:
    """And once more after they could be read again."""
    (part,) = await shelf.stream(DAY)
    positions = tmp_path / "positions.yml"
    retention = shelf.retention(keep={"age": "1h"}, shipper={"kind": "alloy", "registry": str(positions)})

    with capture_logs() as events:
        await retention.run()
        await retention.run()
        positions.write_text("positions: {}\n")
        await retention.run()
        positions.unlink()
        await retention.run()

    told = [(event["event"], event["log_level"], event["kind"]) for event in events]
    assert (told, part in shelf.files()) == ([("shipper.unreadable", "warning", "alloy")] * 2, True)


# --- removing ---------------------------------------------------------------------------------------------------------


async def test_what_goes_is_gone_from_disk_and_books_and_is_told_once(shelf: Shelf) -> None:
    await shelf.stream(3 * DAY, 2 * DAY)
    for days in (3, 2):
        await shelf.snapshot(days * DAY)
    newest = await shelf.snapshot(MINUTE)
    retention = shelf.retention(keep={"age": "60h", "streams": {"age": "1h", "size": 1}})

    with capture_logs() as events:
        await retention.run()
        await retention.run()

    assert shelf.files() == sorted([newest, (await snapshots_left(shelf))[0], LIVE])
    assert events == [
        {"event": "retention.removed", "log_level": "info", "removed_bytes": 300, "unshipped": 0, "age": 3}
    ]


async def snapshots_left(shelf: Shelf) -> list[str]:
    """Return the snapshots that the ledger says are there, oldest first."""
    query = "SELECT key FROM snapshots WHERE published AND present ORDER BY updated_ms"
    return await shelf.ledger.run(lambda db: [str(key) for (key,) in db.execute(query)])


async def test_each_reason_is_counted(shelf: Shelf) -> None:
    await shelf.stream(3 * DAY, 2 * DAY, 20 * HOUR)
    await shelf.snapshot(2 * HOUR)
    await shelf.snapshot(HOUR)

    with capture_logs() as events:
        await shelf.retention(keep={"age": "60h", "streams": {"size": 150}}, snapshots="latest").run()

    (event,) = events
    counts = {reason: event.get(reason) for reason in ("age", "size", "room", "superseded")}
    assert counts == {"age": 1, "size": 1, "room": None, "superseded": 1}


async def test_more_files_than_are_removed_together_all_go(shelf: Shelf) -> None:
    await shelf.stream(*(DAY + number * MINUTE for number in range(1100)), size=1)

    removed = await shelf.retention(keep={"age": "1h"}).run()

    assert (len(removed), shelf.files()) == (1100, [LIVE])


async def test_nothing_to_remove_is_nothing_to_tell(shelf: Shelf) -> None:
    await shelf.stream(DAY)

    with capture_logs() as events:
        removed = await shelf.retention().run()

    assert (removed, events) == ((), [])


async def test_what_was_not_read_and_has_to_go_is_a_gap_from_its_first_line_to_its_last(
    shelf: Shelf, tmp_path: Path
) -> None:
    (part,) = await shelf.stream(DAY)
    positions = tmp_path / "positions.yml"
    positions.write_text("positions: {}\n")
    retention = shelf.retention(keep_free=PLENTY, shipper={"kind": "alloy", "registry": str(positions)})

    with capture_logs() as events:
        await retention.run()

    gap = Gap(
        instance="orders",
        log=LogKind.ERROR,
        node="node-1",
        after=START - DAY - HOUR,
        until=START - DAY,
        cause=GapCause.EVICTED_UNSHIPPED,
        noted_at=START,
        cut=False,
        path=part,
    )
    told = [(event["event"], event["log_level"], event["room"], event["unshipped"]) for event in events]
    assert (shelf.gaps(), part in shelf.files(), told) == ((gap,), False, [("retention.removed", "warning", 1, 1)])


async def test_a_gap_is_noted_before_its_file_goes(shelf: Shelf, tmp_path: Path) -> None:
    """Where it cannot be noted, the file stays."""
    (part,) = await shelf.stream(DAY)
    positions = tmp_path / "positions.yml"
    positions.write_text("positions: {}\n")
    retention = shelf.retention(keep_free=PLENTY, shipper={"kind": "alloy", "registry": str(positions)})
    await shelf.ledger.run(lambda db: db.execute("ALTER TABLE gaps RENAME TO lost"))

    with pytest.raises(StorageError, match="gaps"):
        await retention.run()

    assert part in shelf.files()


def obstruct(path: Path) -> None:
    """Put something there that cannot be removed like a file."""
    path.unlink()
    (path / "within").mkdir(parents=True)


async def test_a_file_that_cannot_be_removed_is_told_of_and_keeps_no_other(shelf: Shelf) -> None:
    first, second = await shelf.stream(3 * DAY, 2 * DAY)
    obstruct(shelf.directory / first)
    retention = shelf.retention(keep={"age": "1h"})

    with capture_logs() as events:
        await retention.run()

    failed = [(event["path"], event["log_level"]) for event in events if event["event"] == "retention.failed"]
    assert (failed, second in shelf.files()) == ([(first, "warning")], False)


async def test_a_file_that_cannot_be_removed_is_tried_again(shelf: Shelf) -> None:
    (part,) = await shelf.stream(DAY)
    obstruct(shelf.directory / part)
    retention = shelf.retention(keep={"age": "1h"})
    await retention.run()
    (shelf.directory / part / "within").rmdir()
    (shelf.directory / part).rmdir()
    (shelf.directory / part).write_bytes(b"x")

    await retention.run()

    assert shelf.files() == [LIVE]


async def test_only_what_was_removed_is_told_as_removed(shelf: Shelf) -> None:
    first, second = await shelf.stream(3 * DAY, 2 * DAY)
    obstruct(shelf.directory / first)

    with capture_logs() as events:
        removed = await shelf.retention(keep={"age": "1h"}).run()

    told = [(event["age"], event["removed_bytes"]) for event in events if event["event"] == "retention.removed"]
    assert ([removal.file.path for removal in removed], told) == ([second], [(1, 100)])


async def test_what_could_not_be_removed_is_no_gap_and_what_was_is(shelf: Shelf, tmp_path: Path) -> None:
    parts = await shelf.stream(3 * DAY, 2 * DAY)
    obstruct(shelf.directory / parts[0])

    shipper = {"kind": "alloy", "registry": str(tmp_path / "nowhere")}
    await shelf.retention(keep_free=PLENTY, shipper=shipper).run()

    assert [(gap.path, gap.cause) for gap in shelf.gaps()] == [(parts[1], "evicted unshipped")]


async def test_another_file_goes_in_the_place_of_one_that_cannot_be_removed(shelf: Shelf) -> None:
    """There is as much on disk as before: what is too much is too much still."""
    parts = await shelf.stream(3 * DAY, 2 * DAY, DAY)
    obstruct(shelf.directory / parts[0])
    retention = shelf.retention(keep={"size": 210})

    await retention.run()
    await retention.run()

    assert [path in shelf.files() for path in parts[1:]] == [False, True]


async def test_a_file_that_is_gone_is_no_error_and_is_forgotten(shelf: Shelf) -> None:
    """Nor is one whose directory is gone."""
    await shelf.stream(2 * DAY)
    await shelf.snapshot(2 * DAY, node="node-2")
    await shelf.snapshot(DAY, node="node-2")
    (shelf.directory / shelf.files()[0]).unlink()
    shutil.rmtree(shelf.directory / "streams" / "orders")
    retention = shelf.retention(keep={"age": "1h"})

    with capture_logs() as events:
        removed = [len(await retention.run()) for _ in range(2)]

    assert (removed, [event["event"] for event in events]) == ([1, 0], ["retention.removed"])


async def test_what_an_operator_removed_makes_no_room_any_more(shelf: Shelf) -> None:
    """So that others need not, or must, go in its place."""
    oldest, removed, newest = await shelf.stream(3 * DAY, 2 * DAY, DAY)
    (shelf.directory / removed).unlink()

    await shelf.retention(keep={"size": 210}).run()

    assert [path in shelf.files() for path in (oldest, newest)] == [True, True]


async def test_many_cycles_that_find_no_room_make_room_once_a_minute(shelf: Shelf, clock: ManualClock) -> None:
    await shelf.stream(DAY)
    retention = shelf.retention(keep_free=PLENTY)
    await asyncio.gather(*(retention.make_room() for _ in range(5)))
    (late,) = await shelf.stream(DAY, node="node-2")

    clock.forward(seconds=59)
    await retention.make_room()
    before = late in shelf.files()
    clock.forward(seconds=1)
    await retention.make_room()

    assert (before, late in shelf.files()) == (True, False)


async def test_a_clock_that_was_put_back_does_not_keep_room_from_being_made(shelf: Shelf, clock: ManualClock) -> None:
    retention = shelf.retention(keep_free=PLENTY)
    await retention.make_room()
    (late,) = await shelf.stream(DAY)

    clock.forward(days=-10)
    await retention.make_room()

    assert late not in shelf.files()


# --- with everything else ---------------------------------------------------------------------------------------------

WINDOW = 20_000  # bytes that an export of this cloud holds


def stream(bed: Bed) -> bytes:
    """Return what is there of the node's stream, in order."""
    live = bed.directory / "streams" / "solo" / f"{NODE}.log"
    rotated = sorted(live.parent.glob(f"{live.name}.*"))
    return b"".join(path.read_bytes() for path in (*rotated, live))


def keep(bed: Bed, text: str) -> None:
    bed.set("keep_free: 0\n", f"keep_free: 0\n  {text}\n")


class Planner:
    """Runs what a shelf asks, and notes which indexes find it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.plan = ""

    def execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self.plan += "\n".join(row[3] for row in self._db.execute(f"EXPLAIN QUERY PLAN {query}", values))
        return self._db.execute(query, values)


async def test_what_a_cycle_removes_is_found_by_indexes_however_many_entries_there_are(shelf: Shelf) -> None:
    def ask(db: sqlite3.Connection) -> tuple[str, str]:
        of_instance, of_streams = Planner(db), Planner(db)
        ages = Ages(now=START)
        for planner in (of_instance, of_streams):
            shelved = retention_plan.Shelf(planner, ages, streamed=True, kept="none")  # type: ignore[arg-type]
            list(
                shelved.snapshots(directory="snapshots/orders", spent=True)
                if planner is of_instance
                else shelved.parts()
            )
        return of_instance.plan, of_streams.plan

    of_instance, of_streams = await shelf.ledger.run(ask)

    assert "SEARCH s USING INDEX snapshots_spent (series>? AND series<?)" in of_instance
    assert "SEARCH l USING INDEX stream_parts_of_series (series=? AND path>?)" in of_streams


@pytest.mark.parametrize(("snapshots", "number"), [("latest", 1), ("none", 0)])
async def test_of_each_node_the_latest_snapshot_is_enough_for_its_stream_or_none(
    bed: Bed, snapshots: str, number: int
) -> None:
    bed.snapshots = snapshots
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        left = []
        for _ in range(6):
            cloud.write(NODE, new_lines(WINDOW * 3 // 4))
            await next_cycle(bed)
            left.append(len(bed.files()))

        assert (left, stream(bed), known_gaps(bed.state)) == ([number] * 6, cloud.log_of(NODE), ())


@pytest.mark.parametrize("snapshots", ["latest", "none"])
def test_without_streams_the_latest_are_not_enough(bed: Bed, snapshots: str) -> None:
    bed.snapshots = snapshots
    bed.set("instances:\n", "stream: {enabled: false}\ninstances:\n")

    with pytest.raises(ConfigError, match=rf"{snapshots} needs stream\.enabled"):
        bed.settings  # noqa: B018  # the reading of it is what is refused


async def test_whatever_goes_between_cycles_the_stream_goes_on_without_a_gap(bed: Bed) -> None:
    """Everything that may go goes, again and again; only the oldest lines are missing then."""
    chance = random.Random(3)
    keep(bed, "keep: {age: 1m, size: 1}")
    bed.set("instances:\n", "stream: {rotate: {size: 30KB}}\ninstances:\n")
    async with bed.cloud(window=WINDOW) as cloud, bed.open() as service:
        for _ in range(20):
            cloud.write(NODE, new_lines(chance.randrange(WINDOW)))
            await next_cycle(bed)
            bed.clock.forward(minutes=chance.randrange(5))
            if chance.random() < 0.7:
                await service._archive.retention.run()

        there, log = stream(bed), cloud.log_of(NODE)
        assert (len(there) < len(log), log.endswith(there), known_gaps(bed.state)) == (True, True, ())


async def test_a_cycle_that_would_meet_keep_free_makes_room_first(bed: Bed, disk: Disk) -> None:
    bed.set("keep_free: 0", "keep_free: 300KiB")
    async with bed.cloud(window=60_000) as cloud:
        assert bed.directory == disk.path
        async with bed.open():
            for size in (60_000, 20_000, 20_000):
                cloud.write(NODE, new_lines(size))
                await next_cycle(bed)
            (disk.path / "others").write_bytes(bytes(disk.free() - 299 * 1024))
            room = disk.free()
            cloud.write(NODE, new_lines(1000))

            with capture_logs() as events:
                await next_cycle(bed)
                report = await next_cycle(bed)  # the first file that goes is no larger than the one that comes

        assert (room < 300 * 1024, report.outcome, stream(bed)) == (True, CycleOutcome.OK, cloud.log_of(NODE))
    assert events_of(events, "retention.", "disk.")[:1] == ["retention.removed"]


def events_of(events: list[EventDict], *areas: str) -> list[str]:
    return [event["event"] for event in events if event["event"].startswith(areas)]


async def test_what_is_too_old_goes_every_hour(bed: Bed) -> None:
    """One snapshot an hour becomes too old, so each run removes one."""
    bed.clock = TurnClock(sleepers=5)  # the runs of the instance, and four chores
    keep(bed, "keep: {age: 10d}")
    bed.set("every: 20m", 'cron: "0 0 1 1 *"')
    async with bed.cloud(), bed.open() as service:
        shelf = Shelf(bed.directory, bed.state, ledger=service._archive.ledger, clock=bed.clock)
        for hours in (0.4, -0.4, -1.4, -2.4):
            await shelf.snapshot(10 * DAY + hours * HOUR)
        await shelf.snapshot(DAY)
        with capture_logs() as events:
            serving = asyncio.create_task(service.serve())
            async with asyncio.timeout(20):
                while len(events_of(events, "retention.")) < 4:
                    await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait([serving])

    removed = [event["age"] for event in events if event["event"] == "retention.removed"]
    assert (removed, round((bed.clock.time - START) / HOUR, 1)) == ([1] * 4, 3.0)


async def test_a_disk_that_refuses_is_told_and_ends_nothing(bed: Bed) -> None:
    bed.clock = TurnClock(sleepers=5)
    bed.set("every: 20m", 'cron: "0 0 1 1 *"')
    async with bed.cloud(), bed.open() as service:
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
            db.execute("ALTER TABLE stream_parts RENAME TO lost")
        with capture_logs() as events:
            serving = asyncio.create_task(service.serve())
            async with asyncio.timeout(20):
                while len(events_of(events, "retention.")) < 2:
                    await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait([serving])

    assert events_of(events, "retention.") == ["retention.failed"] * 2
