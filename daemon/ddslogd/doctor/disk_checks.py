"""Whether logs and state have a place: room, inodes, modes, a ledger that can be read, and readers who may read."""

from __future__ import annotations

from datetime import timedelta
from stat import S_IMODE, S_ISDIR
from typing import TYPE_CHECKING, Final

from ddslogd.doctor.check_result import CheckResult, fail, ok, warn
from ddslogd.model.errors import ConfigError, LedgerOlder, StorageError
from ddslogd.model.units import spelled_size
from ddslogd.storage import file_access, ownership, paths
from ddslogd.storage.ledger import database, reports
from ddslogd.storage.ledger.snapshot_records import FILE_NAME
from ddslogd.storage.snapshots.store import LOCK_FILE, holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from ddslogd.config.settings import Limits, Settings, Storage
    from ddslogd.storage.disk_space import Room
    from ddslogd.storage.file_access import Who

AREA: Final = "disk"
_FEW_INODES: Final = 10_000
_FEW_OF_ALL: Final = 20  # one in so many
_DAY: Final = timedelta(days=1)
_SHOWN: Final = 3


def housed(settings: Settings, who: Who, now: datetime) -> Iterator[CheckResult]:
    """Look at both directories, the disk, the ledger and who may read. Blocks.

    Args:
        settings: Of the daemon.
        who: The daemon's user, by mode bits.
        now: For what comes a day.
    """
    storage = settings.storage
    yield from directories(storage, who)
    yield from _room(settings, who, now)
    yield _running(storage)
    yield _ledger(storage.state)
    if settings.stream.enabled:
        yield from _readers(storage.directory)


def directories(storage: Storage, who: Who) -> Iterator[CheckResult]:
    """Look whether the daemon's user may write where it has to, and all that is there. Blocks."""
    yield from _directory("storage.directory", storage.directory, who, mode=0o750)
    yield from _directory("storage.state", storage.state, who, mode=0o700)
    if left := ownership.leftovers(storage, who):
        text = f"{left.paths[0]} is root's ({len(left.paths)} in all), left by a command that root started"
        yield fail(AREA, text, left.todo)


def _directory(setting: str, path: Path, who: Who, *, mode: int) -> Iterator[CheckResult]:
    try:
        status = file_access.status_of(path)
    except StorageError as exc:
        yield fail(
            AREA, f"{setting}: {exc}", f"let {who.name} pass through every directory above it (chmod o+x or g+x)"
        )
        return
    if status is None:
        yield _to_be_made(setting, path, who, mode=mode)
        return
    if not S_ISDIR(status.st_mode):
        yield fail(AREA, f"{setting}: {path} is no directory", "name another, or move it away")
        return
    if stop := file_access.barrier(path, who, 7):
        todo = f"chown {who.name}: {path}; chmod {mode:04o} {path}" if stop == path else f"chmod o+x {stop}"
        yield fail(AREA, f"{setting}: {who.name} may not write to {path}: see {stop}", todo)
    elif S_IMODE(status.st_mode) & 0o007:
        text = f"{setting}: others can look into {path} (mode {S_IMODE(status.st_mode):04o})"
        yield warn(AREA, text, f"chmod {mode:04o} {path}, unless everybody on this host may read the logs")
    else:
        yield ok(AREA, f"{setting}: {who.name} may write to {path} (mode {S_IMODE(status.st_mode):04o})")
    if kind := file_access.remote_type(path):
        todo = "use a local disk: the lock and the ledger need one"
        yield fail(AREA, f"{setting}: {path} is on {kind}, on another host", todo)


def _to_be_made(setting: str, path: Path, who: Who, *, mode: int) -> CheckResult:
    parent = file_access.nearest(path)
    if not parent.is_dir():
        return fail(AREA, f"{setting}: {path} cannot be made: {parent} is no directory", "name another place")
    if file_access.barrier(parent, who, 3):
        todo = f"install -d -m {mode:04o} -o {who.name} -g {who.name} {path}"
        return fail(AREA, f"{setting}: there is no {path}, and {who.name} may not make it in {parent}", todo)
    return ok(AREA, f"{setting}: there is no {path} yet; the daemon makes it in {parent}")


