"""What a crash, a damaged ledger or a lost one left open is completed before anything runs."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import structlog

from ddslogd.errors import StorageError
from ddslogd.models import LogFile, Snapshot
from ddslogd.pacing import EPOCH
from ddslogd.storage import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ddslogd.storage.ledger import Ledger
    from ddslogd.storage.store import Store

log = structlog.get_logger()


async def recover(store: Store, ledger: Ledger, *, found: Sequence[str], names: Iterable[str], now: datetime) -> None:
    """Bring the ledger in line with the disk.

    What the ledger promised and the disk has, byte for byte, is entered. What the disk has and the ledger does not
    know is adopted: as unverified, since the checksum that came with it is lost. A file that cannot be read is told of
    and left out. What the ledger knows and the disk does not have any more is noted.

    Args:
        store: Open.
        ledger: Open.
        found: The keys of the snapshots on disk.
        names: Of the instances in the configuration, to tell them by their directories.
        now: When they count as stored.

    Raises:
        StorageError: The ledger cannot be written.
    """
    for snapshot in await ledger.promised():
        if await _is_kept(store, snapshot):
            await ledger.enter(snapshot)
            log.info("ledger.completed", path=snapshot.path)
        else:
            await ledger.forget(snapshot)
    await ledger.reconcile(found)
    missing = await ledger.missing(found)
    adopter, newest = _Adopter(store, names, now), _newest(missing)
    adopted = [one for key in missing if (one := await adopter.adopt(key, newest=key in newest)) is not None]
    if adopted:
        await ledger.adopt(*adopted)
        log.warning("ledger.adopted", files=len(adopted))


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


class _Adopter:
    """Makes entries for files that the ledger does not know, by their paths."""

    def __init__(self, store: Store, names: Iterable[str], now: datetime) -> None:
        self._store = store
        self._names = {layout.segment(name): name for name in names}
        self._now = now

    async def adopt(self, key: str, *, newest: bool) -> Snapshot | None:
        """Make the file's entry; None where it cannot be read, or is gone meanwhile."""
        try:
            return await self._entry(key, newest=newest)
        except StorageError as exc:
            log.warning("ledger.not_adopted", path=key, reason=str(exc))
            return None

    async def _entry(self, key: str, *, newest: bool) -> Snapshot:
        *_, instance, node, name = PurePosixPath(key).parts
        updated_at = layout.updated_at(name)
        return Snapshot(
            file=LogFile(
                instance=self._names.get(instance, instance),
                log=layout.log_kind(key),
                node=node,
                file_name=layout.file_name(name),
                updated_at=updated_at or EPOCH,
            ),
            key=key,
            path=key,
            size=await self._store.size_of(key),
            md5=await self._store.md5_of(key) if newest else "",  # to read them all would take too long
            etag="",
            verified=False,
            began_at=self._now,
            stored_at=self._now,
            attempts=0,
        )
