"""The place where logs and state are kept, looked at from outside: room, modes, who may read. Nothing is changed."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ddslogd.storage import paths
from ddslogd.storage.disk_space import room_at
from ddslogd.storage.filesystem import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddslogd.storage.disk_space import Room

MOST_LOOKED_AT: Final = 2_000  # files and directories; modes are the same everywhere unless somebody changed them
_MOUNTS: Final = Path("/proc/self/mounts")
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Somebody whose access is judged by mode bits alone; access control lists are not looked at.

    Attributes:
        uid: None for somebody who is known by group only.
    """

    name: str
    uid: int | None
    gids: frozenset[int]

    def may(self, status: os.stat_result, bits: int) -> bool:
        """Return whether all of the bits (4 read, 2 write, 1 search) are granted."""
        if self.uid == 0:
            return True
        shift = 6 if self.uid == status.st_uid else 3 if status.st_gid in self.gids else 0
        return (stat.S_IMODE(status.st_mode) >> shift) & bits == bits


def myself() -> Who:
    """Return the user of this process."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Who(name=name, uid=uid, gids=frozenset({os.getegid(), *os.getgroups()}))


def user(name: str) -> Who | None:
    """Return a user of this host; None where there is none of the name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Who(name=name, uid=entry.pw_uid, gids=frozenset(os.getgrouplist(name, entry.pw_gid)))


def group_name(gid: int) -> str:
    """Return a group's name; its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def member_of(gid: int) -> Who:
    """Return somebody who has that one group, and owns nothing."""
    return Who(name=f"group {group_name(gid)}", uid=None, gids=frozenset({gid}))


def room_for(path: Path) -> Room:
    """Look how much room there is, where a directory is or will be.

    Raises:
        StorageError: The file system does not say.
    """
    there = nearest(path)
    with disk(there):
        return room_at(there)


def nearest(path: Path) -> Path:
    """Return the directory, or what is there of the way to it."""
    return next((one for one in (path, *path.parents) if _status(one) is not None), Path("/"))


def status_of(path: Path) -> os.stat_result | None:
    """Return a directory's status; None where there is none.

    Raises:
        StorageError: That cannot be told.
    """
    with disk(path):
        try:
            return path.stat()
        except FileNotFoundError:
            return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def barrier(path: Path, who: Who, bits: int) -> Path | None:
    """Return the first thing on the way to a path that keeps somebody out; None where nothing does."""
    for one in (*reversed(path.parents), path):
        status = _status(one)
        if status is None:
            return None if one != path else one
        if not who.may(status, bits if one == path else 1):
            return one
    return None


def remote_type(path: Path) -> str:
    """Return the type of the file system where it is another host's, on which locks are nothing; else nothing."""
    best, kind = "", ""
    with suppress(OSError):
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            _, point, found, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if path.is_relative_to(point) and len(point) >= len(best):
                best, kind = point, found
    return kind if kind in _REMOTE else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """A file or directory of the storage directory."""

    path: Path
    status: os.stat_result


def streams(directory: Path) -> Iterator[AccessEntry]:
    """Yield the directories and files below ``streams``, hidden ones left out, as many as are looked at."""
    left = MOST_LOOKED_AT
    top = directory / paths.STREAMS
    for instance in listed(top):
        inside = [one for one in listed(instance) if not one.is_symlink()]
        for path in (instance, *inside, *(file for one in inside for file in listed(one))):
            status = _status(path)
            if status is not None and left > 0:
                left -= 1
                yield AccessEntry(path=path, status=status)


def listed(directory: Path) -> list[Path]:
    """Return what a directory has, hidden ones left out; nothing where it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
