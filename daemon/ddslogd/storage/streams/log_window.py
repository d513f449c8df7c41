"""A log file on disk as a window: read in pieces, never mapped, so that a bad sector is an error and no signal."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ddslogd.model.errors import StorageError, TransferError
from ddslogd.storage import gzip_file
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.filesystem import disk
from ddslogd.storage.streams.overlap import READ, TIMED_REACH, HeldWindow, Slice, end_of_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from ddslogd.storage.streams.overlap import Window

W = TypeVar("W", bound="Window")

SEARCHED = 8 * READ  # bytes that are searched at a time
# The file system cannot, or not between these two files: then the bytes go through this process.
_NOT_COPIED_BY_THE_KERNEL = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True, slots=True)
class FileWindow:
    """An open file, as long as it was when it was opened."""

    path: Path
    fd: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end. Blocks.

        Raises:
            StorageError: The disk refuses.
        """
        with disk(self.path):
            return os.pread(self.fd, max(0, min(size, self.size - start)), start)

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none. Blocks.

        Raises:
            StorageError: The disk refuses.
        """
        return _find(self, text, start, min(end, self.size))

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


@dataclass(frozen=True, slots=True)
class Joined:
    """Windows, one behind the other."""

    windows: Sequence[Window]

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return sum(one.size for one in self.windows)

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end. Blocks.

        Raises:
            StorageError: The disk refuses.
        """
        found, end = [], start + size
        for one in self.windows:
            first, last = max(0, start), min(end, one.size)
            if first < last:
                found.append(one.read(first, last - first))
            start, end = start - one.size, end - one.size
        return b"".join(found)

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none. Blocks.

        Raises:
            StorageError: The disk refuses.
        """
        return _find(self, text, start, min(end, self.size))


@contextmanager
def joined(files: Sequence[tuple[Path, int]], *, exact: bool = True) -> Iterator[Joined]:
    """Open files that are one log, oldest first, each of which has so many bytes; or at least as many, if not exact.

    Raises:
        StorageError: One has not, or cannot be read.
    """
    with ExitStack() as stack:
        windows: list[Window] = []
        for path, size in files:
            window = stack.enter_context(opened(path))
            if window.size != size and (exact or window.size < size):
                raise StorageError(f"not as long as the ledger says: {path}")
            windows.append(Slice(window, size))
        yield Joined(windows)


def _find(content: Window, text: bytes, start: int, end: int) -> int:
    last = end - len(text)
    for first in range(start, last + 1, SEARCHED):
        at = content.read(first, min(SEARCHED, last + 1 - first) + len(text) - 1).find(text)
        if at >= 0:
            return first + at
    return -1


@contextmanager
def end_of(files: Sequence[Path], *, size: int | None = None) -> Iterator[Window]:
    """Open the last lines of several files that are one log; where the last file has few, of those before it, too.

    A file may have begun a moment ago, or have been emptied: its own lines prove nothing then.

    Args:
        files: Oldest first: one at least. Of those before the last one, what cannot be read is left out.
        size: How many bytes of the last one count; None for all.

    Raises:
        StorageError: The last one cannot be read, or the disk refuses for a moment.
    """
    with opened(files[-1]) as last:
        counted = Slice(last, last.size if size is None else min(size, last.size))
        windows: list[Window] = [Slice(counted, end_of_lines(counted))]
        left = TIMED_REACH - windows[0].size
        for file in reversed(files[:-1]):
            if left <= 0:
                break
            windows.append(HeldWindow(_last_lines(file, left)))
            left -= windows[-1].size
        yield Joined(windows[::-1])


def _last_lines(path: Path, most: int) -> bytes:
    """Return the end of a file, up to its last line end; nothing of one that cannot be read."""
    try:
        with opened(path) as file:
            end = end_of_lines(file)
            return file.read(max(0, end - most), min(end, most))
    except StorageError as exc:
        if exc.passing:
            raise
        return b""


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


@contextmanager
def lines(path: Path, *, reserve: Reserve | None = None) -> Iterator[FileWindow]:
    """Open a snapshot for its lines: as ``opened`` does, or unpacked where it came compressed.

    Raises:
        StorageError: As of ``opened``; or it cannot be unpacked.
        NoRoom: It would take of the reserve to unpack it.
    """
    with opened(path) as file, plain(file, path, reserve=reserve) as text:
        yield text


@contextmanager
def plain(content: W, path: Path, *, reserve: Reserve | None = None) -> Iterator[W | FileWindow]:
    """Unpack a file that came compressed into one without a name, in the same directory; give any other as it is.

    Raises:
        StorageError: It cannot be unpacked, or the disk refuses; ``passing`` where it is full and the like.
        NoRoom: It would take of the reserve.
    """
    if not gzip_file.is_packed(content):
        yield content
        return
    with disk(path, host=True):
        file = tempfile.TemporaryFile(prefix=".unpacked.", dir=path.parent, buffering=0)  # noqa: SIM115  # closed below
    try:
        yield FileWindow(path, file.fileno(), _unpack(content, path, file, reserve or Reserve()))
    finally:
        file.close()


def _unpack(content: Window, path: Path, file: IO[bytes], reserve: Reserve) -> int:
    size = 0
    try:
        for piece in gzip_file.pieces(content):
            with disk(path, host=True), reserve.take(file.fileno(), len(piece)):
                size += os.pwrite(file.fileno(), piece, size)
    except TransferError as exc:
        raise StorageError(f"{exc}: {path}") from None
    return size
