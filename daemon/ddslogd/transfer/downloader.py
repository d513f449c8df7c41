"""One link becomes one whole part file, resumed and re-linked as needed.

while not whole:  a live link ─► a slot ─► GET (Range + If-Match) ─► batches ─► part
refused: renew once · cut, stalled, busy: back off, go on · another object: from zero
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from ddslogd.cloud import wire
from ddslogd.cloud.http import NETWORK_ERRORS, network_reason
from ddslogd.errors import Changed, Corrupt, Interrupted, LinkRefused, Unpublishable
from ddslogd.transfer import answers
from ddslogd.transfer.effort import Effort
from ddslogd.transfer.intake import batch_size, reading

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import aiohttp

    from ddslogd.config import Download
    from ddslogd.models import Link, LogFile, Progress
    from ddslogd.pacing import Clock, Skew
    from ddslogd.storage.part import Part
    from ddslogd.transfer.intake import Intake

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A part that is whole.

    Attributes:
        verified: False where neither a length nor a checksum proves it.
        attempts: Requests that were made.
        request_id: The object store's, of the last one.
    """

    verified: bool
    attempts: int
    request_id: str


class Downloader:
    """Fetches what links of one cloud point to."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        slots: asyncio.Semaphore,
        settings: Download,
        clock: Clock,
        skew: Skew,
        progress: Progress,
    ) -> None:
        """Prepare.

        Args:
            session: Carries no header of ours but a User-Agent, and decompresses nothing.
            slots: Shared by all downloads; one is held while bytes flow, never while waiting.
            settings: Time-outs, tries, sizes.
            clock: For back-off.
            skew: How far the cloud's clock is from ours; links expire by that one.
            progress: Hears how it goes.
        """
        self._session = session
        self._slots = slots
        self._settings = settings
        self._clock = clock
        self._skew = skew
        self._progress = progress
        self._batch = batch_size(settings.concurrent)

    async def fetch(self, link: Link, part: Part, *, renew: Callable[[Link], Awaitable[Link | None]]) -> Fetched | None:
        """Bring the whole file into the part; None where a newer file took its place meanwhile.

        Args:
            link: Where to begin; replaced as it ages.
            part: Where the bytes go, perhaps with some there already. The caller keeps, publishes or removes it.
            renew: Gives a younger link to the same file, or None.

        Raises:
            TransferError: It did not come whole; the part holds what did.
            CloudError: A link could not be renewed.
            StorageError: The disk refused.
        """
        effort = Effort(tries=self._settings.attempts)
        while True:
            if effort.refused or link.expires_within(self._settings.renew_before, now=self._now()):
                younger = await renew(link)
                if younger is None:
                    return None
                link = younger
            wait_s = 0.0
            async with self._slots:
                if link.expires_within(timedelta(0), now=self._now()):
                    effort.starved()  # it died while it waited for the slot
                    continue
                try:
                    await self._attempt(link, part, effort)
                    return Fetched(verified=_proven(part), attempts=effort.requests, request_id=effort.request_id)
                except (Interrupted, LinkRefused, Changed, Corrupt) as exc:
                    if isinstance(exc, Changed | Corrupt):
                        await part.remove()
                    wait_s = effort.judge(exc, size=part.size)
                    log.debug("transfer.broken", file=link.file.file_name, node=link.file.node, reason=str(exc))
            await self._clock.sleep(wait_s)

    def _now(self) -> datetime:
        return self._clock.now() + self._skew.offset

    async def _attempt(self, link: Link, part: Part, effort: Effort) -> None:
        """Make one request and append what it gives; return once the part is whole."""
        effort.requests += 1
        at = part.size if part.resumable else 0
        headers = {"Range": f"bytes={at}-", "If-Match": part.identity.etag} if at else {}
        try:
            async with (
                self._session.get(URL(link.url, encoded=True), headers=headers, allow_redirects=False) as response,
                reading(response.content, size=response.content_length, batch=self._batch) as intake,
            ):
                self._skew.observe(response.headers.get("Date", ""), self._clock.now())
                effort.request_id = wire.request_id_of(response.headers)
                answer = answers.place(response.status, response.headers, at=at, known=part.identity, now=self._now())
                await self._place(answer, part, link.file)
                if answer.has_body:
                    await self._write(intake, part, file=link.file)
        except NETWORK_ERRORS as exc:
            raise Interrupted(f"the object store broke off: {network_reason(exc)}") from None
        _prove_whole(part)

    async def _place(self, answer: answers.Placement, part: Part, file: LogFile) -> None:
        total = answer.identity.total
        if total is not None:
            self._limit(total)
        if answer.at == 0:
            await part.begin(answer.identity)
        part.identity = answer.identity
        self._progress.began(file, total, answer.at)

    async def _write(self, intake: Intake, part: Part, *, file: LogFile) -> None:
        while chunks := await intake.batch():
            size = sum(map(len, chunks))
            self._limit(part.size + size)
            await part.append(chunks)
            self._progress.advanced(file, size)
        # aiohttp can raise although every byte has arrived (aio-libs/aiohttp #13348): what is on disk decides.
        if intake.error is not None and part.size != part.identity.total:
            raise Interrupted(f"the transfer broke off at byte {part.size}: {network_reason(intake.error)}")

    def _limit(self, size: int) -> None:
        if size > self._settings.max_size:
            raise Unpublishable(
                f"the file is larger than download.max_size ({size} bytes or more): raise it to have it"
            )


def _prove_whole(part: Part) -> None:
    identity = part.identity
    if identity.total is not None and part.size < identity.total:
        raise Interrupted(f"the connection ended at byte {part.size} of {identity.total}")
    if part.size == 0 and not _proven(part):
        raise Interrupted("nothing came, and neither a length nor a checksum says that nothing is all")
    if identity.total is not None and part.size > identity.total:
        raise Corrupt(f"{part.size} bytes came where {identity.total} were announced")
    md5 = part.digests.md5
    if identity.md5 and md5 and identity.md5 != md5:
        raise Corrupt(f"the bytes' MD5 is {md5}, the object store says {identity.md5}")


def _proven(part: Part) -> bool:
    return part.identity.total is not None or bool(part.identity.md5 and part.digests.md5)
