"""One link becomes one whole part file, resumed and re-linked as needed.

while not whole:  a live link ─► a slot ─► GET (Range + If-Match) ─► batches ─► part
refused: renew once · cut, stalled, busy: back off, go on · another object: from zero
Where an older file of the node is held, its first bytes are asked for before anything: see delta.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from ddslogd.cloud import wire
from ddslogd.cloud.http import NETWORK_ERRORS, network_reason
from ddslogd.errors import Changed, Corrupt, Interrupted, LinkRefused, TransferError, Unpublishable
from ddslogd.transfer import answers
from ddslogd.transfer.delta import HEAD, Deltas
from ddslogd.transfer.effort import Effort
from ddslogd.transfer.intake import reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime

    import aiohttp

    from ddslogd.config import Download
    from ddslogd.models import Link, LogFile, Progress, Seed
    from ddslogd.pacing import Clock, Skew
    from ddslogd.storage.part import Part
    from ddslogd.transfer.delta import Delta
    from ddslogd.transfer.intake import Intake
    from ddslogd.transfer.slots import Slots

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A part that is whole.

    Attributes:
        verified: False where neither a length nor a checksum proves it.
        attempts: Requests that were made.
        request_id: The object store's, of the last one.
        delta: Whether it begins with bytes that were held, and only the rest was fetched.
        unchanged: Whether it is the held file to the last byte: then the part has an identity, and is empty.
    """

    verified: bool
    attempts: int
    request_id: str
    delta: bool = False
    unchanged: bool = False


