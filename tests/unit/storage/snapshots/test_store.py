"""Parts and snapshots on a real file system."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.errors import Changed, Locked, StorageError
from ddslogd.model.snapshot import Identity, LogFile
from ddslogd.storage import paths
from ddslogd.storage.snapshots.partial_file import MOST_HELD, SMALL
from ddslogd.storage.snapshots.store import LOCK_FILE, Store, claim
from support.live_settings import live_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILE = LogFile(instance="orders", node="node-1", file_name="errorlog", updated_at=NOW)
IDENTITY = Identity(etag='"abc"', total=10, last_modified="Fri, 02 Jan 2026 03:04:05 GMT")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "logs", settings=live_settings())
    store.open(NOW)
    yield store
    store.close()


@pytest.fixture
def reopened(tmp_path: Path) -> Store:
    return Store(tmp_path / "logs", settings=live_settings())


def start(store: Store, now: datetime = NOW) -> None:
    """Open, and look through the instance's directory as before its first cycle."""
    store.open(now)
    store.survey(FILE.instance, now)


def final(tmp_path: Path) -> Path:
    return tmp_path / "logs" / paths.snapshot_path(FILE)


def visible(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "logs").rglob("*") if path.is_file() and not path.name.startswith(".")]


async def publish(store: Store, data: bytes) -> None:
    async with store.part(FILE) as part:
        await part.begin(Identity(total=len(data)))
        await part.append([data])
        await part.publish()


async def test_nothing_is_visible_before_it_is_whole(store: Store, tmp_path: Path) -> None:
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"01234"])
        before = visible(tmp_path)
        await part.append([b"56789"])
        await part.publish()

    assert (before, final(tmp_path).read_bytes()) == ([], b"0123456789")


async def test_a_published_file_is_never_rewritten(store: Store, tmp_path: Path) -> None:
    await publish(store, b"first")

    with pytest.raises(StorageError, match="other bytes has this name already"):
        await publish(store, b"other")

    assert final(tmp_path).read_bytes() == b"first"


async def test_the_same_bytes_published_again_change_nothing(store: Store, tmp_path: Path) -> None:
    """So a crash between the rename and the ledger is made good by fetching once more."""
    await publish(store, b"first")
    number = final(tmp_path).stat().st_ino

    await publish(store, b"first")

    assert (final(tmp_path).stat().st_ino, list(final(tmp_path).parent.iterdir())) == (number, [final(tmp_path)])


async def test_a_small_file_is_not_made_before_it_is_whole(store: Store, tmp_path: Path) -> None:
    """It is written with others that get their names at the same time."""
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"01234", b"56789"])
        before = list((tmp_path / "logs").rglob("*.part"))
        digest = part.digests.md5
        await part.publish()

    assert (before, digest) == ([], "781e5e245d69b566979b86e28d23f2c7")  # md5sum of 0123456789
    assert final(tmp_path).read_bytes() == b"0123456789"


async def test_a_small_file_that_is_not_published_leaves_nothing(store: Store, tmp_path: Path) -> None:
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"0123456789"])

    async with store.part(FILE) as again:
        assert (again.size, list((tmp_path / "logs").rglob("*.part"))) == (0, [])


async def test_more_than_a_small_file_holds_is_counted(store: Store) -> None:
    """So that it does not pass for whole."""
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"0123456789"])
        await part.append([b"x"])

        assert (part.size, part.received) == (11, 11)


