"""What streams are about to get is appended, many at a time: written, synced, and their directories and links synced.

It is carried out as often as it takes: a crash, a full disk or a failed sync at any step leaves something that the next
try completes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddslogd.model.errors import StorageError
from ddslogd.storage.batch_executor import Grouped
from ddslogd.storage.filesystem import FILE_MODE, to_its_end, write_at
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_window import FileWindow
from ddslogd.storage.streams.overlap import HeldWindow
from ddslogd.storage.streams.stream_files import is_regular
from ddslogd.storage.sync_lanes import GroupedFile, SyncLanes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.model.stream import Intent, Piece
    from ddslogd.storage.disk_space import Reserve
    from ddslogd.storage.streams.overlap import Window
    from ddslogd.storage.streams.stream_files import StreamFiles

MOST = 64  # streams of a group
BLOCK = 4096  # bytes: a power cut leaves whole blocks of a write, and zeroes for the rest
_LINE_END = b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """What is to be appended to one stream.

    Attributes:
        series: Of the stream, see ``paths.series``.
        intent: At least one byte.
        old_until: Where a file of the old layout may be in the link's place: for the name that it takes; else None.
        lines: What the intent's lines are of, where no file has them.
        tail: What the unfinished line is, where no file has it.
    """

    series: str
    intent: Intent
    old_until: datetime | None
    lines: Window = field(default_factory=lambda: HeldWindow(b""))
    tail: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of it.

    Attributes:
        is_done: False where the file is not as it was left, so that nothing is written to it: others wrote to it, or
            cut, removed or replaced it.
        link_trouble: Why the link does not lead to the file; empty where it does.
    """

    is_done: bool
    link_trouble: str = ""


class StreamAppender:
    """Appends to the streams of one storage directory."""

    def __init__(self, files: StreamFiles, reserve: Reserve) -> None:
        """Prepare.

        Args:
            files: Of the streams.
            reserve: Keeps room free on the disk.
        """
        self._files = files
        self._reserve = reserve
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="appender")
        self._lanes = SyncLanes("append-lane")
        self._append = Grouped(self._run, thread=self._thread, most=MOST)

    def close(self) -> None:
        """Finish what was handed in."""
        self._thread.shutdown()
        self._lanes.close()

    async def append(self, append: Append) -> Appended:
        """Carry out an intent: make the file where it begins with this, write what is not there yet, sync.

        It goes on to the end although the caller is cancelled.

        Raises:
            StorageError: The disk refuses, or a snapshot that the lines come from is gone.
            NoRoom: There is too little room for the lines.
        """
        return await to_its_end(self._append(append))

    def _run(self, group: Sequence[Append]) -> list[Appended | Exception]:
        seen = set[str]()  # directories: looked at once a group, for somebody may tidy up between two
        jobs = [_Job(one, self._files, seen, self._reserve) for one in group]
        for job in jobs:
            job.step(job.write)
        self._lanes.each(lambda job: job.step(job.sync), jobs)
        for job in jobs:
            job.step(job.point)
        self._lanes.sync_directories(self._files.directories, jobs)
        return [job.error or job.appended for job in jobs]


