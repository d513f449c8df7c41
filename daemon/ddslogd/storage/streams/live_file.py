"""The files of a stream: the newest is appended to, and none is ever renamed, truncated, or written to after the next.

What is to be appended is carried out as often as it takes: a crash, a full disk or a failed sync at any step leaves
something that the next try completes. Everything here blocks.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ddslogd.model.errors import StorageError
from ddslogd.storage import paths
from ddslogd.storage.filesystem import FILE_MODE, disk, sync_directory
from ddslogd.storage.streams import log_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.model.stream import Intent, Piece
    from ddslogd.storage.directory_sync import Directories
    from ddslogd.storage.disk_space import Reserve
    from ddslogd.storage.streams.log_window import FileWindow

BLOCK = 4096  # bytes: a power cut leaves whole blocks of a write, and zeroes for the rest
_LINE_END = b"\n"
_MILLISECOND = timedelta(milliseconds=1)


def append(
    directory: Path,
    series: str,
    intent: Intent,
    *,
    directories: Directories,
    reserve: Reserve,
    old_until: datetime | None,
) -> bool:
    """Carry out an intent: make the file where it begins with this, write what is not there yet, sync.

    Args:
        directory: The storage directory.
        series: Of the stream, see ``paths.series``.
        intent: What to append: at least one byte.
        directories: Makes the file's directory, and syncs the way to it.
        reserve: Keeps room free on the disk.
        old_until: Where a file of the old layout may be in the link's place: for the name that it takes; else None.

    Returns:
        False where the file is not as it was left, so that nothing is written to it: others wrote to it, or cut,
        removed or replaced it.

    Raises:
        StorageError: The disk refuses, or a snapshot that the lines come from is gone.
        NoRoom: There is too little room for the lines.
    """
    path, link = directory / intent.path, directory / paths.stream_link(series)
    with _text(directory, intent, reserve) as text, disk(path), reserve.take(directory, intent.size):
        directories.secure(directory, path.parent)
        is_new = not os.path.lexists(path)
        if intent.base if is_new else not _is_as_left(path, intent.base, text):
            return False
        if old_until and path != link and is_regular(link):
            _rename_old(link, old_until)
        _write(path, intent.base, text, is_new=is_new)
    return True


def point(directory: Path, series: str, path: str) -> str:
    """Let the link of a stream lead to a file, at one stroke.

    Returns:
        Why it does not; empty where it does. Lines are on disk without it.
    """
    link, file = directory / paths.stream_link(series), directory / path
    if file == link:
        return ""
    target = os.path.relpath(file, link.parent)
    try:
        if link.is_symlink():
            if os.readlink(link) == target:  # noqa: PTH115  # text
                return ""
        elif os.path.lexists(link):
            return "something else has its name"
        new = link.with_name(f".new.{link.name}")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(link)
        sync_directory(link.parent)
    except OSError as exc:
        return str(exc.strerror)
    return ""


def make_durable(directory: Path, path: Path, *, directories: Directories) -> None:
    """Have what is on disk of a file outlive a power cut: who wrote it may have ended before its sync.

    Raises:
        StorageError: The disk refuses.
    """
    with disk(path):
        directories.secure(directory, path.parent)
        if is_regular(path):
            with log_window.opened(path) as file:
                os.fsync(file.fd)


def next_path(directory: Path, series: str, *, known: Iterable[str], now: datetime) -> PurePosixPath:
    """Return the path of a stream's next file: named by the time, and above all names that are known of it.

    Args:
        directory: The storage directory.
        series: Of the stream.
        known: Paths of its files that need not be there any more.
        now: When the file begins.

    Raises:
        OSError: The disk refuses.
    """
    kind = paths.log_kind(series)
    names = {*(file.name for file in new_files(directory, series)), *(PurePosixPath(one).name for one in known)}
    latest = max(filter(None, (paths.born_at(name, log=kind) for name in names)), default=None)
    return paths.stream_file(series, now if latest is None else max(now, latest + _MILLISECOND))


def files(directory: Path, series: str) -> list[Path]:
    """Return the files of a stream, oldest first; those of the old layout, too.

    Raises:
        OSError: The disk refuses.
    """
    new = new_files(directory, series)
    link = directory / paths.stream_link(series)
    return [*old_rotated(link), *([link] if not new and is_regular(link) else []), *new]


def new_files(directory: Path, series: str) -> list[Path]:
    """Return the files of a stream, oldest first, but for those of the old layout.

    Raises:
        OSError: The disk refuses.
    """
    kind = paths.log_kind(series)
    return _listed(directory / paths.stream_directory(series), lambda name: paths.born_at(name, log=kind) is not None)


def old_rotated(link: Path) -> list[Path]:
    """Return the files of the old layout that were renamed when they were where the link is now, oldest first.

    Raises:
        OSError: The disk refuses.
    """
    beginning = f"{link.name}."  # the directory holds all nodes of an instance
    return _listed(link.parent, lambda name: name.startswith(beginning) and paths.is_old_rotated(name, of=link.name))


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file's own.

    Raises:
        OSError: The disk refuses.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _listed(directory: Path, is_wanted: Callable[[str], bool] = lambda _: True) -> list[Path]:
    if directory.is_symlink() or not directory.is_dir():
        return []
    return sorted(directory / name for name in os.listdir(directory) if is_wanted(name))  # noqa: PTH208  # names will do


def _rename_old(live: Path, moment: datetime) -> None:
    """Rename a file of the old layout, as that was done when it was rotated, to a name that no file has."""
    while os.path.lexists(target := live.with_name(paths.old_rotated_path(PurePosixPath(live.name), moment).name)):
        moment += _MILLISECOND
    live.rename(target)
    sync_directory(live.parent)


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
def _text(directory: Path, intent: Intent, reserve: Reserve) -> Iterator[_Text]:
    with ExitStack() as stack:

        def opened(piece: Piece) -> _FilePiece:
            file = stack.enter_context(log_window.lines(directory / piece.path, reserve=reserve))
            if file.size < piece.end:
                raise StorageError(f"shorter than the ledger says: {file.path}")
            return _FilePiece(file, piece.start, piece.size)

        lines = opened(intent.lines)
        yield _Text([opened(intent.unfinished), _LineEnd(), lines] if intent.unfinished else [lines])


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


def _write(path: Path, base: int, text: _Text, *, is_new: bool) -> None:
    """Write the whole text behind ``base``, also what is there already.

    After a failed sync the kernel may have given up pages that it shows as written. Only what is written again is
    synced by the next sync.
    """
    made = os.O_CREAT | os.O_EXCL if is_new else 0
    fd = os.open(path, os.O_WRONLY | made | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        if base == 0:
            os.fchmod(fd, FILE_MODE)  # whatever the umask
            sync_directory(path.parent)
        text.write_to(fd, base)
        os.fsync(fd)
    finally:
        os.close(fd)
