"""Snapshots on disk: where they go, what an earlier transfer left, and whether there is room."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import Locked, StorageError
from ddslogd.model.snapshot import Seed
from ddslogd.scheduling.clock import LARGEST_LEAD
from ddslogd.storage import paths as storage_paths
from ddslogd.storage.disk_space import Reserve, room_at
from ddslogd.storage.filesystem import DIRECTORY_MODE, PRIVATE_FILE_MODE, disk, exists, make_root, md5_of, to_its_end
from ddslogd.storage.owner_file import owner_of
from ddslogd.storage.snapshots.checksums import checks_of
from ddslogd.storage.snapshots.partial_file import Desk, Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.model.snapshot import Identity, LogFile, Snapshot
    from ddslogd.storage.directory_sync import Directories
    from ddslogd.storage.owner_file import DirectoryOwner

log = structlog.get_logger()

SWEEP_EVERY = timedelta(days=1)
LOCK_FILE = ".ddslogd.lock"
SNAPSHOT_DEPTH = 4  # snapshots/<instance>/<node>/<name>


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """A part that waits for a transfer to go on with it."""

    path: Path
    identity: Identity
    trusted: bool
    useful_until: datetime
    seeded: int = 0


class Store:
    """The storage directory. One process writes to it."""

    def __init__(self, directory: Path, *, settings: LiveSettings) -> None:
        """Prepare; ``open`` makes it usable.

        Args:
            directory: Holds ``snapshots``.
            settings: What stays free, which checksums are taken, and how long the cloud serves an export: after that
                nothing can go on with its parts. Parts that are growing keep the checksums that they began with.
        """
        self._directory = directory
        self._settings = settings
        self._desk = Desk(lambda: checks_of(settings.current), Reserve(lambda: settings.current.storage.keep_free))
        self._left: dict[Path, _Left] = {}  # by final path
        self._lent: dict[Path, Part] = {}  # by final path: parts that are growing
        self._swept_at = datetime.max.replace(tzinfo=UTC)
        self._lock: int | None = None

    @property
    def _fresh_for(self) -> timedelta:
        return self._settings.current.export.fresh_for

    @property
    def reserve(self) -> Reserve:
        """Return what keeps room free on this file system, for whoever writes next to it."""
        return self._desk.reserve

    @property
    def directories(self) -> Directories:
        """Return what makes and syncs the directories of this storage directory, for whoever writes next to it."""
        return self._desk.directories

    async def secure(self, keys: Iterable[str]) -> None:
        """Have the names of snapshots outlive a power cut, whoever gave them.

        Raises:
            StorageError: The disk refuses.
        """
        paths = dict.fromkeys((self._directory / key).parent for key in keys)
        await to_its_end(self._desk.begin(partial(self._secure, tuple(paths))))

    def _secure(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with disk(path):
                self.directories.secure(self._directory, path)

    def open(self, now: datetime) -> None:
        """Claim the directory. Blocks; called once, before anything runs.

        Raises:
            Locked: Another process has claimed it.
            StorageError: It cannot be made or read.
        """
        self._lock = claim(self._directory)
        self._swept_at = now

    def close(self) -> None:
        """Let another process claim the directory."""
        self._desk.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def instances(self) -> tuple[str, ...]:
        """Return the names of the directories that are there, one for each instance. Blocks."""
        return tuple(
            entry.name for entry in _entries(self._directory / storage_paths.SNAPSHOTS) if _is_directory(entry)
        )

    def owner(self, segment: str) -> DirectoryOwner | None:
        """Return whose a directory is, by the directory's name; None where nothing says it. Blocks."""
        return owner_of(self._directory, segment)

    def has_snapshots(self) -> bool:
        """Return whether there is any snapshot. Blocks."""
        return any(
            depth == SNAPSHOT_DEPTH
            and storage_paths.is_snapshot_name(entry.name)
            and entry.is_file(follow_symlinks=False)
            for entry, depth in self._files("")
        )

    def survey(self, instance: str, now: datetime) -> tuple[str, ...]:
        """Look through an instance's directory, by its name; keep or sweep the parts of an earlier process. Blocks.

        Called for each instance before its first part is asked for.

        Returns:
            The keys of the snapshots that are there.
        """
        found = []
        for entry, depth in self._files(instance):
            if _is_part(entry.name):
                self._keep_or_sweep(Path(entry.path), now)
            elif self._is_snapshot(entry, depth):
                found.append(f"{storage_paths.SNAPSHOTS}/{'/'.join(entry.path.rsplit('/', depth - 1)[1:])}")
        return tuple(found)

    def is_there(self, key: str) -> bool:
        """Return whether there is a regular file at a snapshot's path, as far as can be seen. Blocks."""
        try:
            return stat.S_ISREG((self._directory / key).lstat().st_mode)
        except OSError:
            return False

    async def has_room(self) -> bool:
        """Return whether ``keep_free`` bytes are free for us.

        Raises:
            StorageError: The file system does not say.
        """
        with disk(self._directory):
            room = await asyncio.to_thread(room_at, self._directory)
        return room.free >= self.reserve.keep_free

    @asynccontextmanager
    async def part(self, file: LogFile) -> AsyncIterator[Part]:
        """Lend the part that becomes the file's snapshot, with what an earlier transfer left of it.

        What is neither published nor removed in the end is set aside for a later transfer of the file, or removed
        where none could go on with it.

        Raises:
            StorageError: The disk refuses to put it aside.
        """
        final = self._directory / storage_paths.snapshot_path(file)
        part = Part(self._directory, final, desk=self._desk)
        self._lent[final] = part
        try:
            left = self._left.pop(final, None)
            if left is not None:
                try:
                    await part.take_over(left.path, left.identity, trusted=left.trusted, seeded=left.seeded)
                except StorageError:  # no loss: the transfer begins from zero
                    await asyncio.to_thread(_unlink, left.path)
            yield part
        finally:
            try:
                await self._put_aside(part, final, file.updated_at + self._fresh_for)
            finally:
                self._lent.pop(final, None)

    def parts(self) -> tuple[Path, ...]:
        """Return the files that are not whole yet, as far as they are known: of an instance from its first cycle on."""
        growing = (part.path for part in self._lent.values())
        return (*(path for path in growing if path is not None), *(left.path for left in self._left.values()))

    async def _put_aside(self, part: Part, final: Path, useful_until: datetime) -> None:
        if part.path is None or not part.resumable or part.in_place:
            await part.remove()
            return
        self._left[final] = _Left(
            path=part.path, identity=part.identity, trusted=True, useful_until=useful_until, seeded=part.seeded
        )
        await part.close()

    async def md5_of(self, key: str) -> str:
        """Return the MD5 of a published snapshot; empty where there is no such file.

        Raises:
            StorageError: It cannot be read.
        """
        path = self._directory / key
        with disk(path):
            if path.is_symlink() or not path.is_file():
                return ""
            return await asyncio.to_thread(md5_of, path)

    async def has(self, key: str) -> bool:
        """Return whether there is a file at a snapshot's path.

        Raises:
            StorageError: The disk does not say.
        """
        return await asyncio.to_thread(exists, self._directory / key)

    def seed(self, snapshot: Snapshot) -> Seed | None:
        """Return a published snapshot as what its node's next file may begin with the end of.

        None where no MD5 is taken of what comes now: nothing else would prove it.
        """
        if not self._desk.checks.md5:
            return None
        file = (self._directory / snapshot.path, snapshot.size)
        return Seed(size=snapshot.size, md5=snapshot.md5, sha256=snapshot.sha256, locate=lambda: (file,))

    async def size_of(self, key: str) -> int:
        """Return the bytes of a published snapshot.

        Raises:
            StorageError: There is none.
        """
        path = self._directory / key
        with disk(path):
            return (await asyncio.to_thread(path.lstat)).st_size

    async def sweep(self, now: datetime) -> int:
        """Remove the parts that nothing can go on with any more; give the number of those that were known of.

        Once a day the directory is looked through for others, which nobody knows of.
        """
        if abs(now - self._swept_at) >= SWEEP_EVERY:  # the clock may have been set back
            self._swept_at = now
            await asyncio.to_thread(self._sweep_strays)
        longest = self._fresh_for + LARGEST_LEAD  # what is useful for longer bears a time that cannot be
        known = self._left.copy()  # surveys add to it
        over = [one for one, left in known.items() if left.useful_until <= now or left.useful_until - now > longest]
        swept = 0
        for final in over:
            left = self._left.pop(final, None)  # None: the sweep of another cycle was quicker, or it is lent again
            if left is not None:
                await asyncio.to_thread(_unlink, left.path)
                swept += 1
        return swept

    def _sweep_strays(self) -> None:
        for entry, _ in self._files(""):
            if _is_part(entry.name):
                path = Path(entry.path)
                final = path.with_name(_final_name(path))
                if final not in self._left and final not in self._lent:
                    _unlink(path)

    def _files(self, instance: str) -> Iterator[tuple[os.DirEntry[str], int]]:
        """Yield what is no directory, of an instance or of all, with its depth below the storage directory."""
        top = self._directory / storage_paths.SNAPSHOTS / instance
        waiting = [] if instance and top.is_symlink() else [(str(top), 3 if instance else 2)]
        while waiting:
            directory, depth = waiting.pop()
            for entry in _entries(directory):
                if _is_directory(entry):
                    waiting.append((entry.path, depth + 1))
                else:
                    yield entry, depth

    def _is_snapshot(self, entry: os.DirEntry[str], depth: int) -> bool:
        """Return whether the file is a snapshot; what only looks like one is told of."""
        if depth != SNAPSHOT_DEPTH or not storage_paths.is_snapshot_name(entry.name):
            return False
        if entry.path.isascii() and entry.is_file(follow_symlinks=False):  # told by the directory: no other look at it
            return True
        reason = _objection(Path(entry.path))
        if reason:
            log.warning("ledger.not_adopted", path=_printable(Path(entry.path)), reason=reason)
        return not reason

    def _keep_or_sweep(self, path: Path, now: datetime) -> None:
        final = path.with_name(_final_name(path))
        if final in self._left or final in self._lent:  # looked through again, for a new ledger
            return
        left = self._recognised(path)
        if left is not None and left.useful_until > now:
            self._left[final] = left
        else:
            _unlink(path)

    def _recognised(self, path: Path) -> _Left | None:
        """Return a part of an earlier process, unless nothing proves what it is a part of."""
        read = storage_paths.read_part_name(path.name)
        if read is None or read[1] is None or not read[1].etag.startswith('"'):
            return None
        if not self._desk.checks.md5:  # a crash may have left zeroes anywhere in it, and nothing would show them
            return None
        updated_at = storage_paths.updated_at(read[0])
        if updated_at is None or _objection(path):
            return None
        with suppress(OverflowError):  # a stamp at the end of time is not one of ours
            return _Left(path=path, identity=read[1], trusted=False, useful_until=updated_at + self._fresh_for)
        return None