class Downloader:
    """Fetches what links of one cloud point to."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        slots: Slots,
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
        self._deltas = Deltas(clock)

    async def fetch(
        self,
        link: Link,
        part: Part,
        *,
        renew: Callable[[Link], Awaitable[Link | None]],
        seed: Seed | None = None,
    ) -> Fetched | None:
        """Bring the whole file into the part; None where a newer file took its place meanwhile.

        Args:
            link: Where to begin; replaced as it ages.
            part: Where the bytes go, perhaps with some there already. The caller keeps, publishes or removes it.
            renew: Gives a younger link to the same file, or None.
            seed: What the file may begin with the end of; None to fetch it whole.

        Raises:
            TransferError: It did not come whole; the part holds what did.
            CloudError: A link could not be renewed.
            StorageError: The disk refused.
        """
        effort = Effort(tries=self._settings.attempts)
        delta = self._deltas.of(link.file.instance, None if part.size else seed)
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
                    await self._attempt(link, part, effort, delta)
                    return self._fetched(link, part, effort, delta)
                except TransferError as exc:
                    file = link.file
                    log.debug(
                        "transfer.broken",
                        instance=file.instance,
                        node=file.node,
                        file=file.file_name,
                        reason=str(exc),
                    )
                    wait_s = await _judge(exc, part, effort, delta)
            await self._clock.sleep(wait_s)

    def _fetched(self, link: Link, part: Part, effort: Effort, delta: Delta) -> Fetched:
        delta.proven = delta.proven or part.seeded > 0
        self._deltas.note(link.file.instance, delta)
        return Fetched(
            verified=_proven(part),
            attempts=effort.requests,
            request_id=effort.request_id,
            delta=delta.proven,
            unchanged=delta.unchanged,
        )

    def _now(self) -> datetime:
        return self._clock.now() + self._skew.offset

    async def _attempt(self, link: Link, part: Part, effort: Effort, delta: Delta) -> None:
        """Bring what is missing by one request, or two where the first bytes come first; return once all is there."""
        if not (delta.wanted and await self._begin(link, part, effort, delta)):
            await self._go_on(link, part, effort)
        if not delta.unchanged:
            await part.settle()
            _prove_whole(part)

    async def _begin(self, link: Link, part: Part, effort: Effort, delta: Delta) -> bool:
        """Ask for the first bytes, and begin the part with what is held behind them; tell whether no more is to come.

        The slot is held meanwhile: else every file that waits for one would have its copy on disk already.
        """
        async with self._asked(link, effort, {"Range": f"bytes=0-{HEAD - 1}"}) as response:
            answer = answers.begin(response.status, response.headers, asked=HEAD, now=self._now())
            if answer is None:
                delta.end()
                return False
            if isinstance(answer, answers.Placement):  # the whole object comes, asked for or not
                delta.end()
                await self._take(response, answer, part, link.file)
                return True
            if answer.identity.total is None or answer.identity.total > self._settings.max_size:
                raise Changed("the object store speaks of an object that is too large")
            head = await _first_bytes(response.content, answer.size, part)
        if answer.size == answer.identity.total:
            delta.end()
            await self._place(answers.Placement(at=0, identity=answer.identity), part, link.file)
            await part.append([head])
            part.received -= len(head)  # they are counted already
            self._progress.advanced(link.file, len(head))
            return True
        await delta.begin(answer, head, part)
        return delta.unchanged or part.size == answer.identity.total

    async def _go_on(self, link: Link, part: Part, effort: Effort) -> None:
        """Make one request for what is missing, and append what it gives."""
        at = part.size if part.resumable else 0
        headers = {"Range": f"bytes={at}-", "If-Match": part.identity.etag} if at else {}
        async with self._asked(link, effort, headers) as response:
            answer = answers.place(response.status, response.headers, at=at, known=part.identity, now=self._now())
            await self._take(response, answer, part, link.file)

    @asynccontextmanager
    async def _asked(
        self, link: Link, effort: Effort, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        effort.requests += 1
        try:
            async with self._session.get(
                URL(link.url, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                self._skew.observe(response.headers.get("Date", ""), self._clock.now())
                effort.request_id = wire.request_id_of(response.headers)
                yield response
        except NETWORK_ERRORS as exc:
            raise Interrupted(f"the object store broke off: {network_reason(exc)}") from None

    async def _take(
        self, response: aiohttp.ClientResponse, answer: answers.Placement, part: Part, file: LogFile
    ) -> None:
        async with reading(response.content, size=response.content_length, batch=self._slots.batch) as intake:
            await self._place(answer, part, file)
            if answer.has_body:
                await self._write(intake, part, file=file)

    async def _place(self, answer: answers.Placement, part: Part, file: LogFile) -> None:
        total = answer.identity.total
        if total is not None:
            self._limit(total)
        if answer.at == 0:
            await part.begin(answer.identity)
        part.identity = answer.identity
        self._progress.began(file, total, answer.at, resumed=answer.at > part.seeded)

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


async def _first_bytes(content: aiohttp.StreamReader, size: int, part: Part) -> bytes:
    """Give the body of so many bytes, counted as received; one byte more is enough to know that it is another."""
    head = bytearray()
    try:
        while len(head) <= size and (chunk := await content.read(size + 1 - len(head))):
            head += chunk
            part.received += len(chunk)
    except NETWORK_ERRORS:  # every byte may have arrived all the same, see _write
        if len(head) != size:
            raise
    if len(head) < size:
        raise Interrupted(f"the connection ended at byte {len(head)} of {size}")
    if len(head) > size:
        raise Changed("the object store answers a range with more bytes than were asked for")
    return bytes(head)


async def _judge(exc: TransferError, part: Part, effort: Effort, delta: Delta) -> float:
    """Give the seconds to wait before the next request, or raise where there is to be none.

    No failure of a delta is one of the file: then it is fetched whole, at once.
    """
    seeded = part.seeded
    if isinstance(exc, Changed | Corrupt):
        await part.remove()
    if delta.wanted:
        return _judge_head(exc, effort, delta)
    if isinstance(exc, Unpublishable):
        raise exc
    if seeded and not part.seeded:
        delta.end(str(exc))
        return 0.0
    return effort.judge(exc, size=part.size - part.seeded)


def _judge_head(exc: TransferError, effort: Effort, delta: Delta) -> float:
    if not isinstance(exc, Interrupted | LinkRefused):
        delta.end(str(exc))
        return 0.0
    try:
        wait_s = effort.judge(exc, size=0)
    except TransferError:
        delta.end(str(exc))
        return 0.0
    delta.failed(str(exc))
    return wait_s


def _prove_whole(part: Part) -> None:
    identity = part.identity
    if part.seeded and not (identity.md5 and part.digests.md5):
        raise Corrupt("what was held is part of it by no checksum")
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
