"""Lines on their way to the newest file of a stream: what a power cut would miss, and who shares whose failure."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path, PurePosixPath

import pytest

from ddslogd.model.stream import Intent, Piece
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.streams.stream_appender import Append, Appended, StreamAppender
from ddslogd.storage.streams.stream_files import StreamFiles
from support.clocks import START

LINES = b"one line\nanother\n"
SERIES = "snapshots/orders/node/*.log"
STREAM = PurePosixPath("streams/orders/node/20260102T030405.678Z.log")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is synced from now on, by name, and whether the live file was there."""
    found, real = list[tuple[str, bool]](), os.fsync

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        real(fd)
        found.append((path.name, path.is_dir() and (path / STREAM.name).exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def intent(directory: Path, base: int, stream: PurePosixPath = STREAM) -> Intent:
    (directory / "export").write_bytes(LINES)
    lines = Piece(path="export", start=0, end=len(LINES))
    return Intent(
        snapshot="export", lines=lines, path=stream.as_posix(), base=base, delivered=len(LINES), updated_at=START
    )


async def append(directory: Path, base: int, directories: Directories) -> Appended:
    appender = StreamAppender(StreamFiles(directory, directories=directories), Reserve())
    appended = await appender.append(Append(series=SERIES, intent=intent(directory, base), old_until=None))
    appender.close()
    return appended


async def test_the_directory_of_a_new_file_is_synced_once_the_file_is_there(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    """The way to it was synced before, without the file's own entry; the link's directory is synced, too."""
    directories = Directories()
    directories.secure(tmp_path, (tmp_path / STREAM).parent)
    synced.clear()

    await append(tmp_path, 0, directories)

    assert (synced[0], sorted(synced[1:])) == ((STREAM.name, False), [("node", True), ("orders", False)])


async def test_the_directory_of_a_file_that_grows_is_not_synced_again(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    directories = Directories()
    await append(tmp_path, 0, directories)
    synced.clear()

    await append(tmp_path, len(LINES), directories)

    assert (synced, (tmp_path / STREAM).read_bytes()) == ([(STREAM.name, False)], LINES * 2)


async def test_the_directory_of_a_file_of_an_earlier_process_is_synced(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    """It may have ended between the file's sync and the directory's."""
    await append(tmp_path, 0, Directories())
    synced.clear()

    await append(tmp_path, len(LINES), Directories())

    assert ("node", True) in synced


async def test_a_group_shares_the_syncs_of_directories_and_no_failure(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    """Ten streams of an instance; something is in the way of one."""
    appender = StreamAppender(StreamFiles(tmp_path, directories=Directories()), Reserve())
    (tmp_path / "streams/orders").mkdir(parents=True)
    (tmp_path / "streams/orders/node-3").write_bytes(b"no directory")
    nodes = [f"node-{number}" for number in range(10)]
    appends = [
        Append(
            series=f"snapshots/orders/{node}/*.log",
            intent=intent(tmp_path, 0, STREAM.parent.with_name(node) / STREAM.name),
            old_until=None,
        )
        for node in nodes
    ]
    await appender.append(Append(series=SERIES, intent=intent(tmp_path, 0), old_until=None))
    synced.clear()

    found = await asyncio.gather(*map(appender.append, appends), return_exceptions=True)

    appender.close()
    there = [node for node, one in zip(nodes, found, strict=True) if isinstance(one, Appended) and one.is_done]
    assert there == [node for node in nodes if node != "node-3"]
    assert all((tmp_path / "streams/orders" / node / STREAM.name).read_bytes() == LINES for node in there)
    assert [name for name, _ in synced].count("orders") < len(nodes) // 2  # the first is a group of its own
