"""By what a shipper knows a file again: inode, path, or its first bytes."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.storage.shippers.hashes import siphash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# --- what a file is known by ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLog:
    """An open file whose position is asked for."""

    path: Path
    fd: int
    status: os.stat_result

    def head(self, size: int) -> bytes:
        """Read the first bytes."""
        return os.pread(self.fd, size, 0)


@dataclass(frozen=True, slots=True)
class InodeOnDevice:
    """Device and inode: Vector."""

    device: int
    inode: int

    @classmethod
    def of(cls, file: OpenedLog) -> InodeOnDevice | None:
        """Return the mark of a file."""
        return cls(file.status.st_dev, file.status.st_ino)


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode on any device: Fluent Bit."""

    inode: int

    @classmethod
    def of(cls, file: OpenedLog) -> Inode | None:
        """Return the mark of a file."""
        return cls(file.status.st_ino)


@dataclass(frozen=True, slots=True)
class LogPath:
    """A path: Filebeat, Grafana Alloy."""

    path: str

    @classmethod
    def of(cls, file: OpenedLog) -> LogPath | None:
        """Return the mark of a file."""
        return cls(os.path.normpath(file.path.absolute()))


@dataclass(frozen=True, slots=True)
class ImfileState:
    """The name of a state file.

    rsyslog/rsyslog, plugins/imfile/imfile.c: while a file has less than 512 bytes, its inode alone. Seen with 8.2302.
    """

    inode: int
    head: str

    @classmethod
    def of(cls, file: OpenedLog) -> ImfileState | None:
        """Return the mark of a file."""
        head = file.head(512)
        return cls(file.status.st_ino, siphash(head) if len(head) == 512 else "")  # noqa: PLR2004  # as above


Mark = InodeOnDevice | Inode | LogPath | ImfileState


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What is in a registry behind a mark.

    Attributes:
        position: Bytes read; None where what stands there is none.
        name: The path next to an inode number without a device; empty where the mark suffices.
    """

    position: int | None
    name: str = ""

    def speaks_of(self, file: OpenedLog) -> bool:
        """Return whether the position is one of this file, and not of another that had its inode before."""
        return not self.name or _may_be_called(self.name, file)


def _may_be_called(name: str, file: OpenedLog) -> bool:
    """Return whether a name can be the file's: the directory does not matter, in a container it is another one."""
    if name.rpartition("/")[2] != file.path.name:
        return False
    try:
        there = os.stat(name)  # noqa: PTH116  # a name from outside; no path is made of it
    except (OSError, ValueError):
        return True
    return there.st_ino != file.status.st_ino or there.st_dev == file.status.st_dev  # same number, another disk


@contextmanager
def opened_log(path: Path) -> Iterator[OpenedLog]:
    """Open a regular file, no link; else OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        yield OpenedLog(path=path, fd=fd, status=status)
    finally:
        os.close(fd)
