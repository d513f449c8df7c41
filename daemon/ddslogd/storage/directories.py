"""The directories that files are made in, and the syncs that a power cut would miss."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from ddslogd.storage.filesystem import make_directories

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Directories:
    """Makes directories for several threads, and knows of which the entries are not durable yet."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsynced: set[Path] = set()
        self._vouched: set[str] = set()  # directories whose way from the root this process has synced, or is to

    def make(self, root: Path, path: Path, *, seen: set[str]) -> None:
        """Make those that are missing below the root, but for those seen a moment ago; blocks.

        Who finds a directory that another thread has just made finds the sync that its entry needs here, too. Whether
        an earlier process came to sync what it made is not known: it is synced with the first file that needs it.

        Raises:
            OSError: The disk refuses.
            StorageError: One of them is a link to elsewhere, or no directory.
        """
        above = path.parent
        with self._lock:
            self._unsynced |= make_directories(root, path, seen=seen)
            if str(above) not in self._vouched:
                self._vouched.add(str(above))
                self._unsynced.update(one for one in (above, *above.parents) if one.is_relative_to(root))

    def note(self, directories: Iterable[Path]) -> None:
        """Note that directories have entries to be synced."""
        with self._lock:
            self._unsynced.update(directories)

    def take(self) -> list[Path]:
        """Give those to be synced now; one that cannot be is to be noted again."""
        with self._lock:
            taken, self._unsynced = self._unsynced, set()
        return list(taken)