def claim(directory: Path, *, mode: int = DIRECTORY_MODE) -> int:
    """Claim a directory for this process, made where it is missing; the descriptor holds the claim until it is closed.

    Nobody else may open the lock file: whoever reads it can lock it, and so keep the daemon from starting. The lock is
    nothing on NFS: there, keep to one ddslogd by other means.

    Args:
        directory: To be claimed.
        mode: Of a directory that is made.

    Raises:
        Locked: Another process holds it; the message names that process.
        StorageError: The directory or the lock file cannot be made.
    """
    path = directory / LOCK_FILE
    with disk(directory):
        make_root(directory, mode=mode)
    with disk(path):
        # Read-only, so that the lock alone keeps nobody from mounting the file system read-only.
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags, PRIVATE_FILE_MODE)
    with suppress(OSError):  # who may not: it is another user's file, which is his to guard
        os.fchmod(fd, PRIVATE_FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        said = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        found = os.fstat(fd)
        os.close(fd)
        raise Locked(_locked_by(said, _lock_holder(found), directory)) from exc
    try:
        with disk(path):
            _enter_process(fd, path)
    except StorageError:
        os.close(fd)
        raise
    return fd


def _enter_process(fd: int, path: Path) -> None:
    """Write who holds the lock into the locked file itself, whatever has its name by now.

    Raises:
        OSError: It is no regular file, or another one has taken its name.
    """
    locked = os.fstat(fd)
    if not stat.S_ISREG(locked.st_mode):
        raise OSError(errno.EINVAL, "the lock is no regular file", str(path))
    writer = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(writer), locked):
            raise OSError(errno.EBUSY, "somebody has put another file in the lock's place", str(path))
        os.ftruncate(writer, 0)
        os.write(writer, f"{os.getpid()}\n".encode())
    finally:
        os.close(writer)