async def test_small_files_wait_while_too_much_of_them_is_in_memory(store: Store) -> None:
    """The disk is behind: reading goes on when it has caught up."""
    files = [replace(FILE, node=f"node-{at}") for at in range(MOST_HELD // SMALL + 1)]
    identity = Identity(etag='"abc"', total=SMALL)
    async with AsyncExitStack() as stack:
        parts = [await stack.enter_async_context(store.part(file)) for file in files]
        for part in parts[:-1]:
            await part.begin(identity)
            await part.append([bytes(SMALL)])
        waiting = asyncio.create_task(parts[-1].begin(identity))
        await asyncio.sleep(0)
        before = waiting.done()
        await parts[0].publish()
        await waiting

    assert not before


async def test_a_batch_of_many_pieces_is_written_whole(store: Store, tmp_path: Path) -> None:
    """More than one writev takes."""
    async with store.part(FILE) as part:
        await part.begin(Identity(total=None))
        await part.append([b"%05d\n" % number for number in range(3000)])
        await part.publish()

    assert final(tmp_path).read_bytes() == b"".join(b"%05d\n" % number for number in range(3000))


async def test_a_write_that_the_disk_takes_half_of_is_gone_on_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, [pieces[0][:3]]))
    async with store.part(FILE) as part:
        await part.begin(Identity(total=None))
        await part.append([b"01234", b"5", b"6789"])
        digest = part.digests.md5
        await part.publish()

    assert (final(tmp_path).read_bytes(), digest) == (b"0123456789", "781e5e245d69b566979b86e28d23f2c7")


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_modes_do_not_depend_on_the_umask(store: Store, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        await publish(store, b"data")
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (final(tmp_path), final(tmp_path).parent)]
    assert modes == [0o640, 0o750]


async def test_a_directory_that_is_a_link_is_not_written_through(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "logs" / "snapshots").symlink_to(elsewhere)

    with pytest.raises(StorageError, match="this is no directory"):
        await publish(store, b"data")

    assert list(elsewhere.iterdir()) == []


async def test_a_directory_that_was_removed_meanwhile_is_made_again(store: Store, tmp_path: Path) -> None:
    await publish(store, b"first")
    shutil.rmtree(final(tmp_path).parent)

    await publish(store, b"second")

    assert final(tmp_path).read_bytes() == b"second"


async def test_a_link_in_the_place_of_a_part_is_not_followed(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    final(tmp_path).parent.mkdir(parents=True)
    part = final(tmp_path).parent / paths.part_name(final(tmp_path).name, IDENTITY)
    part.symlink_to(victim)

    async with store.part(FILE) as fresh:
        await fresh.begin(IDENTITY)
        await fresh.append([b"0123456789"])
        await fresh.publish()

    assert (victim.read_bytes(), final(tmp_path).read_bytes()) == (b"precious", b"0123456789")


async def test_a_link_in_the_place_of_a_snapshot_is_not_followed(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"data")
    final(tmp_path).parent.mkdir(parents=True)
    final(tmp_path).symlink_to(victim)

    with pytest.raises(StorageError):
        await publish(store, b"data")

    assert victim.read_bytes() == b"data"


async def test_a_part_that_is_left_is_lent_again_with_its_bytes(store: Store) -> None:
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"01234"])

    async with store.part(FILE) as again:
        assert (again.size, again.identity, again.resumable) == (5, IDENTITY, True)


async def test_the_checksum_of_a_part_that_is_gone_on_with_covers_all_of_it(store: Store) -> None:
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"01234"])
    async with store.part(FILE) as again:
        await again.append([b"56789"])

        assert again.digests.md5 == "781e5e245d69b566979b86e28d23f2c7"  # md5sum of 0123456789


def synced_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of directories that are synced from now on, as they are."""
    real, names = os.fsync, list[str]()

    def fsync(fd: int) -> None:
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


async def test_directories_that_were_made_for_a_part_are_durable_once_it_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another transfer made them: a power cut would take the file with the entry of its directory."""
    names = synced_by(monkeypatch)
    identity = Identity(etag='"abc"', total=100_000)
    async with store.part(FILE) as part:
        await part.begin(identity)
        await part.append([b"a" * 50_000])
    async with store.part(FILE) as again:
        await again.append([b"b" * 50_000])
        await again.publish()

    assert sorted(names) == ["logs", "node-1", "orders", "snapshots"]


