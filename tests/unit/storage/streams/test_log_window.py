"""A file as a window: read in pieces, and copied from by the kernel or through this process."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.errors import StorageError
from ddslogd.storage.streams import log_window

if TYPE_CHECKING:
    from pathlib import Path

DATA = bytes(range(256)) * 1000


@pytest.fixture(params=["by the kernel", "in small pieces", "through this process"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel copy all, a little at a time, or nothing: what file systems differ in."""
    copy = os.copy_file_range

    def little(source: int, target: int, size: int, start: int, at: int) -> int:
        return copy(source, target, min(size, 1000), start, at)

    def refused(*_: int) -> int:
        raise OSError(errno.EXDEV, "no")

    ways = {"in small pieces": little, "through this process": refused}
    if request.param in ways:
        monkeypatch.setattr(os, "copy_file_range", ways[request.param])


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("start", "size"), [(0, len(DATA)), (1, len(DATA) - 1), (100_000, 70_000), (7, 0)])
def test_a_piece_is_copied_to_its_place(tmp_path: Path, start: int, size: int) -> None:
    (tmp_path / "source").write_bytes(DATA)
    (tmp_path / "target").write_bytes(b"before")
    with log_window.opened(tmp_path / "source") as source, (tmp_path / "target").open("r+b") as target:
        source.copy_to(target.fileno(), 6, start=start, size=size)

    assert (tmp_path / "target").read_bytes() == b"before" + DATA[start : start + size]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("start", "size"), [(0, len(DATA) + 1), (len(DATA), 1), (len(DATA) + 1, 1)])
def test_what_is_not_there_cannot_be_copied(tmp_path: Path, start: int, size: int) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with (
        log_window.opened(tmp_path / "source") as source,
        (tmp_path / "target").open("wb") as target,
        pytest.raises(StorageError, match="shorter"),
    ):
        source.copy_to(target.fileno(), 0, start=start, size=size)


@pytest.mark.usefixtures("_way")
def test_what_came_after_the_window_was_opened_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with log_window.opened(tmp_path / "source") as source, (tmp_path / "target").open("wb") as target:
        (tmp_path / "source").write_bytes(DATA * 2)
        with pytest.raises(StorageError, match="shorter"):
            source.copy_to(target.fileno(), 0, start=10, size=len(DATA))

    assert (tmp_path / "target").read_bytes() == DATA[10:]


def test_another_refusal_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "source").write_bytes(DATA)
    with (
        log_window.opened(tmp_path / "source") as source,
        (tmp_path / "target").open("wb") as target,
        pytest.raises(OSError, match="full"),
    ):
        source.copy_to(target.fileno(), 0, start=0, size=10)
