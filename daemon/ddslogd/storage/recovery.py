"""What a crash, a damaged ledger or a lost one left open is completed: of each instance before its first cycle.

promises ─► whatever a crash interrupted, at once
of       ─► one instance: its directory is looked through when its first cycle begins
whole    ─► all the others, in slices, beside the cycles; before anything runs where the ledger is new
"""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import structlog

from ddslogd.errors import StorageError
from ddslogd.models import LogFile, Snapshot
from ddslogd.pacing import EPOCH
from ddslogd.storage import layout
from ddslogd.storage.filesystem import unbroken

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddslogd.pacing import Clock
    from ddslogd.storage.ledger import Ledger
    from ddslogd.storage.store import Store

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
        self._names = {layout.segment(name): name for name in names}
        self._clock = clock
        self._done: set[str] = set()  # directories' names
        self._over = False
        self._lock = asyncio.Lock()
        self._whole_lock = asyncio.Lock()

    async def promises(self) -> None:
        """Enter what the ledger promised and the disk has, byte for byte; forget the other promises.

        Raises:
            StorageError: The ledger cannot be written.
        """
        for snapshot in await self._ledger.promised():
            if await _is_kept(self._store, snapshot):
                await self._ledger.enter(snapshot)
                log.info("ledger.completed", path=snapshot.path)
            else:
                await self._ledger.forget(snapshot)

    async def of(self, instance: str) -> None:
        """Bring the ledger in line with one instance's directory, unless that is done; before its first cycle.

        Raises:
            StorageError: The ledger cannot be written.
        """
        directory = layout.segment(instance)
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
            if not self._over:
                await self._bring_whole()
                self._over = True
                self._done.clear()

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
        waiting = [one for one in directories if one not in self._done and not self._over]
        if not waiting:
            return 0
        found = await self._surveyed(waiting)
        missing = await self._ledger.reconcile(found, is_there=self._store.is_there)
        newest = _newest(missing)
        adopted = [one for key in missing if (one := await self._adopt(key, newest=key in newest)) is not None]
        if adopted:
            await self._ledger.adopt(*adopted)
        self._done.update(waiting)
        return len(adopted)

    @unbroken  # a thread that nobody waits for any more would sweep the parts of cycles that begin meanwhile
    async def _surveyed(self, directories: Sequence[str]) -> dict[str, Sequence[str]]:
        return await asyncio.to_thread(self._survey, directories)

    def _survey(self, directories: Sequence[str]) -> dict[str, Sequence[str]]:
        now = self._clock.now()
        found = ((one, self._store.survey(one, now)) for one in directories)
        return {f"{layout.SNAPSHOTS}/{one}": keys for one, keys in found if _is_text(one)}

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
                log=layout.log_kind(key),
                node=node,
                file_name=layout.file_name(name),
                updated_at=layout.updated_at(name) or EPOCH,
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
    """Give the newest of each series: the one that the next export is compared with."""
    newest: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: layout.updated_at(key) or EPOCH):
        newest[layout.series(key)] = key
    return set(newest.values())