async def test_directories_that_an_earlier_process_made_are_durable_once_a_file_is_published(
    store: Store, reopened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(store, b"a" * 10_000)
    store.close()
    start(reopened)
    names = synced_by(monkeypatch)

    await publish(reopened, b"first")

    assert sorted(names) == ["logs", "node-1", "orders", "snapshots"]
    reopened.close()


@pytest.mark.parametrize(("node", "synced"), [("node-1", ["node-1"]), ("node-2", ["node-2", "orders"])])
async def test_a_further_file_costs_the_sync_of_its_own_directory_and_of_what_that_was_made_in(
    store: Store, monkeypatch: pytest.MonkeyPatch, node: str, synced: list[str]
) -> None:
    await publish(store, b"first")
    names = synced_by(monkeypatch)
    async with store.part(replace(FILE, node=node, updated_at=NOW + timedelta(minutes=20))) as part:
        await part.begin(Identity(total=6))
        await part.append([b"second"])
        await part.publish()

    assert sorted(names) == synced


@pytest.mark.parametrize("identity", [Identity(total=10), Identity(etag='W/"weak"', total=10), Identity(etag='"x"')])
async def test_a_part_that_nothing_can_prove_is_not_left(store: Store, tmp_path: Path, identity: Identity) -> None:
    async with store.part(FILE) as part:
        await part.begin(identity)
        await part.append([b"01234"])

    assert list(final(tmp_path).parent.iterdir()) == []


async def leave(store: Store, data: bytes) -> None:
    async with store.part(FILE) as part:
        await part.begin(Identity(etag='"abc"', total=1_000_000, last_modified="x"))
        await part.append([data])


async def test_after_a_restart_all_but_the_last_64_kib_count(store: Store, reopened: Store) -> None:
    await leave(store, b"a" * 100_000)
    store.close()
    start(reopened)

    async with reopened.part(FILE) as part:
        assert (part.size, len(part.tail)) == (100_000 - 65_536, 65_536)
    reopened.close()


async def test_a_tail_that_does_not_match_is_found(store: Store, reopened: Store) -> None:
    await leave(store, b"a" * 100_000)
    store.close()
    start(reopened)

    async with reopened.part(FILE) as part:
        with pytest.raises(Changed):
            await part.append([b"a" * 100 + b"b"])
    reopened.close()


async def test_a_tail_that_matches_is_gone_on_with(store: Store, reopened: Store) -> None:
    await leave(store, b"a" * 100_000)
    store.close()
    start(reopened)

    async with reopened.part(FILE) as part:
        await part.append([b"a" * 60_000])
        await part.append([b"a" * 5_536 + b"bbb"])
        assert (part.size, part.tail) == (100_003, b"")
    reopened.close()


async def test_at_start_a_part_of_an_export_that_is_over_is_swept(
    store: Store, reopened: Store, tmp_path: Path
) -> None:
    await leave(store, b"a" * 100_000)
    store.close()

    start(reopened, NOW + timedelta(minutes=15))

    assert list(final(tmp_path).parent.iterdir()) == []
    reopened.close()


async def test_at_start_a_hidden_file_that_names_no_identity_is_swept(
    store: Store, reopened: Store, tmp_path: Path
) -> None:
    await publish(store, b"data")
    stray = final(tmp_path).with_name(".whatever.part")
    stray.write_bytes(b"x")
    store.close()

    start(reopened)

    assert list(final(tmp_path).parent.iterdir()) == [final(tmp_path)]
    reopened.close()


async def test_without_checksums_nothing_of_an_earlier_process_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    """A length does not tell whether a power cut left zeroes in it."""
    await leave(store, b"a" * 100_000)
    store.close()
    again = Store(tmp_path / "logs", settings=live_settings(download={"verify": "length"}))
    start(again)

    async with again.part(FILE) as part:
        size = part.size
    again.close()

    assert (size, list(final(tmp_path).parent.iterdir())) == (0, [])


async def test_a_sweep_takes_only_what_is_over(store: Store, tmp_path: Path) -> None:
    await leave(store, b"a" * 100_000)

    swept = [await store.sweep(NOW + timedelta(minutes=minutes)) for minutes in (14, 15)]

    assert (swept, list(final(tmp_path).parent.iterdir())) == ([0, 1], [])


async def test_cycles_that_sweep_at_the_same_time_do_not_disturb_each_other(store: Store, tmp_path: Path) -> None:
    """Each removes some of what is over."""
    for number in range(5):
        async with store.part(replace(FILE, node=f"node-{number}")) as part:
            await part.begin(replace(IDENTITY, total=100_000))
            await part.append([b"a" * 10])

    swept = await asyncio.gather(*(store.sweep(NOW + timedelta(minutes=15)) for _ in range(3)))

    assert (sum(swept), list((tmp_path / "logs").rglob("*.part"))) == (5, [])


class Meanwhile(datetime):
    """A moment, whose every comparison takes so long that a thread looks through an instance's directory."""

    store: Store

    def __ge__(self, other: date) -> bool:
        self.store.survey("other", NOW)
        return bool(super().__ge__(other))  # type: ignore[operator]  # the types know dates only


async def test_a_sweep_is_not_disturbed_by_a_survey_that_finds_parts(store: Store, tmp_path: Path) -> None:
    """Directories are looked through in threads, next to the cycles of instances that were looked through before."""
    await leave(store, b"a" * 100_000)
    (part,) = (tmp_path / "logs").rglob("*.part")
    other = tmp_path / "logs" / paths.snapshot_path(replace(FILE, instance="other"))
    other.parent.mkdir(parents=True)
    shutil.copy(part, other.with_name(part.name))
    now = Meanwhile.fromisoformat((NOW + timedelta(minutes=14)).isoformat())
    now.store = store

    assert (await store.sweep(now), await store.sweep(NOW + timedelta(minutes=15))) == (0, 2)


async def test_a_part_that_is_cancelled_while_it_is_put_aside_is_swept_once_it_is_over(
    store: Store, tmp_path: Path
) -> None:
    """It does not count as growing for ever."""

    async def lend() -> None:
        async with store.part(FILE) as part:
            await part.begin(replace(IDENTITY, total=100_000))
            await part.append([b"a" * 10])
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(lend())
    await asyncio.wait([task])
    await store.sweep(NOW + timedelta(minutes=15))
    stray = leave_stray(tmp_path)
    await store.sweep(NOW + timedelta(days=1))

    assert (task.cancelled(), stray.exists()) == (True, False)


def leave_stray(tmp_path: Path) -> Path:
    """Leave a part of the file that no store knows of."""
    stray = final(tmp_path).parent / paths.part_name(final(tmp_path).name, IDENTITY)
    stray.write_bytes(b"stray")
    return stray


async def test_a_file_larger_than_the_disk_fails_before_a_byte_is_fetched_and_takes_no_room_meanwhile(
    store: Store, tmp_path: Path
) -> None:
    """The blocks are reserved at the beginning, but not those that are left of too few: others write there, too."""
    before, least, over = free(tmp_path), [free(tmp_path)], threading.Event()

    def watch() -> None:
        while not over.is_set():
            least.append(free(tmp_path))

    watcher = asyncio.create_task(asyncio.to_thread(watch))
    try:
        with pytest.raises(StorageError, match="ENOSPC"):
            async with store.part(FILE) as part:
                await part.begin(Identity(etag='"x"', total=before + 2**30))
    finally:
        over.set()
        await watcher

    assert (list(final(tmp_path).parent.iterdir()), min(least) > before / 2) == ([], True)


def free(directory: Path) -> int:
    """Return the bytes that are free there."""
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


async def test_a_part_that_is_closed_holds_no_reserved_blocks(store: Store, tmp_path: Path) -> None:
    await leave(store, b"a" * 4096)

    (part,) = final(tmp_path).parent.iterdir()
    assert (part.stat().st_size, part.stat().st_blocks * 512 <= 64 * 1024) == (4096, True)


async def test_room_is_judged_by_what_is_free(tmp_path: Path) -> None:
    free = await asyncio.to_thread(os.statvfs, tmp_path)
    small = Store(tmp_path, settings=live_settings(storage={"keep_free": 1}))
    large = Store(tmp_path, settings=live_settings(storage={"keep_free": free.f_blocks * free.f_frsize * 2}))

    assert (await small.has_room(), await large.has_room()) == (True, False)


@pytest.mark.usefixtures("store")
def test_a_second_process_on_the_same_directory_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ddslogd.model.errors import Locked\n"
        "from ddslogd.storage.snapshots.store import claim\n"
        "try: claim(Path(sys.argv[1]))\n"
        "except Locked as exc: print(exc)"
    )

    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "logs")], capture_output=True, text=True, check=True
    ).stdout

    assert f"(process {os.getpid()})" in told


