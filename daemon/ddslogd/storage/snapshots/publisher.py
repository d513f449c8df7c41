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
from typing import TYPE_CHECKING

from ddslogd.model.errors import StorageError
from ddslogd.storage.batch_executor import Grouped
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.filesystem import FILE_MODE, new_file, to_its_end, write_at
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_time import NEWEST, first_time, last_time
from ddslogd.storage.streams.overlap import HeldWindow
from ddslogd.storage.sync_lanes import GroupedFile, SyncLanes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddslogd.storage.directory_sync import Directories
    from ddslogd.storage.streams.overlap import Window

MOST = 64  # files of a group
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
        self._lanes = SyncLanes("lane")
        self._publish = Grouped(self._run, thread=self._thread, most=MOST)

    def close(self) -> None:
        """Finish what was handed in."""
        self._thread.shutdown()
        self._lanes.close()

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
        self._lanes.each(lambda job: job.step(job.sync), jobs)
        for job in jobs:
            job.step(job.rename)
        self._lanes.sync_directories(self._directories, jobs)
        return [job.error or job.times for job in jobs]


class _Job(GroupedFile):
    """A file on its way to its name; blocks."""

    def __init__(self, whole: Whole, directories: Directories, seen: set[str], reserve: Reserve) -> None:
        super().__init__(whole.final)
        self._whole = whole
        self._directories = directories
        self._seen = seen
        self._reserve = reserve
        self._fd = whole.fd
        self.times: LogTimes = (None, None)

    def fail(self, error: Exception) -> None:
        """Fail, and leave nothing of the hidden file."""
        super().fail(error)
        self._close()
        with suppress(OSError):
            self._whole.part.unlink(missing_ok=True)

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
                write_at(self._fd, lines.content, 0)
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
