"""Whether there is room on disk for another cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ddslogd.collection.context import Archive
    from ddslogd.config.live_settings import LiveSettings

log = structlog.get_logger()


class RoomCheck:
    """Looks for room before each cycle, and makes some where there is too little."""

    def __init__(self, archive: Archive, settings: LiveSettings) -> None:
        self._archive = archive
        self._settings = settings
        self._full = False

    async def has_room(self) -> bool:
        """Return whether there is room; log once that there is none, and once that there is again.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        archive = self._archive
        has_room, reserve = await archive.store.has_room(), archive.store.reserve
        if not has_room or reserve.lacking:  # or something was refused since
            await archive.recovery.whole()  # room is counted by what is there
            await archive.retention.make_room()
            reserve.lacking = 0
            has_room = await archive.store.has_room()
        self._report(has_room=has_room)
        return has_room

    def _report(self, *, has_room: bool) -> None:
        storage = self._settings.current.storage
        if has_room and self._full:
            log.info("disk.room_again", directory=str(storage.directory))
        if not has_room and not self._full:
            todo = "make room, or lower storage.keep_free; until then nothing is requested"
            log.warning(
                "disk.below_keep_free", directory=str(storage.directory), keep_free=storage.keep_free, todo=todo
            )
        self._full = not has_room