def test_the_directory_is_free_again_after_close(store: Store, reopened: Store) -> None:
    store.close()

    reopened.open(NOW)

    with pytest.raises(Locked):
        store.open(NOW)
    reopened.close()


class SlowAdoption:
    """A file system whose reads take their time: the thread that takes a part over is held until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        pread = os.pread

        def slow(fd: int, size: int, offset: int) -> bytes:
            self.reached.set()
            self.go.wait(10)
            return pread(fd, size, offset)

        monkeypatch.setattr(os, "pread", slow)


async def test_a_cancelled_take_over_harms_neither_the_part_nor_another_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor stays open until the thread is done with it; the part is quarantined as it was."""
    await leave(store, b"a" * 100_000)
    slow = SlowAdoption(monkeypatch)

    async def take_over() -> None:
        async with store.part(FILE):
            await asyncio.Event().wait()

    task = asyncio.create_task(take_over())
    await asyncio.to_thread(slow.reached.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    innocent = tmp_path / "innocent"
    with innocent.open("w+b") as file:
        file.write(bytes(5000))
        file.flush()
        slow.go.set()
        await asyncio.wait([task])

    (part,) = final(tmp_path).parent.iterdir()
    assert (innocent.stat().st_size, part.stat().st_size, task.cancelled()) == (5000, 100_000, True)


async def test_a_part_that_cannot_be_synced_is_thrown_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel has given the pages up; the next one would succeed without them."""

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"0123456789"])
        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(StorageError, match="EIO"):
            await part.publish()

    assert list(final(tmp_path).parent.iterdir()) == []


async def test_a_part_that_cannot_be_opened_is_removed_and_begun_anew(store: Store, tmp_path: Path) -> None:
    await leave(store, b"a" * 100_000)
    (part,) = final(tmp_path).parent.iterdir()
    part.unlink()
    part.symlink_to(tmp_path / "nowhere")

    async with store.part(FILE) as fresh:
        size = fresh.size

    assert (size, list(final(tmp_path).parent.iterdir())) == (0, [])


async def test_once_a_day_parts_that_nobody_knows_of_are_swept_and_growing_ones_are_not(
    store: Store, tmp_path: Path
) -> None:
    async with store.part(FILE) as part:
        await part.begin(IDENTITY)
        await part.append([b"01234"])
        stray = final(tmp_path).with_name(".stray.part")
        stray.write_bytes(b"x")
        early = stray.exists() and await store.sweep(NOW + timedelta(hours=23))
        still_there = stray.exists()
        await store.sweep(NOW + timedelta(days=1))
        left = [path.name for path in final(tmp_path).parent.iterdir()]

    assert (early, still_there, len(left), left[0].startswith(".errorlog")) == (0, True, 1, True)


def test_the_lock_is_written_through_what_was_locked_and_follows_no_link(tmp_path: Path) -> None:
    """Somebody who may write there could have the daemon empty any file of its user's."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / LOCK_FILE).symlink_to(victim)

    with pytest.raises(StorageError, match=r"ELOOP"):
        claim(tmp_path / "logs")

    assert victim.read_text() == "precious"


def test_a_lock_whose_name_another_file_takes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, lock = tmp_path / "victim", tmp_path / LOCK_FILE
    victim.write_text("precious")
    flock = fcntl.flock

    def put_a_link_in_its_place(fd: int, how: int) -> None:
        flock(fd, how)
        lock.unlink()
        lock.hardlink_to(victim)

    monkeypatch.setattr(fcntl, "flock", put_a_link_in_its_place)
    with pytest.raises(StorageError, match="another file in the lock's place"):
        claim(tmp_path)

    assert victim.read_text() == "precious"


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK_FILE)

    with pytest.raises(StorageError, match="no regular file"):
        claim(tmp_path)
