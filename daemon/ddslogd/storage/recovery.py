"""What a crash, a damaged ledger or a lost one left open is completed: of each instance before its first cycle.

promises ─► whatever a crash interrupted, at once
of       ─► one instance: its directory is looked through when its first cycle begins
whole    ─► all the others, in slices, next to the cycles; before anything runs where the ledger is new

Where an empty ledger takes the place of a damaged one while the daemon runs, both begin again.
"""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.scheduling.clock import EPOCH
from ddslogd.storage import paths
from ddslogd.storage.filesystem import unbroken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.ledger.snapshot_records import Ledger
    from ddslogd.storage.snapshots.store import Store

log = structlog.get_logger()

SLICE = 20  # instances that are looked through together: some ten milliseconds of the ledger's thread


class Recovery:
    """Brings the ledger in line with the disk, instance by instance.

    What the disk has and the ledger does not know is adopted: as unverified, since the checksum that came with it is
    lost. A file that cannot be read is told of and left out. What the ledger knows and the disk does not have any more
    is noted.
    """

    def __init__(self, store: Store, ledger: Ledger, *, names: Iterable[str], clock: Clock) -> None:
        """Prepare.

        Args:
            store: Open.
            ledger: Open.
            names: Of the instances in the configuration, to tell them by their directories.
            clock: Says when what is adopted counts as stored.
        """
        self._store = store
        self._ledger = ledger
        self._names = {paths.segment(name): name for name in names}
        self._nodes: dict[tuple[str, str], str] = {}  # by the names of directories
        self._clock = clock
        self._done: set[str] = set()  # directories' names
        self._over = False
        self._generation = ledger.generation
        self._lock = asyncio.Lock()
        self._whole_lock = asyncio.Lock()

    async def promises(self) -> None:
        """Enter what the ledger promised and the disk has, byte for byte; forget the other promises.

        Raises:
            StorageError: The ledger cannot be written.
        """
        for snapshot in await self._ledger.promised():
            if await _is_kept(self._store, snapshot):
                await self._store.secure([snapshot.path])  # whoever gave it its name may not have come to that
                await self._ledger.enter(snapshot)
                log.info("ledger.completed", path=snapshot.path)
            else:
                await self._ledger.forget(snapshot)

    async def of(self, instance: str) -> None:
        """Bring the ledger in line with one instance's directory, unless that is done; before its first cycle.

        Raises:
            StorageError: The ledger cannot be written.
        """
        directory = paths.segment(instance)
        self._follow_ledger()
        if self._over or directory in self._done:
            return
        self._names.setdefault(directory, instance)
        async with self._lock:
            _tell(await self._bring([directory]))

    async def whole(self) -> None:
        """Do the same for all that is left, in slices, so that cycles go on meanwhile.

        Raises:
            StorageError: The ledger cannot be written. What was done is not done again.
        """
        async with self._whole_lock:
            self._follow_ledger()
            while not self._over:
                await self._bring_whole()
                self._over = not self._follow_ledger()
                if self._over:
                    self._done.clear()

    def _follow_ledger(self) -> bool:
        """Begin again where an empty ledger took the place of the one before; tell whether one did."""
        changed = self._generation != self._ledger.generation
        if changed:
            self._generation, self._over = self._ledger.generation, False
            self._done.clear()
        return changed

    async def _bring_whole(self) -> None:
        there = await asyncio.to_thread(self._store.instances)
        known = [directory.rpartition("/")[2] for directory in await self._ledger.directories()]
        waiting, adopted = sorted({*there, *known}), 0
        try:
            for start in range(0, len(waiting), SLICE):
                async with self._lock:
                    adopted += await self._bring(waiting[start : start + SLICE])
        finally:
            _tell(adopted)

    async def _bring(self, directories: Sequence[str]) -> int:
        """Bring some directories in line, unless that is done; tell how many files were adopted."""
        self._follow_ledger()
        waiting, generation = [one for one in directories if one not in self._done and not self._over], self._generation
        if not waiting:
            return 0
        found = await self._surveyed(waiting)
        missing = await self._ledger.reconcile(found, is_there=self._store.is_there)
        newest = _newest(missing)
        await self._learn_names({key.split("/")[1] for key in missing})
        adopted = [one for key in missing if (one := await self._adopt(key, newest=key in newest)) is not None]
        if adopted:
            await self._store.secure(one.path for one in adopted)
            await self._ledger.adopt(*adopted)
        if self._ledger.generation == generation:  # else what was entered may be in the file that was quarantined
            self._done.update(waiting)
        return len(adopted)

    async def _learn_names(self, directories: Iterable[str]) -> None:
        """Learn the names that directories stand for: those of directories are altered where they were not plain."""
        for directory in directories:
            owner = await asyncio.to_thread(self._store.owner, directory)
            if owner is None:
                continue
            if paths.segment(owner.name) == directory:
                self._names.setdefault(directory, owner.name)
            self._nodes |= {(directory, paths.segment(node.name)): node.name for node in owner.nodes.values()}

    @unbroken  # a thread that nobody waits for any more would sweep the parts of cycles that begin meanwhile
    async def _surveyed(self, directories: Sequence[str]) -> dict[str, Sequence[str]]:
        return await asyncio.to_thread(self._survey, directories)

    def _survey(self, directories: Sequence[str]) -> dict[str, Sequence[str]]:
        now = self._clock.now()
        found = ((one, self._store.survey(one, now)) for one in directories)
        return {f"{paths.SNAPSHOTS}/{one}": keys for one, keys in found if _is_text(one)}

    async def _adopt(self, key: str, *, newest: bool) -> Snapshot | None:
        """Make the file's entry; None where it cannot be read, or is gone meanwhile."""
        try:
            return await self._entry(key, newest=newest)
        except StorageError as exc:
            log.warning("ledger.not_adopted", path=key, reason=str(exc))
            return None

    async def _entry(self, key: str, *, newest: bool) -> Snapshot:
        *_, instance, node, name = PurePosixPath(key).parts
        now = self._clock.now()
        return Snapshot(
            file=LogFile(
                instance=self._names.get(instance, instance),
                log=paths.log_kind(key),
                node=self._nodes.get((instance, node), node),
                file_name=paths.file_name(name),
                updated_at=paths.updated_at(name) or EPOCH,
            ),
            key=key,
            path=key,
            size=await self._store.size_of(key),
            md5=await self._store.md5_of(key) if newest else "",  # to read them all would take too long
            etag="",
            verified=False,
            began_at=now,
            stored_at=now,
            attempts=0,
        )


def _tell(adopted: int) -> None:
    if adopted:
        log.warning("ledger.adopted", files=adopted)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # none of ours; its files were told of
        return False
    return True


async def _is_kept(store: Store, promised: Snapshot) -> bool:
    try:
        if not promised.md5:  # the bytes were on the disk before the file had its name, so its name says enough
            return await store.has(promised.path) and await store.size_of(promised.path) == promised.size
        return await store.md5_of(promised.path) == promised.md5
    except StorageError:  # told where it is adopted, or not
        return False


def _newest(keys: Iterable[str]) -> set[str]:
    """Return the newest of each series: the one that the next export is compared with."""
    newest: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: paths.updated_at(key) or EPOCH):
        newest[paths.series(key)] = key
    return set(newest.values())
