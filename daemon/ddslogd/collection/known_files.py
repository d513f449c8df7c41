"""What one cycle knows of its instance's files: asked of the ledger once, for all nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ddslogd.storage import paths
from ddslogd.storage.ledger.instance_records import instance_records
from ddslogd.storage.ledger.snapshot_records import Known

if TYPE_CHECKING:
    from ddslogd.model.snapshot import LogFile, Snapshot
    from ddslogd.model.stream import StreamState
    from ddslogd.storage.ledger.instance_records import InstanceRecords
    from ddslogd.storage.ledger.snapshot_records import Ledger
    from ddslogd.storage.streams.stream_writer import Streams


class KnownFiles:
    """What is known of an instance's files; what changes meanwhile is asked of the ledger again."""

    def __init__(self, instance: str, *, ledger: Ledger, streams: Streams) -> None:
        """Prepare; the ledger is asked when the first file is.

        Args:
            instance: Its name.
            ledger: Open.
            streams: Know what there is to do for one.
        """
        self._instance = instance
        self._ledger = ledger
        self._streams = streams
        self._one = asyncio.Lock()
        self._records: InstanceRecords | None = None
        self._changed: set[str] = set()  # series

    def changed(self, series: str) -> None:
        """Record that what is known of a series is not what the ledger holds any more."""
        self._changed.add(series)

    async def known(self, file: LogFile) -> Known:
        """Return what is known of a file that is offered.

        Raises:
            StorageError: The ledger cannot be used.
        """
        key = paths.key(file)
        records = await self._of(series := paths.series(key))
        newest = records.newest.get(series) if records else None
        if records is None or (newest and file.updated_at <= newest.file.updated_at and newest.key != key):
            return await self._ledger.known(key)
        held = newest is not None and newest.key == key
        return Known(held=held, newest=None if held else newest)

    async def stream(self, file: LogFile) -> StreamState | None:
        """Return how far the stream of a file had come when the cycle began; None where it is another one since.

        Raises:
            StorageError: The ledger cannot be used.
        """
        records = await self._of(series := paths.series(paths.key(file)))
        return records.states.get(series) if records else None

    async def same_beside(self, snapshot: Snapshot) -> str | None:
        """Return the path of the node's file before or after a snapshot whose bytes are the same; else None.

        Raises:
            StorageError: The ledger cannot be used.
        """
        records = await self._of(series := paths.series(snapshot.key))
        newest = records.newest.get(series) if records else None
        if records is None or (newest and snapshot.file.updated_at < newest.file.updated_at):
            return await self._ledger.same_beside(snapshot)
        same = newest is not None and (newest.md5, newest.size) == (snapshot.md5, snapshot.size)
        return newest.path if newest is not None and same else None

    def is_idle(self, series: str) -> bool:
        """Return whether a stream has nothing to do where its node's export brought nothing new."""
        records = self._records
        if records is None or series in self._changed or records.generation != self._ledger.generation:
            return False
        return series not in records.waiting and not self._streams.is_due(records.states.get(series))

    async def _of(self, series: str) -> InstanceRecords | None:
        """Return what was known when the cycle began; None where a series is another one since."""
        if self._records is None:
            async with self._one:
                if self._records is None:
                    self._records = await instance_records(self._ledger, self._instance)
        is_other = series in self._changed or self._records.generation != self._ledger.generation
        return None if is_other else self._records
