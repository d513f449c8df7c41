"""A log file on disk as a window: read in pieces, never mapped, so that a bad sector is an error and no signal."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.errors import StorageError
from ddslogd.storage.filesystem import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileWindow:
    """An open file, as long as it was when it was opened."""

    path: Path
    fd: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Give ``size`` bytes from ``start`` on; fewer at the end. Blocks.

        Raises:
            StorageError: The disk refuses.
        """
        with disk(self.path):
            return os.pread(self.fd, max(0, min(size, self.size - start)), start)


@contextmanager
def opened(path: Path) -> Iterator[FileWindow]:
    """Open a file to read.

    Raises:
        StorageError: There is none, it is something else or a link to one, or the disk refuses.
    """
    with disk(path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would have us wait
    try:
        with disk(path):
            found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"this is no regular file: {path}")
        yield FileWindow(path, fd, found.st_size)
    finally:
        os.close(fd)
