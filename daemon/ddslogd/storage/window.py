"""A log file on disk as a window: read in pieces, never mapped, so that a bad sector is an error and no signal."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.errors import StorageError
from ddslogd.storage.filesystem import disk
from ddslogd.storage.overlap import READ

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The file system cannot, or not between these two files: then the bytes go through this process.
_NOT_COPIED_BY_THE_KERNEL = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


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

    def copy_to(self, fd: int, at: int, *, start: int, size: int) -> None:
        """Write ``size`` bytes from ``start`` on into another open file, from its byte ``at`` on. Blocks.

        The kernel does it where it can, and shares the blocks where the file system lets it.

        Raises:
            StorageError: There are not as many bytes, or they cannot be read.
            OSError: The disk refuses to write.
        """
        done = 0
        while done < size:
            written = self._copy_some(fd, at + done, start + done, min(size - done, self.size - start - done))
            if written == 0:
                raise StorageError(f"shorter than the ledger says: {self.path}")
            done += written

    def _copy_some(self, fd: int, at: int, start: int, size: int) -> int:
        try:
            if copied := os.copy_file_range(self.fd, fd, max(0, size), start, at):
                return copied
        except OSError as exc:
            if exc.errno not in _NOT_COPIED_BY_THE_KERNEL:
                raise
        return os.pwrite(fd, self.read(start, min(size, READ)), at)


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
