"""The live file of a stream: appended to, rotated by renaming, never truncated.

What is to be appended is carried out as often as it takes: a crash, a full disk or a failed sync at any step leaves
something that the next try completes. Everything here blocks.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.errors import StorageError
from ddslogd.storage import layout, window
from ddslogd.storage.filesystem import FILE_MODE, disk, make_directories, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path, PurePosixPath

    from ddslogd.storage.streambook import Intent, Piece
    from ddslogd.storage.window import FileWindow

BLOCK = 4096  # bytes: a power cut leaves whole blocks of a write, and zeroes for the rest
_LINE_END = b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """How an intent was carried out.

    Attributes:
        base: Bytes that the live file had before.
        aside: Where a live file went that others had written to, relative to the storage directory.
    """

    base: int
    aside: PurePosixPath | None = None


def append(directory: Path, stream: PurePosixPath, intent: Intent, *, now: datetime) -> Appended:
    """Carry out an intent: rotate, write what is not there yet, sync.

    A live file that others wrote to is put aside under a rotated name. One that they removed or emptied is begun anew.

    Args:
        directory: The storage directory.
        stream: The live file, relative to it.
        intent: What to append: at least one byte.
        now: For the name of what is put aside.

    Raises:
        StorageError: The disk refuses, or a snapshot that the lines come from is gone.
    """
    live, base, aside = directory / stream, intent.base, None
    with _text(directory, intent) as text, disk(live):
        for parent in make_directories(directory, live.parent, seen=set()):
            sync_directory(parent)
        if intent.rotate_to and inode(live) == intent.rotated_inode:  # else that was done before
            _rename(live, directory / intent.rotate_to)
        # A try before this one may have begun it anew.
        fits = next((size for size in (base, 0) if _is_as_left(live, size, text)), None)
        base = fits or 0
        if fits is None and os.path.lexists(live):
            aside = free_path(directory, stream, now)
            _rename(live, directory / aside)
        _write(live, base, text)
    return Appended(base=base, aside=aside)


def free_path(directory: Path, stream: PurePosixPath, moment: datetime) -> PurePosixPath:
    """Give the path that a live file takes when it is rotated away at a moment: one that no file has."""
    path = layout.rotated_path(stream, moment)
    while os.path.lexists(directory / path):
        moment += timedelta(milliseconds=1)
        path = layout.rotated_path(stream, moment)
    return path


def inode(live: Path) -> int:
    """Give the number of a file; 0 where there is none.

    Raises:
        OSError: The disk refuses.
    """
    try:
        return live.lstat().st_ino
    except FileNotFoundError:
        return 0


def rotated_files(live: Path) -> list[Path]:
    """Give the files that were rotated away from a live file, oldest first.

    Raises:
        OSError: The disk refuses.
    """
    if not live.parent.is_dir():
        return []
    beginning = f"{live.name}."  # the directory holds all nodes of an instance
    names = (name for name in os.listdir(live.parent) if name.startswith(beginning))  # noqa: PTH208  # names will do
    return sorted(live.parent / name for name in names if layout.rotated_at(name, of=live.name))


@dataclass(frozen=True, slots=True)
class _FilePiece:
    """Bytes of an open file."""

    window: FileWindow
    start: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        return self.window.read(self.start + start, max(0, min(size, self.size - start)))

    def write_to(self, fd: int, at: int) -> None:
        self.window.copy_to(fd, at, start=self.start, size=self.size)


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

    pieces: Sequence[_FilePiece | _LineEnd]

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
def _text(directory: Path, intent: Intent) -> Iterator[_Text]:
    with ExitStack() as stack:

        def opened(piece: Piece) -> _FilePiece:
            file = stack.enter_context(window.opened(directory / piece.path))
            if file.size < piece.end:
                raise StorageError(f"shorter than the ledger says: {file.path}")
            return _FilePiece(file, piece.start, piece.size)

        lines = opened(intent.lines)
        yield _Text([opened(intent.unfinished), _LineEnd(), lines] if intent.unfinished else [lines])


def _rename(live: Path, target: Path) -> None:
    live.rename(target)
    sync_directory(live.parent)


def _is_as_left(live: Path, base: int, text: _Text) -> bool:
    """Tell whether the live file holds what was appended before, and at most a beginning of the text behind it.

    A beginning may have holes of zeroes: see ``BLOCK``.
    """
    if not os.path.lexists(live):
        return base == 0
    with window.opened(live) as file:
        if not base <= file.size <= base + text.size:
            return False
        at = base
        while at < file.size:
            there = file.read(at, BLOCK - at % BLOCK)
            if not text.read(at - base, len(there)).startswith(there.rstrip(b"\0")):
                return False
            at += len(there)
    return True


def _write(live: Path, base: int, text: _Text) -> None:
    """Write the whole text behind ``base``, also what is there already.

    After a failed sync the kernel may have given up pages that it shows as written. Only what is written anew is synced
    by the next sync.
    """
    fd = os.open(live, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        if base == 0:
            os.fchmod(fd, FILE_MODE)  # whatever the umask
            sync_directory(live.parent)
        text.write_to(fd, base)
        os.fsync(fd)
    finally:
        os.close(fd)
