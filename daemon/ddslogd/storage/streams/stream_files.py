"""The files of streams: the newest is appended to, and none is ever renamed, truncated, or written to after the next.

Everything here blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ddslogd.storage import paths
from ddslogd.storage.filesystem import disk, sync_directory
from ddslogd.storage.streams import log_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from pathlib import Path

    from ddslogd.storage.directory_sync import Directories

_MILLISECOND = timedelta(milliseconds=1)


class StreamFiles:
    """The files of all streams of one storage directory, by series: see ``paths.series``.

    Attributes:
        directory: The storage directory.
        directories: Makes and syncs directories.
    """

    def __init__(self, directory: Path, *, directories: Directories) -> None:
        self.directory = directory
        self.directories = directories
        # By the directory of an instance: nobody makes such files any more, so it is listed once. It holds all nodes.
        self._old: dict[Path, tuple[str, ...]] = {}
        self._moved = 0  # changes when one was given another name: what was listed before does not count

    def of(self, series: str) -> list[Path]:
        """Return the files of a stream, oldest first; those of the old layout, too.

        Raises:
            OSError: The disk refuses.
        """
        new, link = self.new_of(series), self.link(series)
        return [*self._old_rotated(link), *([link] if not new and is_regular(link) else []), *new]

    def new_of(self, series: str) -> list[Path]:
        """Return the files of a stream, oldest first, but for those of the old layout.

        Raises:
            OSError: The disk refuses.
        """
        kind = paths.log_kind(series)
        directory = self.directory / paths.stream_directory(series)
        return [directory / name for name in _listed(directory, lambda name: paths.born_at(name, log=kind) is not None)]

    def link(self, series: str) -> Path:
        """Return the path of the link that leads to a stream's newest file."""
        return self.directory / paths.stream_link(series)

    def next_path(self, series: str, *, known: Iterable[str], now: datetime) -> PurePosixPath:
        """Return the path of a stream's next file: named by the time, and above all names that are known of it.

        Args:
            series: Of the stream.
            known: Paths of its files that need not be there any more.
            now: When the file begins.

        Raises:
            OSError: The disk refuses.
        """
        kind = paths.log_kind(series)
        names = {*(file.name for file in self.new_of(series)), *(PurePosixPath(one).name for one in known)}
        latest = max(filter(None, (paths.born_at(name, log=kind) for name in names)), default=None)
        return paths.stream_file(series, now if latest is None else max(now, latest + _MILLISECOND))

    def point(self, series: str, path: str) -> str:
        """Let the link of a stream lead to a file, at one stroke; its directory is noted, to be synced.

        Returns:
            Why it does not; empty where it does. Lines are on disk without it.
        """
        link, file = self.link(series), self.directory / path
        if file == link:
            return ""
        target = "/".join(path.split("/")[2:])  # streams/<instance>/ is where the link is
        try:
            if _target(link) == target:
                return ""
            _point(link, target)
        except OSError as exc:
            return "something else has its name" if exc.errno == errno.EINVAL else str(exc.strerror)
        self.directories.note([link.parent])
        return ""

    def make_durable(self, path: Path) -> None:
        """Have what is on disk of a file outlive a power cut: who wrote it may have ended before its sync.

        Raises:
            StorageError: The disk refuses.
        """
        with disk(path):
            self.directories.secure(self.directory, path.parent)
            if is_regular(path):
                with log_window.opened(path) as file:
                    os.fsync(file.fd)

    def rename_old(self, series: str, moment: datetime) -> None:
        """Rename a file of the old layout, as that was done when it was rotated, to a name that no file has.

        It is where the link goes; nothing happens where there is none.

        Raises:
            OSError: The disk refuses.
        """
        link = self.link(series)
        if not is_regular(link):
            return
        while os.path.lexists(target := link.with_name(paths.old_rotated_path(PurePosixPath(link.name), moment).name)):
            moment += _MILLISECOND
        link.rename(target)
        self._moved += 1
        self._old.pop(link.parent, None)
        sync_directory(link.parent)

    def move_all(self, series: str, aside: Path) -> list[Path]:
        """Move the files of a stream into a directory; return where they were, oldest first.

        Raises:
            StorageError: The disk refuses.
        """
        with disk(self.link(series)):
            files = self.of(series)
            if files:
                aside.mkdir(parents=True, exist_ok=True)
                for file in files:
                    file.rename(aside / file.name)
                for changed in {aside, aside.parent, aside.parent.parent, *(file.parent for file in files)}:
                    sync_directory(changed)
        self._moved += 1
        self._old.clear()
        return files

    def _old_rotated(self, link: Path) -> list[Path]:
        """Return the files of the old layout that were renamed when they were where the link is now, oldest first."""
        names, moved = self._old.get(link.parent), self._moved
        if names is None:
            names = tuple(_listed(link.parent, paths.is_any_old_rotated))
            if moved == self._moved:
                self._old[link.parent] = names
        return [
            file
            for name in names
            if paths.is_old_rotated(name, of=link.name) and os.path.lexists(file := link.with_name(name))
        ]


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file's own.

    Raises:
        OSError: The disk refuses.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _target(link: Path) -> str | None:
    """Return where a link leads; None where there is none.

    Raises:
        OSError: The disk refuses; EINVAL: there is something else.
    """
    with suppress(FileNotFoundError):
        return os.readlink(link)  # noqa: PTH115  # text
    return None


def _point(link: Path, target: str) -> None:
    """Make a link, or have it lead elsewhere at one stroke."""
    with suppress(FileExistsError):
        os.symlink(target, link)  # noqa: PTH211  # text
        return
    new = link.with_name(f".new.{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


def _listed(directory: Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the names in a directory that are wanted, in order; none where it is a link to one, or missing."""
    try:
        if not stat.S_ISDIR(directory.lstat().st_mode):
            return []
        return sorted(filter(is_wanted, os.listdir(directory)))  # noqa: PTH208  # names will do
    except (FileNotFoundError, NotADirectoryError):
        return []