def _room(settings: Settings, who: Who, now: datetime) -> Iterator[CheckResult]:
    storage = settings.storage
    there = file_access.nearest(storage.directory)
    if there != storage.directory and (not there.is_dir() or file_access.barrier(there, who, 3)):
        return  # it cannot be made there, as was said: what is free there is nobody's concern
    try:
        room = file_access.room_for(storage.directory)
    except StorageError as exc:
        yield fail(AREA, str(exc), "see the disk")
        return
    if not room.total:
        what = f"{storage.directory} is on a file system that holds no files"
        yield fail(AREA, what, "name a place on a disk as storage.directory")
        return
    free, total, keep_free = map(spelled_size, (room.free, room.total, storage.keep_free))
    text = f"{free} of {total} are free; storage.keep_free is {keep_free}"
    if room.free < storage.keep_free or room.free == 0:
        yield fail(AREA, f"{text}: nothing is asked for", "make room, or lower storage.keep or storage.keep_free")
    else:
        yield ok(AREA, text)
    yield _inodes(room)
    yield _outlook(settings, room, now)


def _inodes(room: Room) -> CheckResult:
    if room.inodes_free is None:
        return ok(AREA, "inodes: the file system makes them as it needs them")
    text = f"inodes: {room.inodes_free:,} of {room.inodes:,} are free"
    if room.inodes_free == 0:
        return fail(AREA, text, "remove files: there may be many small ones")
    if room.inodes_free < min(_FEW_INODES, room.inodes // _FEW_OF_ALL):
        return warn(AREA, text, "lower storage.keep.snapshots.age, or set storage.snapshots: latest")
    return ok(AREA, text)


def _outlook(settings: Settings, room: Room, now: datetime) -> CheckResult:
    """Reckon what there will be once retention removes as much as comes."""
    storage = settings.storage
    try:
        growth = reports.growth(storage.state, now)
    except (ConfigError, StorageError):
        return ok(AREA, "what will come cannot be reckoned before a day of cycles: up to 40 MB a node and cycle")
    snapshots = growth.held_snapshots
    all_stay = settings.kept_snapshots == "all"
    if all_stay:
        snapshots = _held(growth.snapshots, storage.keep.limits(storage.keep.snapshots), snapshots)
    streams = _held(growth.streams, storage.keep.limits(storage.keep.streams), growth.held_streams)
    more = snapshots + streams - growth.held_snapshots - growth.held_streams
    will_hold = spelled_size(snapshots + streams)
    text = f"at the pace of the last week storage.keep will hold {will_hold}, {spelled_size(more)} more"
    if more > room.free - storage.keep_free:
        what = f"{text}, which there is no room for: old files will go sooner"
        hint = ", or storage.snapshots: latest" if all_stay and settings.stream.enabled else ""
        return warn(AREA, what, f"more disk, or lower storage.keep{hint}")
    return ok(AREA, text)


def _held(a_day: float, limits: Limits, now: int) -> int:
    """Return what there will be of a kind; without any limit, what comes in a year."""
    size = a_day * ((limits.age or 365 * _DAY) / _DAY)
    return max(now, round(min(size, limits.size or size)))


def _running(storage: Storage) -> CheckResult:
    process = holder(storage.directory)
    if process is None:
        return ok("daemon", f"no ddslogd works on {storage.directory} (or {LOCK_FILE} there cannot be read)")
    return ok("daemon", f"a ddslogd runs: process {process} works on {storage.directory}")


def _ledger(state: Path) -> CheckResult:
    path = state / FILE_NAME
    try:
        there = file_access.status_of(path) is not None
        if there:
            with database.reading(path):
                return ok("ledger", f"{path} can be read (version {database.VERSION})")
    except LedgerOlder as exc:
        return warn("ledger", str(exc), "the next start of the daemon brings it up")
    except ConfigError as exc:
        return fail("ledger", str(exc), "install that version")
    except StorageError as exc:
        return fail(
            "ledger", str(exc), "be the service's user; a damaged one is put aside and rebuilt at the next start"
        )
    return ok("ledger", f"there is no {path} yet; the daemon makes it")


def _readers(directory: Path) -> Iterator[CheckResult]:
    """Yield whether members of the directory's group can read streams, and everybody else."""
    top = directory / paths.STREAMS
    status = file_access.status_of(file_access.nearest(top))
    if status is None:
        return
    reader = file_access.member_of(status.st_gid)
    if stop := file_access.barrier(file_access.nearest(top), reader, 5):
        todo = f"chmod g+rx {stop}, or o+x where it belongs to another group"
        yield warn("shipper", f"{reader.name} cannot read {top}: see {stop}", todo)
        return
    bad = []
    for entry in file_access.streams(directory):
        need = 5 if S_ISDIR(entry.status.st_mode) else 4
        if not reader.may(entry.status, need):
            bad.append(str(entry.path))
    if bad:
        shown = ", ".join(bad[:_SHOWN])
        yield warn("shipper", f"{reader.name} cannot read {shown} ({len(bad)} in all)", f"chmod -R g+rX {top}")
    else:
        yield ok("shipper", f"{reader.name} can read the streams: a shipper's user has to be in it (usermod -aG)")
