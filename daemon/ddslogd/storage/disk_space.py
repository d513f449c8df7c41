"""How much room a file system has left, and how much of it stays free."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.model.errors import NoRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


MOST_LACKING = 128 * 1024 * 1024  # bytes: some of the cloud's largest files, of 40 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A file system's.

    Attributes:
        free: Bytes, for whoever is not root.
        inodes_free: None where the file system makes them as it needs them.
    """

    free: int
    total: int
    inodes_free: int | None
    inodes: int


def room_at(place: Path | int) -> Room:
    """Look how much room there is, by a path or an open file; blocks.

    Raises:
        OSError: The file system does not say.
    """
    found = os.statvfs(place)
    return Room(
        free=found.f_bavail * found.f_frsize,
        total=found.f_blocks * found.f_frsize,
        inodes_free=found.f_favail if found.f_files else None,
        inodes=found.f_files,
    )


class Reserve:
    """The room that stays free, whoever writes: what would take of it is refused before a byte of it is written.

    Attributes:
        lacking: Bytes by which it was too little for what was refused last, ``MOST_LACKING`` at the most; whoever makes
            room sets it back. Old files do not go for one that is larger than any log.
        allocating: Held by who looks how much is free and takes it at once, without writing.
    """

    def __init__(self, keep_free: Callable[[], int] = lambda: 0) -> None:
        self._keep_free = keep_free
        self.lacking = 0
        self._taken = 0  # by those who are writing: the file system may not count it yet
        self._lock = threading.Lock()
        self.allocating = threading.Lock()

    @property
    def keep_free(self) -> int:
        """Return the bytes that stay free now; 0 leaves it to the kernel."""
        return self._keep_free()

    @contextmanager
    def take(self, place: Path | int, size: int) -> Iterator[None]:
        """Write so many bytes within the block; by a path of the file system or a file of it, from any thread. Blocks.

        Raises:
            NoRoom: They would take of the reserve, with what others are writing.
            OSError: The file system does not say how much is free.
        """
        keep_free = self.keep_free
        if not keep_free:
            yield
            return
        with self._lock:
            lacking = keep_free + self._taken + size - room_at(place).free
            if lacking > 0:
                self.lacking = min(max(self.lacking, lacking), MOST_LACKING)
                raise NoRoom("the disk would have less free than storage.keep_free: make room on it")
            self._taken += size
        try:
            yield
        finally:
            with self._lock:
                self._taken -= size