class _Job(GroupedFile):
    """What one stream gets; blocks."""

    def __init__(self, append: Append, files: StreamFiles, seen: set[str], reserve: Reserve) -> None:
        super().__init__(files.directory / append.intent.path)
        self._append = append
        self._series, self._intent, self._old_until = append.series, append.intent, append.old_until
        self._files = files
        self._seen = seen
        self._reserve = reserve
        self._fd: int | None = None
        self.appended = Appended(is_done=False)

    def fail(self, error: Exception) -> None:
        """Fail, and close the file."""
        super().fail(error)
        self._close()

    def write(self) -> None:
        """Write what is not there yet, unless the file is not as it was left."""
        intent, directory = self._intent, self._files.directory
        with _text(directory, self._append, self._reserve) as text, self._reserve.take(directory, intent.size):
            self._files.directories.make(directory, self.path.parent, seen=self._seen, with_entries=True)
            is_new = not os.path.lexists(self.path)
            if intent.base if is_new else not _is_as_left(self.path, intent.base, text):
                return
            if self._old_until and self.path != self._files.link(self._series):
                self._files.rename_old(self._series, self._old_until)
            self._write(text, is_new=is_new)

    def _write(self, text: _Text, *, is_new: bool) -> None:
        """Write the whole text behind ``base``, also what is there already.

        After a failed sync the kernel may have given up pages that it shows as written. Only what is written again is
        synced by the next sync.
        """
        made = os.O_CREAT | os.O_EXCL if is_new else 0
        self._fd = os.open(self.path, os.O_WRONLY | made | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        if self._intent.base == 0:
            os.fchmod(self._fd, FILE_MODE)  # whatever the umask
            self._files.directories.note([self.path.parent])
        text.write_to(self._fd, self._intent.base)

    def sync(self) -> None:
        """Have the bytes on the disk."""
        if self._fd is not None:
            os.fsync(self._fd)
            self._close()
            self.appended = Appended(is_done=True)

    def point(self) -> None:
        """Let the link lead to the file."""
        if self.appended.is_done:
            trouble = self._files.point(self._series, self._intent.path)
            self.appended = Appended(is_done=True, link_trouble=trouble)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _WindowPiece:
    """Bytes of an open file, or of what is in memory."""

    window: Window
    start: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        return self.window.read(self.start + start, max(0, min(size, self.size - start)))

    def write_to(self, fd: int, at: int) -> None:
        if isinstance(self.window, FileWindow):
            self.window.copy_to(fd, at, start=self.start, size=self.size)
        else:
            write_at(fd, self.read(0, self.size), at)


@dataclass(frozen=True, slots=True)
class _LineEnd:
    """One byte that no file has."""

    size: int = len(_LINE_END)

    def read(self, start: int, size: int) -> bytes:
        return _LINE_END[start : start + size]

    def write_to(self, fd: int, at: int) -> None:
        os.pwrite(fd, _LINE_END, at)


@dataclass(frozen=True, slots=True)
class _Text:
    """What is appended: pieces, one behind the other."""

    pieces: Sequence[_WindowPiece | _LineEnd]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def read(self, start: int, size: int) -> bytes:
        found, end = [], start + size
        for piece in self.pieces:
            first, last = max(0, start), min(end, piece.size)
            if first < last:
                found.append(piece.read(first, last - first))
            start, end = start - piece.size, end - piece.size
        return b"".join(found)

    def write_to(self, fd: int, at: int) -> None:
        for piece in self.pieces:
            piece.write_to(fd, at)
            at += piece.size


@contextmanager
def _text(directory: Path, append: Append, reserve: Reserve) -> Iterator[_Text]:
    intent = append.intent
    with ExitStack() as stack:

        def opened(piece: Piece, held: Window) -> _WindowPiece:
            window = held
            if piece.path:
                window = stack.enter_context(log_window.lines(directory / piece.path, reserve=reserve))
            if window.size < piece.end:
                raise StorageError(f"shorter than the ledger says: {piece.path or intent.snapshot}")
            return _WindowPiece(window, piece.start, piece.size)

        lines = opened(intent.lines, append.lines)
        if intent.unfinished is None:
            yield _Text([lines])
        else:
            yield _Text([opened(intent.unfinished, HeldWindow(append.tail)), _LineEnd(), lines])


def _is_as_left(path: Path, base: int, text: _Text) -> bool:
    """Return whether a file holds what was appended before, and at most a beginning of the text behind it.

    A beginning may have holes of zeroes: see ``BLOCK``.
    """
    if not is_regular(path):
        return False
    with log_window.opened(path) as file:
        if not base <= file.size <= base + text.size:
            return False
        at = base
        while at < file.size:
            there = file.read(at, BLOCK - at % BLOCK)
            if not text.read(at - base, len(there)).startswith(there.rstrip(b"\0")):
                return False
            at += len(there)
    return True
