"""What one cycle gives to the streams of its instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.collection.stream_origin import stream_origin
from ddslogd.model.errors import StorageError

if TYPE_CHECKING:
    from ddslogd.collection.context import CycleContext
    from ddslogd.collection.cycle_result import CycleResult
    from ddslogd.model.snapshot import Snapshot
    from ddslogd.model.stream import StreamState
    from ddslogd.storage.snapshots.partial_file import Part
    from ddslogd.storage.streams.stream_writer import Origin


class StreamFeed:
    """Lets streams take what is new; what keeps one from it is its own failure."""

    def __init__(self, context: CycleContext, result: CycleResult) -> None:
        self._context = context
        self._result = result
        self._archive = context.archive

    async def catch_up(self, series: str) -> None:
        """Let a stream take the snapshots that wait for it."""
        if not self._context.settings.stream.enabled:
            return
        name = self._context.instance.name
        try:
            await self._archive.recovery.of(name)  # the ledger may be a new one since the cycle began
            await self._archive.streams.catch_up(series, origin=self._origin(), note=self._result.advances.append)
        except StorageError as exc:
            self._result.failed_streams.append(exc)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is this stream's alone
            self._result.failed_streams.append(self._context.bugs.note(exc, instance=name, series=series))

    async def extend(self, snapshot: Snapshot, part: Part, base: StreamState) -> Snapshot | None:
        """Let a stream take what a part has behind what the stream holds; as ``Streams.extend`` does.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        note = self._result.advances.append
        return await self._archive.streams.extend(
            snapshot, part.new, proof_line=part.proof_line, base=base, origin=self._origin(), note=note
        )

    async def drop_superseded(self) -> None:
        """Remove the snapshots that nothing needs any more, where something is new."""
        if not self._result.has_stored:
            return
        try:
            await self._archive.retention.drop_superseded(self._context.instance.name)
        except StorageError as exc:
            self._result.failed_streams.append(exc)

    def _origin(self) -> Origin:
        context = self._context
        ahead = context.account.skew.ahead(context.clock)
        return stream_origin(context.instance, context.instance.name, context.settings, ahead=ahead)
