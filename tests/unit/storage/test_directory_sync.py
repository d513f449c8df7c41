"""Who syncs the directories on the way to a file: whoever relies on it, once a process."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.errors import StorageError
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.snapshots.store import claim

if TYPE_CHECKING:
    from collections.abc import Callable


class Syncs:
    """Notes what is synced; a directory's sync can be made to wait, or to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        self.before(name)
        self._real(fd)
        self.names.append(name)

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return names


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


@pytest.mark.parametrize("there", [False, True])
def test_the_way_down_is_synced_once_whoever_made_it(tmp_path: Path, syncs: Syncs, *, there: bool) -> None:
    directories = Directories()
    if there:
        (tmp_path / "streams" / "orders").mkdir(parents=True)
    directories.secure(tmp_path, tmp_path / "streams" / "orders")
    first = syncs.taken()
    directories.secure(tmp_path, tmp_path / "streams" / "orders")
    again = syncs.taken()
    directories.secure(tmp_path, tmp_path / "streams" / "events")
    another = syncs.taken()

    assert (first, again, another) == ([tmp_path.name, "streams", "orders"], [], ["streams", "events"])


def test_a_directory_that_is_made_again_is_synced_again(tmp_path: Path, syncs: Syncs) -> None:
    directories = Directories()
    directories.secure(tmp_path, tmp_path / "streams" / "orders")
    (tmp_path / "streams" / "orders").rmdir()
    (tmp_path / "streams").rmdir()
    syncs.taken()

    directories.secure(tmp_path, tmp_path / "streams" / "orders")

    assert syncs.taken() == [tmp_path.name, "streams"]


def test_what_another_thread_is_still_syncing_is_not_relied_on(tmp_path: Path, syncs: Syncs) -> None:
    """Its sync may yet fail."""
    directories, held_up, go = Directories(), threading.Event(), threading.Event()

    def before(name: str) -> None:
        if name == tmp_path.name and threading.current_thread() is slow:
            held_up.set()
            go.wait()

    syncs.before = before
    slow = threading.Thread(target=directories.secure, args=(tmp_path, tmp_path / "streams" / "orders"))
    slow.start()
    held_up.wait()
    directories.secure(tmp_path, tmp_path / "streams" / "events")
    names = syncs.taken()
    go.set()
    slow.join()

    assert {tmp_path.name, "streams", "events"} <= {*names}


def test_what_was_made_while_a_sync_ran_waits_for_another(tmp_path: Path, syncs: Syncs) -> None:
    directories = Directories()
    directories.note([tmp_path])
    syncs.before = lambda _: directories.note([tmp_path])
    directories.sync(tmp_path)

    assert directories.waiting() == [tmp_path]


def test_a_sync_that_fails_is_tried_again(tmp_path: Path, syncs: Syncs) -> None:
    directories = Directories()

    def refuse(_: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    syncs.before = refuse
    with pytest.raises(OSError, match="Input/output error"):
        directories.secure(tmp_path, tmp_path / "streams")
    syncs.before = lambda _: None
    directories.secure(tmp_path, tmp_path / "streams")

    assert syncs.taken() == [tmp_path.name, "streams"]


@pytest.mark.parametrize("there", [False, True])
def test_who_claims_a_directory_syncs_the_way_to_it_whoever_made_it(
    tmp_path: Path, syncs: Syncs, *, there: bool
) -> None:
    directory = tmp_path / "var" / "lib" / "ddslogd"
    if there:
        directory.mkdir(parents=True)

    os.close(claim(directory))

    assert syncs.taken()[:3] == ["lib", "var", tmp_path.name]


@pytest.mark.parametrize(("there", "refused"), [(False, True), (True, False)])
def test_what_cannot_be_synced_above_a_directory_matters_where_we_made_it(
    tmp_path: Path, syncs: Syncs, *, there: bool, refused: bool
) -> None:
    def refuse(name: str) -> None:
        if name == "var":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    (tmp_path / "var").mkdir()
    if there:
        (tmp_path / "var" / "ddslogd").mkdir()
    syncs.before = refuse
    failed = ""
    try:
        os.close(claim(tmp_path / "var" / "ddslogd"))
    except StorageError as exc:
        failed = str(exc)

    assert ("EINVAL" in failed) is refused
