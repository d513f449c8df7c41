"""One link becomes one whole part file, resumed and re-linked as needed.

while not whole:  a live link ─► a slot ─► GET (Range + If-Match) ─► batches ─► part
refused: renew once · cut, stalled, busy: back off, go on · another object: from zero
Where an older file of the node is held, its first bytes are asked for before anything: see delta.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from ddslogd.download import response as download_response
from ddslogd.download.delta import HEAD, Deltas
from ddslogd.download.read_ahead import reading
from ddslogd.download.retry_policy import Effort
from ddslogd.download.throughput import Throughput
from ddslogd.huaweicloud import error_codes
from ddslogd.huaweicloud.http import NETWORK_ERRORS, network_reason
from ddslogd.huaweicloud.link_resolver import LocalAddress
from ddslogd.model.errors import Changed, Corrupt, Interrupted, LinkRefused, TransferError, Unpublishable
from ddslogd.model.snapshot import Identity
from ddslogd.scheduling.clock import Skew

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    import aiohttp

    from ddslogd.config.settings import Download
    from ddslogd.download.delta import Delta
    from ddslogd.download.read_ahead import Intake
    from ddslogd.download.slots import Slots
    from ddslogd.model.cycle import Progress
    from ddslogd.model.export import Link
    from ddslogd.model.snapshot import LogFile, Seed
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.gzip_file import Unpacked
    from ddslogd.storage.snapshots.partial_file import Part

log = structlog.get_logger()

ERROR_PATIENCE_S = 5.0  # for the body of an error, which says more than its status
MOST_STORES = 64  # hosts whose clocks are remembered: a cloud has one, or one a bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A part that is whole.

    Attributes:
        verified: False where neither a length nor a checksum proves it.
        attempts: Requests that were made.
        request_id: The object store's, of the last one.
        delta: Whether it begins with bytes that were held, and only the rest was fetched.
        unchanged: Whether it is the held file to the last byte: then the part has an identity, and is empty.
        unpacked: Bytes that a compressed file has once it is unpacked; None where it is not compressed.
    """

    verified: bool
    attempts: int
    request_id: str
    delta: bool = False
    unchanged: bool = False
    unpacked: int | None = None


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
            skew: How far the API's clock is from ours; a link's signature ends by the object store's own, once known.
            progress: Hears how it goes.
        """
        self._session = session
        self._slots = slots
        self._settings = settings
        self._clock = clock
        self._skew = skew
        self._stores: dict[str, Skew] = {}  # by host and port
        self._progress = progress
        self._deltas = Deltas(clock)
        self._answer_s = (settings.connect_timeout + settings.stall_timeout).total_seconds()

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
            usable = await self._usable(link, effort, renew)
            if usable is None:
                return None
            link = usable
            wait_s = 0.0
            async with self._slots:
                if self._expires(link, timedelta(0)):
                    effort.starved()  # it died while it waited for the slot
                    continue
                try:
                    unpacked = await self._attempt(link, part, effort, delta)
                    return self._fetched(link, part, effort, delta, unpacked=unpacked)
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

    async def same(
        self, link: Link, *, etag: str, size: int, renew: Callable[[Link], Awaitable[Link | None]]
    ) -> bool | None:
        """Return whether the object is still what is on disk; None where a newer file takes its place. Fetches a byte.

        Args:
            link: Where to begin; replaced as it ages.
            etag: Of what is on disk; empty where it is not known.
            size: The same, in bytes.
            renew: As of ``fetch``.

        Raises:
            TransferError: The object store does not say.
            CloudError: A link could not be renewed.
        """
        effort = Effort(tries=self._settings.attempts)
        headers = {"Range": "bytes=0-0"} | ({"If-Match": etag} if etag else {})
        while True:
            usable = await self._usable(link, effort, renew)
            if usable is None:
                return None
            link = usable
            async with self._slots:
                if self._expires(link, timedelta(0)):
                    effort.starved()  # it died while it waited for the slot
                    continue
                try:
                    async with self._asked(link, effort, headers) as response:
                        now, code = self._now(link), await _code(response)
                        return download_response.same(
                            response.status, response.headers, etag=etag, size=size, now=now, code=code
                        )
                except TransferError as exc:
                    wait_s = effort.judge(exc, size=0)
            await self._clock.sleep(wait_s)

    def _fetched(self, link: Link, part: Part, effort: Effort, delta: Delta, *, unpacked: Unpacked | None) -> Fetched:
        delta.proven = delta.proven or part.seeded > 0
        self._deltas.note(link.file.instance, delta)
        return Fetched(
            verified=_proven(part),
            attempts=effort.requests,
            request_id=effort.request_id,
            delta=delta.proven,
            unchanged=delta.unchanged,
            unpacked=unpacked.size if unpacked is not None else None,
        )

    def _expires(self, link: Link, margin: timedelta) -> bool:
        """Return whether a link's life ends within the margin: each end by the clock of the server that sets it."""
        store = self._store_of(link)
        return link.expires_within(
            margin, now=self._skew.now(self._clock), store_now=store.now(self._clock) if store.known else None
        )

    async def _usable(self, link: Link, effort: Effort, renew: Callable[[Link], Awaitable[Link | None]]) -> Link | None:
        """Return the link, or a younger one where it is refused or nearly dead; None where a newer file is there."""
        if not effort.refused and not self._expires(link, self._settings.renew_before):
            return link
        younger = await renew(link)
        if younger is not None:
            self._doubt_store(younger)
        return younger

    def _doubt_store(self, link: Link) -> None:
        """Forget the store's clock where a link is dead by it that was just made: it was set, or ours was.

        Else no link would ever be used, and so no reply would say what its time is now.
        """
        if self._expires(link, timedelta(0)):
            del self._stores[self._server_of(link)]

    def _server_of(self, link: Link) -> str:
        return link.url.split("/", 3)[2]  # it was judged to be a URL; to parse it takes twenty times as long

    def _store_of(self, link: Link) -> Skew:
        server = self._server_of(link)
        store = self._stores.pop(server, None) or Skew(until_known=self._skew)
        self._stores[server] = store  # the last one used is the last to be forgotten
        if len(self._stores) > MOST_STORES:
            del self._stores[next(iter(self._stores))]
        return store

    def _now(self, link: Link) -> datetime:
        """Return the time by the clock of a link's server."""
        return self._store_of(link).now(self._clock)

    async def _attempt(self, link: Link, part: Part, effort: Effort, delta: Delta) -> Unpacked | None:
        """Bring what is missing by one request, or two where the first bytes come first; return once all is there.

        Returns:
            What it holds where it is compressed.
        """
        if not (delta.wanted and await self._begin(link, part, effort, delta)):
            await self._go_on(link, part, effort)
        if delta.unchanged:
            return None
        await part.settle()
        unpacked = await self._unpacked(part, effort)
        if not _proven(part) and not effort.framed:
            await self._confirm(link, part, effort, unpacked)
        return unpacked

    async def _unpacked(self, part: Part, effort: Effort) -> Unpacked | None:
        """Prove the part whole as far as that can be done, and unpack it where it is compressed."""
        flaw, unpacked = None, None
        try:
            unpacked = await part.unpack(most=self._settings.max_size)
        except TransferError as exc:
            flaw = exc
        _prove_whole(part, framed=effort.framed, unpacked_md5=unpacked.md5 if unpacked is not None else "")
        if flaw is not None:
            await part.remove()  # it came as it is: nothing can be gone on with
            raise flaw
        return unpacked

    async def _confirm(self, link: Link, part: Part, effort: Effort, unpacked: Unpacked | None) -> None:
        """Fetch what nothing proves a second time: only a connection that ended said that it was all.

        Raises:
            Interrupted: It is shorter than the cloud's list has it, or the second request broke off.
            Corrupt: The two differ.
        """
        sizes = [part.size] if unpacked is None else [part.size, unpacked.size]
        if link.stated is not None and not any(map(link.stated.fits, sizes)):
            raise Interrupted(
                f"the connection ended at byte {part.size}, which nothing says is the end, and the cloud's list has "
                f"{link.stated}"
            )
        at, same = 0, True
        async with self._asked(link, effort, {}) as response:
            download_response.place(
                response.status,
                response.headers,
                at=0,
                known=Identity(),
                now=self._now(link),
                code=await _code(response),
            )
            async with self._reading(response) as intake:
                while same and (chunks := await intake.batch()):
                    size = sum(map(len, chunks))
                    part.received += size
                    same = await part.holds(at, chunks)
                    at += size
            if intake.error is not None:
                raise _broken_off("the second transfer", at, intake.error)
        if not same or at != part.size:
            raise Corrupt("neither a length nor a checksum proves the file, and fetched a second time it was another")

    async def _begin(self, link: Link, part: Part, effort: Effort, delta: Delta) -> bool:
        """Ask for the first bytes, and begin the part with what is held behind them; tell whether no more is to come.

        The slot is held meanwhile: else every file that waits for one would have its copy on disk already.
        """
        async with self._asked(link, effort, {"Range": f"bytes=0-{HEAD - 1}"}) as response:
            answer = download_response.begin(
                response.status, response.headers, asked=HEAD, now=self._now(link), code=await _code(response)
            )
            if answer is None:
                delta.end()
                return False
            if isinstance(answer, download_response.Placement):  # the whole object comes, asked for or not
                effort.framed = download_response.framed(response.headers)
                delta.end()
                await self._take(response, answer, part, link.file)
                return True
            if answer.identity.total is None or answer.identity.total > self._settings.max_size:
                raise Changed("the object store speaks of an object that is too large")
            head = await _first_bytes(
                response.content,
                answer.size,
                part,
                framed=download_response.framed(response.headers),
                throughput=self._throughput(),
            )
        if answer.size == answer.identity.total:
            delta.end()
            placement = download_response.Placement(at=0, identity=answer.identity)
            self._begun(placement, part, link.file)
            await self._place(placement, part)
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
            effort.framed = download_response.framed(response.headers)
            answer = download_response.place(
                response.status,
                response.headers,
                at=at,
                known=part.identity,
                now=self._now(link),
                code=await _code(response),
            )
            await self._take(response, answer, part, link.file)

    @asynccontextmanager
    async def _asked(
        self, link: Link, effort: Effort, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        effort.requests += 1
        try:
            async with (
                asyncio.timeout(self._answer_s) as limit,  # a header that dribbles would hold the slot for hours
                self._session.get(URL(link.url, encoded=True), headers=headers, allow_redirects=False) as response,
            ):
                limit.reschedule(None)  # the body may take its time
                self._observe(link, response.headers)
                effort.request_id = error_codes.request_id_of(response.headers)
                yield response
        except NETWORK_ERRORS as exc:
            if isinstance(getattr(exc, "os_error", None), LocalAddress):
                raise LinkRefused(_leads_home(link)) from None
            raise Interrupted(f"the object store broke off: {network_reason(exc)}") from None

    def _observe(self, link: Link, headers: Mapping[str, str]) -> None:
        date, age = headers.get("Date", ""), headers.get("Age")
        self._store_of(link).observe(date, self._clock.now(), age=age, steady_s=self._clock.monotonic())

    async def _take(
        self, response: aiohttp.ClientResponse, answer: download_response.Placement, part: Part, file: LogFile
    ) -> None:
        self._begun(answer, part, file)
        async with self._reading(response, watch=partial(self._progress.advanced, file)) as intake:
            await self._place(answer, part)
            if answer.has_body:
                await self._write(intake, part)

    def _reading(
        self, response: aiohttp.ClientResponse, *, watch: Callable[[int], None] | None = None
    ) -> AbstractAsyncContextManager[Intake]:
        return reading(
            response.content,
            size=response.content_length,
            batch=self._slots.batch,
            throughput=self._throughput(),
            watch=watch,
        )

    def _throughput(self) -> Throughput:
        return Throughput(least=self._settings.min_rate, slots=self._slots, clock=self._clock)

    def _begun(self, answer: download_response.Placement, part: Part, file: LogFile) -> None:
        """Show where the transfer begins, before the first byte of the body is read."""
        total = answer.identity.total
        if total is not None:
            self._limit(total)
        self._progress.began(file, total, answer.at, resumed=answer.at > part.seeded)

    async def _place(self, answer: download_response.Placement, part: Part) -> None:
        if answer.at == 0:
            await part.begin(answer.identity)
        part.identity = answer.identity

    async def _write(self, intake: Intake, part: Part) -> None:
        while chunks := await intake.batch():
            size = sum(map(len, chunks))
            self._limit(part.size + size)
            await part.append(chunks)
        # aiohttp can raise although every byte has arrived (aio-libs/aiohttp #13348): what is on disk decides.
        if intake.error is not None and part.size != part.identity.total:
            raise _broken_off("the transfer", part.size, intake.error)

    def _limit(self, size: int) -> None:
        if size > self._settings.max_size:
            raise Unpublishable(
                f"the file is larger than download.max_size ({size} bytes or more): raise it to have it"
            )


def _leads_home(link: Link) -> str:
    host = URL(link.url, encoded=True).host
    return (
        f"the name {host} resolves to this host or its network segment, where no object store is: not followed; see "
        "this host's resolver, and link_hosts"
    )


def _broken_off(what: str, at: int, error: BaseException) -> TransferError:
    if isinstance(error, TransferError):
        return error
    return Interrupted(f"{what} broke off at byte {at}: {network_reason(error)}")


async def _code(response: aiohttp.ClientResponse) -> str:
    """Return the code of an error, as far as its body comes soon; empty where it is none or has none."""
    if response.status < 400:  # noqa: PLR2004  # RFC 9110, 15.5
        return ""
    body = bytearray()
    with suppress(*NETWORK_ERRORS):
        async with asyncio.timeout(ERROR_PATIENCE_S):
            while len(body) < download_response.MAX_ERROR and (
                chunk := await response.content.read(download_response.MAX_ERROR)
            ):
                body += chunk
    return download_response.code_of(bytes(body))


async def _first_bytes(
    content: aiohttp.StreamReader, size: int, part: Part, *, framed: bool, throughput: Throughput
) -> bytes:
    """Return the body of so many bytes, counted as received; one byte more is enough to know that it is another."""
    head = bytearray()
    try:
        while len(head) <= size and (chunk := await content.read(size + 1 - len(head))):
            head += chunk
            part.received += len(chunk)
            throughput.took(len(chunk))
    except NETWORK_ERRORS:  # every byte may have arrived all the same, see _write
        if len(head) != size:
            raise
    if len(head) < size and framed:
        raise Changed("the object store answers a range with fewer bytes than it says")
    if len(head) < size:
        raise Interrupted(f"the connection ended at byte {len(head)} of {size}")
    if len(head) > size:
        raise Changed("the object store answers a range with more bytes than were asked for")
    return bytes(head)


async def _judge(exc: TransferError, part: Part, effort: Effort, delta: Delta) -> float:
    """Return the seconds to wait before the next request, or raise where there is to be none.

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
    """Return the seconds to wait after a request for the first bytes that brought none.

    A store that is out of order or asks for less is asked for as little again, as often as ``attempts`` allows: the
    whole file would be more of what it cannot give now.
    """
    if isinstance(exc, Interrupted):
        if effort.is_last and not exc.busy:  # it may be ranges alone that it fails at
            delta.end()
        return effort.judge(exc, size=0)
    if not isinstance(exc, LinkRefused):
        delta.end(str(exc))
        return 0.0
    try:
        return effort.judge(exc, size=0)
    except LinkRefused:  # it may be the range that is refused; a link that is bad is so without one, too
        delta.end()
        return 0.0


def _prove_whole(part: Part, *, framed: bool = False, unpacked_md5: str = "") -> None:
    """Raise where the part is not what was announced.

    Args:
        part: With nothing more to come.
        framed: As of ``Effort``.
        unpacked_md5: Of what it holds where it is compressed: what a proxy packed has that checksum.
    """
    identity = part.identity
    if part.seeded and not (identity.md5 and part.digests.md5):
        raise Corrupt("what was held is part of it by no checksum")
    if identity.total is not None and part.size < identity.total:
        raise Interrupted(f"the connection ended at byte {part.size} of {identity.total}")
    if part.size == 0 and not _proven(part) and not framed:
        raise Interrupted("nothing came, and neither a length nor a checksum says that nothing is all")
    if identity.total is not None and part.size > identity.total:
        raise Corrupt(f"{part.size} bytes came where {identity.total} were announced")
    md5 = part.digests.md5
    if identity.md5 and md5 and identity.md5 not in {md5, unpacked_md5}:
        raise Corrupt(f"the bytes' MD5 is {md5}, the object store says {identity.md5}")


def _proven(part: Part) -> bool:
    return part.identity.total is not None or bool(part.identity.md5 and part.digests.md5)
