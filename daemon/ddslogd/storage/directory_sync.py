"""The directories that files are made in, and the syncs that a power cut would miss.

One rule for snapshots and streams: before something in a directory is relied on, each directory on the way from the
storage directory down to it has been synced by this process. Whoever made them (another thread, or a process that ended
before it could sync them) does not matter.
"""

from __future__ import annotations

from itertools import count
from threading import Lock
from typing import TYPE_CHECKING

from ddslogd.storage.filesystem import make_directories, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Directories:
    """Makes directories for several threads, and knows of which the entries are not durable yet."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._number = count()
        self._unsynced: dict[Path, int] = {}  # with the number of the last note: a sync before it does not count
        self._vouched: set[str] = set()  # directories whose way from the root this process has synced, or is to

    def make(self, root: Path, path: Path, *, seen: set[str], with_entries: bool = False) -> None:
        """Make those that are missing below the root, but for those seen a moment ago; blocks.

        Who finds a directory that another thread has just made finds the sync that its entry needs here, too. Whether
        an earlier process came to sync what it made is not known: it is synced with the first file that needs it.
        With its own entries, where somebody else may have made what is in the last one.

        Raises:
            OSError: The disk refuses.
            StorageError: One of them is a link to elsewhere, or no directory.
        """
        with self._lock:
            self._note(make_directories(root, path, seen=seen))
            self._vouch(root, path if with_entries else path.parent)

    def secure(self, root: Path, path: Path) -> None:
        """Make those that are missing below the root, and sync the way down to the last, with its own entries; blocks.

        What this process has synced is not synced again.

        Raises:
            OSError: The disk refuses; the next call tries again.
            StorageError: One of them is a link to elsewhere, or no directory.
        """
        with self._lock:
            self._note(make_directories(root, path, seen=set()))
            self._vouch(root, path)
            # Also what another thread is syncing: whether it succeeds is not known yet.
            waiting = [one for one in reversed((path, *path.parents)) if one in self._unsynced]
        for directory in waiting:
            self.sync(directory)

    def note(self, directories: Iterable[Path]) -> None:
        """Record that directories have entries to be synced."""
        with self._lock:
            self._note(directories)

    def waiting(self) -> list[Path]:
        """Return those to be synced now."""
        with self._lock:
            return list(self._unsynced)

    def sync(self, directory: Path) -> None:
        """Sync one that has been noted; blocks. One that cannot be synced stays noted, unless it is gone.

        Raises:
            OSError: The disk refuses.
        """
        with self._lock:
            number = self._unsynced.get(directory)
        try:
            sync_directory(directory)
        except FileNotFoundError:
            self._forget(directory, number)
            raise
        self._forget(directory, number)

    def _note(self, directories: Iterable[Path]) -> None:
        self._unsynced.update((one, next(self._number)) for one in directories)

    def _vouch(self, root: Path, path: Path) -> None:
        """Record a directory and those above it, up to the root, unless that was done before."""
        while str(path) not in self._vouched and path.is_relative_to(root):  # else with all above it
            self._vouched.add(str(path))
            self._note([path])
            path = path.parent

    def _forget(self, directory: Path, number: int | None) -> None:
        with self._lock:
            if self._unsynced.get(directory) == number:
                self._unsynced.pop(directory, None)
