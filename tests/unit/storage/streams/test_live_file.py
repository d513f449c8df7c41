"""The live file of a stream on its way to disk: what of it a power cut would miss."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from ddslogd.model.stream import Intent, Piece
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.streams import live_file
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


def append(directory: Path, base: int, directories: Directories) -> None:
    (directory / "export").write_bytes(LINES)
    lines = Piece(path="export", start=0, end=len(LINES))
    intent = Intent(
        snapshot="export", lines=lines, path=STREAM.as_posix(), base=base, delivered=len(LINES), updated_at=START
    )
    live_file.append(directory, SERIES, intent, directories=directories, reserve=Reserve(), old_until=None)


def test_the_directory_of_a_new_live_file_is_synced_once_the_file_is_there(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    """The way to it was synced before, without the file's own entry."""
    directories = Directories()
    directories.secure(tmp_path, (tmp_path / STREAM).parent)
    synced.clear()

    append(tmp_path, 0, directories)

    assert synced == [("node", True), (STREAM.name, False)]


def test_the_directory_of_a_live_file_that_grows_is_not_synced_again(
    tmp_path: Path, synced: list[tuple[str, bool]]
) -> None:
    directories = Directories()
    append(tmp_path, 0, directories)
    synced.clear()

    append(tmp_path, len(LINES), directories)

    assert (synced, (tmp_path / STREAM).read_bytes()) == ([(STREAM.name, False)], LINES * 2)
