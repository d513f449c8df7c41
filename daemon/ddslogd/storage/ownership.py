"""Whose the directories are, and how a command that root starts goes on as that user.

What root wrote there, the service could not open. Where root owns the directories, as in a container, root stays root.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ddslogd.model.errors import StorageError
from ddslogd.storage import file_access
from ddslogd.storage import paths as storage_paths
from ddslogd.storage.file_access import Who
from ddslogd.storage.filesystem import disk, make_root
from ddslogd.storage.ledger.snapshot_records import FILE_NAME
from ddslogd.storage.snapshots.store import LOCK_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddslogd.config.settings import Storage

SERVICE_USER: Final = "ddslogd"
PACKAGED: Final = (Path("/var/log/ddslogd"), Path("/var/lib/ddslogd"))  # the unit's LogsDirectory= and StateDirectory=
_MASK: Final = 0o027  # as the unit's UMask=


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of this host.

    Attributes:
        name: Its number where it has no name.
        groups: All of them, the first one too.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What belongs to root in directories that do not.

    Attributes:
        paths: Some of them.
        vital: Whether nothing works with them: a directory itself, a lock, the ledger.
        todo: The command that gives them to their user.
    """

    paths: tuple[Path, ...]
    vital: bool
    todo: str


def user_for(storage: Storage) -> User | None:
    """Return the user that root goes on as, the owner of the directories; None where that is root. Blocks.

    A directory that is not there yet is to be the other one's owner's, or the service's user's where the unit has it.

    Raises:
        StorageError: They have different owners, or a directory of the service is root's; it says what fixes that.
    """
    owners = {path: _owner(path) for path in (storage.directory, storage.state)}
    users = {owner.uid: owner for owner in owners.values() if owner is not None}
    if len(users) > 1:
        first, second = ((path, owner.name) for path, owner in owners.items() if owner is not None)
        todo = f"make them one user's: chown -R {first[1]}: {second[0]}"
        raise StorageError(f"{first[0]} is {first[1]}'s and {second[0]} is {second[1]}'s: {todo}")
    for path, owner in owners.items():
        user = next(iter(users.values()), _service_user() if _packaged(path) else None)
        if owner is None and user is not None and path.exists():
            raise StorageError(f"{path} is root's, and {user.name} is to write there: chown -R {user.name}: {path}")
    return next(iter(users.values()), None)


def become(user: User, storage: Storage) -> None:
    """Make the directories that only root can make, and go on as their user for good.

    Raises:
        StorageError: It cannot be done; it says what can.
    """
    for path in (storage.directory, storage.state):
        if not path.exists() and file_access.barrier(file_access.nearest(path), as_who(user), 3):
            with disk(path):
                make_root(path)
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as exc:
        text = f"root cannot go on as {user.name} here ({exc.strerror}): sudo -u {user.name} ddslogd …"
        raise StorageError(text) from exc
    _prove(user)
    os.umask(os.umask(_MASK) | _MASK)


def leftovers(storage: Storage, who: Who) -> Leftovers | None:
    """Return what root has left in the way of a user; None where there is nothing, or the user is root. Blocks.

    A limited number is looked at, and no single snapshot: what root brings has directories of root's.
    """
    if who.uid == 0:
        return None
    vital = tuple(path for path in _vital(storage) if _is_in_the_way(path, who))
    collected = islice(_collected(storage.directory), file_access.MOST_LOOKED_AT)
    paths = vital or tuple(path for path in collected if _is_in_the_way(path, who))
    if not paths:
        return None
    directories = " ".join(dict.fromkeys(str(path) for path in (storage.directory, storage.state)))
    return Leftovers(paths=paths, vital=bool(vital), todo=f"chown -R {who.name}: {directories}")


def _owner(path: Path) -> User | None:
    """Return who owns a directory, or is to own it where it is not there yet; None for root."""
    found = file_access.nearest(path)
    with disk(found):
        status = found.stat()
    if status.st_uid != 0:
        return _user_of(status.st_uid, status.st_gid)
    service = _service_user()
    shared = service is not None and status.st_gid in service.groups and bool(status.st_mode & stat.S_IWGRP)
    return service if shared or (found != path and _packaged(path)) else None


def _packaged(path: Path) -> bool:
    return any(path.is_relative_to(one) for one in PACKAGED)


def _service_user() -> User | None:
    return _user_named(SERVICE_USER)


def _user_named(name: str) -> User | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = os.getgrouplist(name, found.pw_gid)
    return User(name=name, uid=found.pw_uid, gid=found.pw_gid, groups=tuple(groups)) if found.pw_uid else None


def _user_of(uid: int, gid: int) -> User:
    with suppress(KeyError):
        named = _user_named(pwd.getpwuid(uid).pw_name)
        if named is not None and named.uid == uid:
            return named
    return User(name=str(uid), uid=uid, gid=gid, groups=(gid,))


def as_who(user: User) -> Who:
    """Return a user as one whose access is judged."""
    return Who(name=user.name, uid=user.uid, gids=frozenset(user.groups))


def _prove(user: User) -> None:
    """Try to become root again, which must not work.

    Raises:
        StorageError: It does.
    """
    for regain in (partial(os.setresuid, -1, 0, -1), partial(os.setgroups, [0])):
        with suppress(PermissionError):
            regain()
            raise StorageError(f"root's rights did not go with going on as {user.name}: sudo -u {user.name} ddslogd …")
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3:
        raise StorageError(f"this process is not {user.name} throughout: sudo -u {user.name} ddslogd …")


def _vital(storage: Storage) -> Iterator[Path]:
    for directory in (storage.directory, storage.state):
        yield from (directory, directory / LOCK_FILE)
    for end in ("", "-wal", "-shm", "-journal"):
        yield storage.state / f"{FILE_NAME}{end}"


def _collected(directory: Path) -> Iterator[Path]:
    yield from (directory / storage_paths.STREAMS, directory / storage_paths.SNAPSHOTS)
    yield from (entry.path for entry in file_access.streams(directory))
    for instance in file_access.listed(directory / storage_paths.SNAPSHOTS):
        yield from (instance, *file_access.listed(instance))


def _is_in_the_way(path: Path, who: Who) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == 0 and not who.may(status, 2)
