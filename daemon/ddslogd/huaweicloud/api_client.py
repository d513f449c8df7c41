"""The calls to one account's API: authenticated, in their turn, retried where a retry can help."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import stamina
import structlog

from ddslogd.huaweicloud import error_codes, json_reader, response_limits
from ddslogd.huaweicloud.auth import request_signing
from ddslogd.huaweicloud.auth.credentials import Request, Trial
from ddslogd.huaweicloud.call_stats import CallStats
from ddslogd.huaweicloud.rate_limiter import IN_PROGRESS
from ddslogd.model.errors import CloudError, CredentialsRefused, ForeignAnswer, Oversized, Throttled, Unavailable
from ddslogd.scheduling.backoff import full_jitter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.huaweicloud.auth.credentials import Credentials, Proof
    from ddslogd.huaweicloud.http import Http, Reply
    from ddslogd.huaweicloud.rate_limiter import Budget
    from ddslogd.huaweicloud.services.base import LogService, Reader
    from ddslogd.model.export import ExportReply, Selection
    from ddslogd.model.instance import Instance, ListedInstance, ListPage, LogKind

log = structlog.get_logger()

# The library would tell of each retry in words of its own; call.retried is ours.
stamina.instrumentation.set_on_retry_hooks([])

TRIES = 6
DEADLINE_S = 180.0  # for all retries of a call; the next cycle asks again anyway
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0  # what a server asks for beyond that is not believed
READ_BESIDE = 64 * 1024  # bytes of a reply that take a few milliseconds to read; a larger one is read in a thread
THROTTLED_WAIT_S = 10.0  # the gateway counts by the minute and sends no Retry-After. APIGW.0308


_NAMES = {"POST": "export", "GET": "list"}
"""What counts call the calls, by their method."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read(Generic[T]):
    """What a reply holds; or why it holds nothing, which no repeat of the call would change."""

    value: T | None = None
    error: CloudError | None = None