def is_claimed(directory: Path) -> bool:
    """Return whether a process has claimed a directory, as far as the system tells; claims nothing, even for a moment.

    Nor does it try to: a daemon that starts in that moment would be refused.
    """
    try:
        found = (directory / LOCK_FILE).stat()
    except OSError:
        return False
    return _lock_holder(found) is not None


def _lock_holder(found: os.stat_result) -> int | None:
    """Return the process that holds a lock on a file, 0 where that is one of another host or container.

    None where none does, as far as the system tells.
    """
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:131082 0 EOF; see proc_locks(5)
    for fields in map(str.split, locks.splitlines()):
        if fields[1] == "FLOCK" and device in fields:
            return max(0, int(fields[4]))
    return None


def _locked_by(said: str, holder: int | None, directory: Path) -> str:
    """Return who keeps a directory from being claimed: a ddslogd enters its number in the lock file, others do not."""
    if not holder or str(holder) == said:
        return f"another ddslogd (process {said}) works on {directory}: stop it first"
    try:
        name = Path(f"/proc/{holder}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        name = "?"
    return f"process {holder} ({name!r}) has locked {directory / LOCK_FILE}: end it, or find out what it is for"


def holder(directory: Path) -> str | None:
    """Return the process that has claimed a directory, as it says itself; None where none has."""
    if not is_claimed(directory):
        return None
    try:
        return (directory / LOCK_FILE).read_text("ascii", "replace")[:32].strip() or "unknown"
    except OSError:
        return "unknown"


def _entries(directory: Path | str) -> list[os.DirEntry[str]]:
    """Return what is in a directory; nothing where it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _is_part(name: str) -> bool:
    return name.startswith(".") and storage_paths.read_part_name(name) is not None


def _objection(path: Path) -> str:
    """Return why a file cannot be one of ours; empty where it can."""
    try:
        str(path).encode()
        regular = stat.S_ISREG(path.lstat().st_mode)
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as exc:
        return str(exc.strerror)
    return "" if regular else "it is no regular file"


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _final_name(part: Path) -> str:
    read = storage_paths.read_part_name(part.name)
    return read[0] if read else part.name


def _unlink(path: Path) -> None:
    with suppress(OSError):  # gone already, or the next sweep's
        path.unlink()
    log.info("part.swept", path=_printable(path))
