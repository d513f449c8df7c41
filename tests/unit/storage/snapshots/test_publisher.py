"""Files get their names in groups; each fails by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.errors import StorageError
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.snapshots.publisher import Publisher, Whole

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = b'{"t":{"$date":"2026-01-02T03:04:05.678+00:00"},"s":"W","msg":"one"}\n'


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher(Directories())
    yield publisher
    publisher.close()


def whole(root: Path, node: str, data: bytes = LINE, *, fd: int | None = None) -> Whole:
    final = root / "snapshots" / node / "errorlog.log"
    return Whole(
        root=root, part=final.with_name(".errorlog.log.part"), final=final, fd=fd, chunks=[data], size=len(data)
    )


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def break_sync_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, number = os.fsync, directory.stat().st_ino

    def broken(fd: int) -> None:
        if os.fstat(fd).st_ino == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)


async def publish_all(publisher: Publisher, *wholes: Whole) -> list[object]:
    return list(await asyncio.gather(*map(publisher.publish, wholes), return_exceptions=True))


async def test_a_group_of_files_is_there_under_their_names_alone(publisher: Publisher, tmp_path: Path) -> None:
    wholes = [whole(tmp_path, f"node-{at}", LINE * at) for at in range(1, 100)]

    await publish_all(publisher, *wholes)

    assert files(tmp_path) == {f"snapshots/node-{at}/errorlog.log": LINE * at for at in range(1, 100)}


async def test_the_times_of_its_lines_are_given(publisher: Publisher, tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)

    assert await publisher.publish(whole(tmp_path, "node", b"cut\n" + LINE)) == (moment, moment)


async def test_one_that_cannot_be_published_fails_alone(publisher: Publisher, tmp_path: Path) -> None:
    """Also where it shares a group with others."""
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "bad").write_bytes(b"no directory")

    ended = await publish_all(publisher, *(whole(tmp_path, node) for node in ("first", "bad", "good", "other")))

    assert [isinstance(each, StorageError) for each in ended] == [False, True, False, False]
    assert sorted(files(tmp_path)) == [
        *("snapshots/bad", "snapshots/first/errorlog.log"),
        *("snapshots/good/errorlog.log", "snapshots/other/errorlog.log"),
    ]


async def test_what_cannot_be_synced_gets_no_name_and_leaves_no_part(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync

    def broken(fd: int) -> None:
        if b"bad" in os.pread(fd, 10, 0):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", broken)
    ended = await publish_all(publisher, whole(tmp_path, "a"), whole(tmp_path, "b", b"bad\n"), whole(tmp_path, "c"))

    assert [isinstance(each, StorageError) for each in ended] == [False, True, False]
    assert sorted(files(tmp_path)) == ["snapshots/a/errorlog.log", "snapshots/c/errorlog.log"]


async def test_a_directory_that_cannot_be_synced_fails_those_in_it_alone(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their names may be lost by a power cut: they are not said to be on disk."""
    bad = tmp_path / "snapshots" / "bad"
    bad.mkdir(parents=True)
    break_sync_of(bad, monkeypatch)
    ended = await publish_all(publisher, *(whole(tmp_path, node) for node in ("first", "bad", "good")))

    assert [isinstance(each, StorageError) for each in ended] == [False, True, False]


async def test_a_directory_whose_own_entry_cannot_be_synced_fails_all_in_it_whoever_made_it(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_sync_of(tmp_path, monkeypatch)
    ended = await publish_all(publisher, *(whole(tmp_path, node) for node in ("a", "b", "c")))

    assert [isinstance(each, StorageError) for each in ended] == [True, True, True]


@pytest.mark.parametrize(("broken", "again"), [(True, True), (False, False)])
async def test_a_directory_that_could_not_be_synced_is_tried_again_unless_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool, again: bool
) -> None:
    directories, directory = Directories(), tmp_path / "other"
    if broken:
        directory.mkdir()
        break_sync_of(directory, monkeypatch)
    directories.note([directory])
    publisher = Publisher(directories)

    await publisher.publish(whole(tmp_path, "node"))
    publisher.close()

    assert (directory in directories.waiting()) is again


async def test_every_file_is_synced_before_its_name_and_every_directory_after(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power cut cannot undo."""
    steps: list[str] = []
    lock = threading.Lock()
    sync_file, sync_directory, rename = os.fdatasync, os.fsync, os.rename

    def noted(step: str) -> None:
        with lock:
            steps.append(step)

    def fdatasync(fd: int) -> None:
        noted(f"file {os.pread(fd, 1, 0).decode()}")
        sync_file(fd)

    def fsync(fd: int) -> None:
        noted(f"directory {Path(f'/proc/self/fd/{fd}').readlink().name}")
        sync_directory(fd)

    def renamed(one: Path, other: Path) -> None:
        noted(f"name {other.parent.name}")
        rename(one, other)

    for name, step in (("fdatasync", fdatasync), ("fsync", fsync), ("rename", renamed)):
        monkeypatch.setattr(os, name, step)
    nodes = ("a", "b", "c")
    await publish_all(publisher, *(whole(tmp_path, node, node.encode()) for node in nodes))

    order = [[steps.index(f"{kind} {node}") for kind in ("file", "name", "directory")] for node in nodes]
    assert [each == sorted(each) for each in order] == [True] * 3
    assert {"directory snapshots", f"directory {tmp_path.name}"} <= set(steps)


async def test_a_bug_is_told_to_one_file_alone_and_leaves_neither_descriptor_nor_part(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def broken(fd: int, data: memoryview, at: int) -> int:
        if data.tobytes() == b"bad\n":
            raise MemoryError
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", broken)
    before = len(list(Path("/proc/self/fd").iterdir()))
    ended = await publish_all(publisher, whole(tmp_path, "a"), whole(tmp_path, "b", b"bad\n"), whole(tmp_path, "c"))

    assert [type(each) for each in ended] == [tuple, MemoryError, tuple]
    assert sorted(files(tmp_path)) == ["snapshots/a/errorlog.log", "snapshots/c/errorlog.log"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_descriptors_are_closed_come_what_may(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "snapshots" / "node").mkdir(parents=True)
    taken = whole(tmp_path, "node", b"other")
    taken.final.write_bytes(b"first")
    before = len(list(Path("/proc/self/fd").iterdir()))

    await publish_all(publisher, taken, whole(tmp_path, "good"))

    assert (len(list(Path("/proc/self/fd").iterdir())), taken.final.read_bytes()) == (before, b"first")
