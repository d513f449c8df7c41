"""The journey of one file, from its link to its entry in the ledger.

link ─► ledger has it? ─► Downloader.fetch ─► publish ─► ledger
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.poll_schedule import SLACK
from ddslogd.model.cycle import Failed
from ddslogd.model.errors import CloudError, Corrupt, StorageError, TransferError
from ddslogd.model.snapshot import Snapshot, Stored, Superseded, Unchanged
from ddslogd.scheduling.clock import INSTANT
from ddslogd.storage import paths
from ddslogd.storage.filesystem import unbroken
from ddslogd.storage.streams.log_time import AHEAD

if TYPE_CHECKING:
    import asyncio

    from ddslogd.collection.context import CycleContext
    from ddslogd.collection.known_files import KnownFiles
    from ddslogd.collection.node_standings import NodeStandings
    from ddslogd.collection.stream_feed import StreamFeed
    from ddslogd.download.downloader import Fetched
    from ddslogd.huaweicloud.export import RunningExport
    from ddslogd.model.cycle import Outcome
    from ddslogd.model.errors import DdslogdError
    from ddslogd.model.export import Link
    from ddslogd.model.snapshot import LogFile, Seed
    from ddslogd.model.stream import StreamState
    from ddslogd.storage.ledger.snapshot_records import HeldFiles
    from ddslogd.storage.snapshots.partial_file import Part


class FileCollection:
    """Brings one file to disk; whatever is foreseen is an outcome."""

    def __init__(
        self,
        link: Link,
        export: RunningExport,
        *,
        context: CycleContext,
        standings: NodeStandings,
        known_files: KnownFiles,
        feed: StreamFeed,
        one_by_one: asyncio.Lock,
    ) -> None:
        """Prepare; the journey begins now.

        Args:
            link: To the file.
            export: Renews the link.
            context: Of the cycle.
            standings: Hears what the file says of its node.
            known_files: Of the instance.
            feed: Lets streams take what has no copy of its own.
            one_by_one: Of the file's series: held while it is compared with those that are published, until it is
                entered.
        """
        self._link = link
        self._export = export
        self._context = context
        self._archive = context.archive
        self._standings = standings
        self._known_files = known_files
        self._feed = feed
        self._stream: StreamState | None = None  # that may have the beginning of the file
        self._one_by_one = one_by_one
        self._file = link.file  # with another time where its bytes changed, see _as_of_now
        self._key = paths.key(self._file)
        self._received = 0
        self._began_at = context.now()

    async def run(self) -> Outcome:
        """Bring the file to disk; return what became of it."""
        file = self._link.file
        try:
            return await self._bring()
        except (CloudError, TransferError, StorageError) as exc:
            return self._failed(exc)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is this file's alone
            instance = self._context.instance.name
            return self._failed(self._context.bugs.note(exc, instance=instance, node=file.node, log=file.log.value))

    def _failed(self, exc: DdslogdError) -> Failed:
        file = self._file
        return Failed(
            log=file.log,
            node=file.node,
            file_name=file.file_name,
            reason=str(exc),
            kind=exc.kind,
            fetched=self._received,
        )

    async def _bring(self) -> Outcome:
        file = self._link.file
        known = await self._known_files.known(file)
        newest = known.newest
        if known.held:
            held = await self._held()
            same = held is None or await self._is_same(held)
            if held is None or same is not False:
                return Unchanged(file=file) if same else Superseded(file=file)
            self._file, newest = self._as_of_now(held.newest), held.newest
            self._key = paths.key(self._file)
        seed = await self._seed(newest)
        async with self._archive.store.part(self._file) as part:
            try:
                outcome = await self._fetch(part, seed)
            finally:
                self._received = part.received
        if known.held and isinstance(outcome, Stored):
            self._standings.note_grown(file)
        return outcome

    async def _held(self) -> HeldFiles | None:
        """Return what is held of a file that may be another one now; None while the cloud serves an export: it is not.

        Beyond that time the cloud should have made another export. A time that is yet to come says nothing.
        """
        age = self._context.account.api.now() - self._link.file.updated_at
        if -timedelta(seconds=SLACK) <= age < self._context.settings.export.fresh_for:
            return None
        return await self._archive.ledger.held(self._key)

    async def _is_same(self, held: HeldFiles) -> bool | None:
        """Return whether the object is still what is on disk; None where a newer one takes its place.

        Raises:
            TransferError: That cannot be told.
            CloudError: A link could not be renewed.
        """
        link, latest, came_at = self._link, held.latest, held.since  # by the cloud's clock, as its own time
        # Under this name and time, see _as_of_now; not where the bytes were the same after all.
        has_grown = held.has_grown and latest.file.updated_at > link.file.updated_at
        made_at = latest.file.updated_at if has_grown else min(link.file.updated_at, came_at)
        self._standings.note_made(link.file, made_at)
        try:
            return await self._context.account.downloader.same(
                link, etag=latest.etag, size=latest.size, renew=self._export.renew
            )
        except (CloudError, TransferError) as exc:
            if not self._standings.is_of_long_ago(made_at):
                raise
            self._standings.note_unproven(link.file, str(exc))  # there is more to be said of it than that
            return True

    def _as_of_now(self, newest: Snapshot) -> LogFile:
        """Return the identity of a file whose bytes changed under its name and time: no name comes twice."""
        now = self._context.account.api.now()
        at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return replace(self._link.file, updated_at=max(at, newest.file.updated_at + INSTANT))

    async def _seed(self, newest: Snapshot | None) -> Seed | None:
        """Return what the file may begin with the end of."""
        settings = self._context.settings
        if newest is None or settings.download.delta == "off":
            return None
        seed = self._archive.store.seed(newest)
        if seed is None or settings.kept_snapshots != "none":
            return seed
        self._stream = await self._known_files.stream(self._file)
        return self._archive.streams.seed(newest, self._stream) or seed

    async def _fetch(self, part: Part, seed: Seed | None) -> Outcome:
        link, downloader, renew = self._link, self._context.account.downloader, self._export.renew
        fetched = await downloader.fetch(link, part, renew=renew, seed=seed)
        self._export.ended(link.file)  # before it is published, which may take a while
        if fetched is not None and fetched.unchanged and seed is not None:
            snapshot = self._snapshot(part, fetched)
            snapshot = replace(snapshot, size=seed.size, md5=seed.md5, sha256=seed.sha256)
            same = await self._known_files.same_beside(snapshot)
            if same is not None and (unchanged := await self._unchanged(same, snapshot, part)):
                return unchanged
            # It is not next to it any more, or is gone: then it takes a copy of its own.
            fetched = await downloader.fetch(link, part, renew=renew)
        async with self._one_by_one:
            if fetched is not None and part.in_place:
                extended = await self._extend(self._snapshot(part, fetched), part)
                if extended is not None:
                    return extended
                fetched = await downloader.fetch(link, part, renew=renew)
            return await self._keep(part, fetched)

    @unbroken  # the stream reads from the part
    async def _extend(self, snapshot: Snapshot, part: Part) -> Outcome | None:
        """Let the stream take what the part has behind it; None where the file needs a copy of its own."""
        extended = self._stream and await self._feed.extend(snapshot, part, self._stream)
        with suppress(StorageError) if extended else nullcontext():  # the sweep removes it then
            await part.remove()
        return Stored(snapshot=extended, fetched=part.received) if extended else None

    async def _keep(self, part: Part, fetched: Fetched | None) -> Outcome:
        """Publish what is whole, unless it is nothing new, and enter it in the ledger; one at a time of a series."""
        link = self._link
        if fetched is None:
            await part.remove()
            return Superseded(file=link.file, fetched=part.received)
        if part.size == 0 or fetched.unpacked == 0:  # a quiet node; an empty file is never published
            await part.remove()
            if link.stated is not None and not link.stated.fits(0):
                todo = "wait, the next cycle asks for it again; if it stays, open a ticket"
                raise Corrupt(f"the object is empty, and the cloud's list has {link.stated}: {todo}")
            return Unchanged(file=link.file, fetched=part.received)
        return await self._publish(self._snapshot(part, fetched), part)

    @unbroken  # else what is visible would be in no ledger until the next start, and come again with the next export
    async def _publish(self, snapshot: Snapshot, part: Part) -> Outcome:
        ledger = self._archive.ledger
        same = await self._known_files.same_beside(snapshot) if snapshot.md5 else None
        if same is None:
            same = await ledger.promise(snapshot)
        if same is not None:
            if unchanged := await self._unchanged(same, snapshot, part):
                return unchanged
            await ledger.promise(snapshot, even_if_same=True)
        first_at, last_at = await part.publish(latest=self._context.account.api.now() + AHEAD)
        snapshot = replace(snapshot, first_at=first_at, last_at=last_at)
        await ledger.enter(snapshot)
        return Stored(snapshot=snapshot, fetched=part.received)

    def _snapshot(self, part: Part, fetched: Fetched) -> Snapshot:
        return Snapshot(
            file=self._file,
            key=self._key,
            path=self._key,
            size=part.size,
            md5=part.digests.md5,
            sha256=part.digests.sha256,
            etag=part.identity.etag,
            verified=fetched.verified,
            began_at=self._began_at,
            stored_at=self._context.now(),
            attempts=fetched.attempts,
            request_ids=tuple(filter(None, (self._link.request_id, fetched.request_id))),
            delta=fetched.delta,
            fetched=part.received,
        )

    async def _unchanged(self, same: str, snapshot: Snapshot, part: Part) -> Unchanged | None:
        """Return the outcome where a file next to this one, at a path, has the same bytes; None where that is gone.

        It is entered with the cycle's end: should that not come, the next cycle asks for it again, which costs little.
        """
        if not await self._archive.store.has(same):
            return None
        await part.remove()
        return Unchanged(file=self._link.file, fetched=part.received, entry=replace(snapshot, path=same))
