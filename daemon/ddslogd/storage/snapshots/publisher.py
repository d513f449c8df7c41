"""Files that are whole get their names, many at a time: written, synced, renamed, and their directories synced.

Durability costs the same for one file as for many: the first sync of a group commits the journal for the others.
"""

from __future__ import annotations

import errno
import filecmp
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ddslogd.model.errors import StorageError
from ddslogd.storage.batch_executor import Grouped
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.filesystem import FILE_MODE, disk, new_file, to_its_end
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_time import NEWEST, first_time, last_time
from ddslogd.storage.streams.overlap import HeldWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddslogd.storage.directory_sync import Directories
    from ddslogd.storage.streams.overlap import Window

T = TypeVar("T")

MOST = 64  # files of a group
LANES = 4  # threads of a group
CHANGED = "so another program changed it: find out which; the next cycle fetches it again"

LogTimes = tuple[datetime | None, datetime | None]
"""The first and the last time that a file's lines tell; None where they tell none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A part with nothing more to come.

    Attributes:
        root: The storage directory; it exists.
        part: The hidden file, next to ``final``.
        fd: Of the hidden file; None where it is still to be written.
        chunks: What it is to hold then.
        size: Bytes; the hidden file has as many, and no more blocks are reserved for it.
        latest: Later times of its lines are not believed.
    """

    root: Path
    part: Path
    final: Path
    fd: int | None
    chunks: Sequence[bytes]
    size: int
    latest: datetime = NEWEST


class Publisher:
    """Publishes what is whole. A file that cannot be synced does not get its name."""

    def __init__(self, directories: Directories, reserve: Reserve | None = None) -> None:
        """Prepare.

        Args:
            directories: Where files get their names; whoever makes parts there shares it.
            reserve: Keeps room free on the disk; None for none.
        """
        self._directories = directories
        self._reserve = reserve or Reserve()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="lane")
        self._publish = Grouped(self._run, thread=self._thread, most=MOST)

    def close(self) -> None:
        """Finish what was handed in."""
        self._thread.shutdown()
        self._lanes.shutdown()

    async def publish(self, whole: Whole) -> LogTimes:
        """Make a file durable under its final name, and read its times; its descriptor is closed then, come what may.

        It goes on to the end although the caller is cancelled.
        Where it fails before it has its name, the hidden file is removed: the kernel has given up pages that it could
        not write, and a second sync would succeed without them.

        Raises:
            StorageError: The disk refuses, or a file with other bytes has that name already.
        """
        return await to_its_end(self._publish(whole))

    def _run(self, group: Sequence[Whole]) -> list[LogTimes | Exception]:
        """Publish a group step by step; whom one step fails, the others leave out."""
        seen = set[str]()  # directories: looked at once a group, for somebody may tidy up between two
        jobs = [_Job(whole, self._directories, seen, self._reserve) for whole in group]
        for job in jobs:
            job.step(job.write)
        self._at_once(lambda job: job.step(job.sync), jobs)
        for job in jobs:
            job.step(job.rename)
        self._at_once(partial(self._sync_for, jobs), self._directories.waiting())
        return [job.error or job.times for job in jobs]

    def _sync_for(self, jobs: Sequence[_Job], directory: Path) -> None:
        """Sync a directory, once for all whose names depend on it; what cannot be synced is tried by the next group."""
        try:
            with disk(directory):
                self._directories.sync(directory)
        except StorageError as exc:
            for job in jobs:
                if job.lies_in(directory):
                    job.fail(exc)

    def _at_once(self, step: Callable[[T], None], items: Sequence[T]) -> None:
        """Take a step for each item, in a few lanes: the file system commits together what is synced at once."""

        def lane(mine: Sequence[T]) -> None:
            for item in mine:
                step(item)

        for _ in self._lanes.map(lane, [items[first::LANES] for first in range(min(LANES, len(items)))]):
            pass


class _Job:
    """A file on its way to its name; blocks."""

    def __init__(self, whole: Whole, directories: Directories, seen: set[str], reserve: Reserve) -> None:
        self._whole = whole
        self._directories = directories
        self._seen = seen
        self._reserve = reserve
        self._fd = whole.fd
        self.times: LogTimes = (None, None)
        self.error: Exception | None = None

    def step(self, step: Callable[[], None]) -> None:
        """Take a step, unless one before it failed."""
        if self.error is not None:
            return
        try:
            with disk(self._whole.final):
                step()
        except Exception as exc:  # noqa: BLE001  # a bug, too, is one file's alone, and leaves no descriptor open
            self.fail(exc)

    def fail(self, error: Exception) -> None:
        """Fail, unless that was done before."""
        self.error = self.error or error
        self._close()
        with suppress(OSError):
            self._whole.part.unlink(missing_ok=True)

    def lies_in(self, directory: Path) -> bool:
        """Return whether its name may be lost with an entry of the directory: also with one that another file made."""
        return directory in self._whole.final.parents

    def write(self) -> None:
        """Write what is not in a file yet, and read the times of its lines.

        Each call of the system lets go of Python's lock, and waits for it behind the loop: the fewer, the better.
        """
        whole = self._whole
        lines: Window
        if self._fd is None:
            self._directories.make(whole.root, whole.final.parent, seen=self._seen)
            self._fd = new_file(whole.part)
            os.fchmod(self._fd, FILE_MODE)
            lines = HeldWindow(b"".join(whole.chunks))
            with self._reserve.take(self._fd, len(lines.content)):
                _write_all(self._fd, lines.content)
        else:
            if os.fstat(self._fd).st_size != whole.size:
                raise StorageError(f"not as long as what was written to it, {CHANGED}: {whole.final}")
            lines = log_window.FileWindow(whole.final, self._fd, whole.size)
        with log_window.plain(lines, whole.final, reserve=self._reserve) as text:
            first, last = (time(text, 0, text.size, until=whole.latest) for time in (first_time, last_time))
        self.times = (first, last)

    def sync(self) -> None:
        """Have the bytes on the disk."""
        if self._fd is not None:
            os.fdatasync(self._fd)

    def rename(self) -> None:
        """Rename it, unless its name is taken: a published file is never rewritten. There is one writer only."""
        part, final = self._whole.part, self._whole.final
        self._close()
        if not os.path.lexists(final):
            part.rename(final)
        elif final.is_symlink() or not filecmp.cmp(part, final, shallow=False):
            raise FileExistsError(errno.EEXIST, "a file with other bytes has this name already")
        else:  # published by a run that ended before it could enter it in the ledger
            part.unlink()
        self._directories.note([final.parent])

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    """Write bytes from the descriptor's place on; blocks.

    Raises:
        OSError: The disk refuses; how much was written is not known.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