class Api:
    """One account in one region.

    Attributes:
        budget: Of its calls.
        call_stats: What has happened on it.
        held: Bytes of replies that cycles keep.
        retries: By what a call is about: why it is tried again, while it is.
    """

    def __init__(
        self,
        service: LogService,
        *,
        endpoint: str,
        http: Http,
        credentials: Credentials,
        budget: Budget,
        call_stats: CallStats | None = None,
    ) -> None:
        self.budget = budget
        self.call_stats = call_stats or CallStats()
        self.held = 0
        self.retries: dict[str, str] = {}
        self._service = service
        self._endpoint = endpoint
        self._http = http
        self._credentials = credentials
        self._trial = Trial()
        self._reading = asyncio.Lock()

    def now(self) -> datetime:
        """Return the time by the cloud's clock: expiry is judged by it."""
        return self._http.now()

    async def export(self, instance: Instance, kind: LogKind, selection: Selection, *, urgency: float) -> ExportReply:
        """Start the instance's export, or ask how it goes; either way its ready rows get links signed now.

        Args:
            instance: Whose logs.
            kind: Which of its logs.
            selection: Which files; the one call starts, polls and renews by it.
            urgency: Of the call's turn, see ``Budget.call``.

        Raises:
            UnknownFile: The selection has a file name that the cloud does not know.
            CloudError: One of its kinds, once retries are used up or where they cannot help.
        """

        def path(project_id: str) -> str:
            return self._service.export_path(project_id, instance.id, kind)

        body = self._service.export_body(selection)
        about = f"{kind} log of {instance.name}"
        return await self._retried("POST", path, body, urgency=urgency, about=about, read=self._service.read_export)

    async def instances(self) -> tuple[ListedInstance, ...]:
        """List all instances of the project, each once.

        An instance that is created meanwhile moves the others on, so that one may come twice; and the total that the
        cloud names is a hint only.

        Raises:
            CloudError: As ``export``.
        """
        listed: dict[str, ListedInstance] = {}
        offset = size = nodes = 0
        while True:
            page = await self._page(offset)
            before = len(listed)
            listed |= {instance.id: instance for instance in page.instances}
            offset += len(page.instances)
            size += page.size
            nodes += sum(len(instance.nodes) for instance in page.instances)
            _judge_list(len(listed), size=size, nodes=nodes)
            complete = len(page.instances) < self._service.page_size and len(listed) >= page.total
            if complete or len(listed) == before:
                return tuple(listed.values())

    async def listed(self, instance_id: str) -> ListedInstance | None:
        """Return one instance as the list has it; None where it does not have it.

        Raises:
            CloudError: As ``export``.
        """
        page = await self._listing(lambda project_id: self._service.listed_instance_path(project_id, instance_id))
        return next((instance for instance in page.instances if instance.id == instance_id), None)

    async def _page(self, offset: int) -> ListPage:
        return await self._listing(lambda project_id: self._service.instances_path(project_id, offset))

    async def _listing(self, path: Callable[[str], str]) -> ListPage:
        about = "list of instances"
        return await self._retried(
            "GET", path, b"", urgency=IN_PROGRESS, about=about, read=self._service.read_instances
        )

    async def _retried(  # a call, and how it is made
        self,
        method: str,
        path: Callable[[str], str],
        body: bytes,
        *,
        urgency: float,
        about: str,
        read: Reader[T],
    ) -> T:
        reply = None
        try:
            async for attempt in stamina.retry_context(on=_Patience(about, self.retries), attempts=TRIES, timeout=None):
                with attempt:
                    reply = await self._authenticated(method, path, body, urgency=urgency, read=read)
        except CloudError as exc:
            self.call_stats.ended(exc)
            raise
        finally:
            self.retries.pop(about, None)
        if reply is None:
            raise AssertionError  # stamina raises the last error itself
        self.call_stats.ended(None)
        if reply.error is not None:
            raise reply.error
        return reply.value  # type: ignore[return-value]  # what was read, None included

    @property
    def todo(self) -> str:
        """Return what lets the next call be accepted, where the credentials are refused."""
        return self._credentials.todo

    async def _authenticated(
        self, method: str, path: Callable[[str], str], body: bytes, *, urgency: float, read: Reader[T]
    ) -> _Read[T]:
        """Make the call; where other credentials may help, once more with them."""
        url = request_signing.wire_url(self._endpoint + path(await self._credentials.project_id()))
        request = Request(method=method, url=url, headers=json_reader.JSON_HEADERS, body=body)
        first = await self._credentials.authenticate(request)
        async with self._trial.of(first.secret):
            proof, answer = await self._once(request, urgency=urgency, read=read)
            if isinstance(answer, CloudError) and await self._renewed(proof, answer):
                proof, answer = await self._once(request, urgency=urgency, read=read)
            if isinstance(answer, CredentialsRefused):
                await self._credentials.give_up(proof)
        if isinstance(answer, CloudError):
            raise answer
        return answer

    async def _renewed(self, proof: Proof, error: CloudError) -> bool:
        return await self._credentials.renew(proof, sure=isinstance(error, CredentialsRefused))

    async def _once(self, request: Request, *, urgency: float, read: Reader[T]) -> tuple[Proof, _Read[T] | CloudError]:
        """Make the call in its turn; give what came of it where that is a reply, or where a new proof may help."""
        proof = None
        try:
            async with self.budget.call(urgency):
                proof = await self._credentials.authenticate(request)  # no sooner: a signature ages
                reply = await self._sent(request, proof, read)
        except CloudError as exc:
            if isinstance(exc, CredentialsRefused):
                self._trial.refused()
            if proof is None or not error_codes.may_be_old_token(exc):
                raise
            return proof, exc
        self._trial.accepted(proof.secret)
        return proof, reply

    async def _sent(self, request: Request, proof: Proof, read: Reader[T]) -> _Read[T]:
        try:
            answer = await self._send(request, proof, read)
        except CloudError as exc:
            self.call_stats.answered(_NAMES[request.method], exc)
            raise
        self.call_stats.answered(_NAMES[request.method], None)
        return answer

    async def _send(self, request: Request, proof: Proof, read: Reader[T]) -> _Read[T]:
        headers = {**request.headers, **proof.headers}
        async with self._http.exchange(request.method, request.url, headers=headers, body=request.body) as reply:
            # 200 also while the export is created (dds_api_0096), and with an error in the body.
            error = error_codes.refusal(reply.status, reply.headers, reply.body, now=self._http.now())
            if error is None:
                return await self._read(reply, read)
        if isinstance(error, Throttled):
            asked = THROTTLED_WAIT_S if error.retry_after_s is None else error.retry_after_s
            self.call_stats.throttled += 1
            self.budget.pause(min(asked, LONGEST_RETRY_AFTER_S))
        log.debug(
            "api.refused", method=request.method, status=reply.status, code=error.code, request_id=error.request_id
        )
        raise error

    async def _read(self, reply: Reply, read: Reader[T]) -> _Read[T]:
        """Read a reply; a large one next to the loop, and one at a time: its objects take more room than its bytes."""
        try:
            if len(reply.body) <= READ_BESIDE:
                return _Read(value=read(reply.body, request_id=reply.request_id))
            async with self._reading:
                return _Read(value=await asyncio.to_thread(read, reply.body, request_id=reply.request_id))
        except CloudError as exc:
            return _Read(error=exc)


def _judge_list(instances: int, *, size: int, nodes: int) -> None:
    """Raise where a list has become longer than any can be."""
    for number, most, what in (
        (instances, response_limits.MOST_INSTANCES, "instances"),
        (nodes, response_limits.MOST_LISTED_NODES, "nodes"),
        (size, response_limits.MOST_LIST_BYTES, "bytes"),
    ):
        if number > most:
            raise error_codes.excess(f"more than {most} {what}, with the pages before it")


class _Patience:
    """Says of each failure of one call whether, and after how many seconds, it is worth another try."""

    def __init__(self, about: str, retries: dict[str, str]) -> None:
        self._about = about
        self._retries = retries
        self._waits = full_jitter(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._failures = 0
        # Counts from the first failure: the wait for a turn may be long, and is none.
        self._give_up_at = math.inf

    def __call__(self, exc: Exception) -> bool | float:
        now = asyncio.get_running_loop().time()
        self._failures += 1
        self._give_up_at = min(self._give_up_at, now + DEADLINE_S)
        if not isinstance(exc, Unavailable) or self._failures >= TRIES or now >= self._give_up_at:
            return False
        # It will say the same; and should it be the cloud, keys and users may lock.
        if isinstance(exc, ForeignAnswer | Oversized):
            return False
        wait_s = self._wait_s(exc)
        self._retries[self._about] = str(exc)
        log.info("call.retried", about=self._about, reason=str(exc), wait_s=round(wait_s, 1))
        return wait_s

    def _wait_s(self, exc: Unavailable) -> float:
        if isinstance(exc, Throttled):
            return FIRST_WAIT_S  # the whole account pauses; the turn is what has to be waited for
        if exc.retry_after_s is None:
            return next(self._waits)
        return min(exc.retry_after_s, LONGEST_RETRY_AFTER_S)
