"""The calls to one account's API: authenticated, in their turn, retried where a retry can help."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import stamina
import structlog

from ddslogd.cloud import signing, wire
from ddslogd.cloud.budget import IN_PROGRESS
from ddslogd.cloud.credentials import Request, Trial
from ddslogd.cloud.tally import Tally
from ddslogd.errors import CloudError, CredentialsRefused, Throttled, Unavailable
from ddslogd.pacing import full_jitter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.cloud.budget import Budget
    from ddslogd.cloud.credentials import Credentials, Proof
    from ddslogd.cloud.http import Http, Reply
    from ddslogd.models import ExportReply, Instance, ListedInstance, ListPage, LogKind

log = structlog.get_logger()

# The library would tell of each retry in words of its own; call.retried is ours.
stamina.instrumentation.set_on_retry_hooks([])

TRIES = 6
MOST_PAGES = 1000  # of the list of instances: a hundred thousand
DEADLINE_S = 180.0  # for all retries of a call; the next cycle asks again anyway
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0  # what a server asks for beyond that is not believed
THROTTLED_WAIT_S = 10.0  # the gateway counts by the minute and sends no Retry-After. APIGW.0308


_NAMES = {"POST": "export", "GET": "list"}
"""What counts call the calls, by their method."""


class Api:
    """One account in one region.

    Attributes:
        budget: Of its calls.
        tally: What has happened on it.
    """

    def __init__(
        self, *, endpoint: str, http: Http, credentials: Credentials, budget: Budget, tally: Tally | None = None
    ) -> None:
        self.budget = budget
        self.tally = tally or Tally()
        self._endpoint = endpoint
        self._http = http
        self._credentials = credentials
        self._trial = Trial()

    def now(self) -> datetime:
        """Give the time by the cloud's clock: expiry is judged by it."""
        return self._http.now()

    async def export(self, instance: Instance, kind: LogKind, *, urgency: float) -> ExportReply:
        """Start the instance's export, or ask how it goes; either way its ready rows get links signed now.

        Raises:
            CloudError: One of its kinds, once retries are used up or where they cannot help.
        """

        def path(project_id: str) -> str:
            return wire.export_path(project_id, instance.id, kind)

        body = wire.export_body(instance.node_ids)
        reply = await self._retried("POST", path, body, urgency=urgency, about=f"{kind} log of {instance.name}")
        return wire.read_export(reply.body, request_id=reply.request_id)

    async def instances(self) -> tuple[ListedInstance, ...]:
        """List all instances of the project, each once.

        An instance that is created meanwhile moves the others on, so that one may come twice; and the total that the
        cloud names is a hint only.

        Raises:
            CloudError: As ``export``.
        """
        listed: dict[str, ListedInstance] = {}
        offset = 0
        for _ in range(MOST_PAGES):
            page = await self._page(offset)
            before = len(listed)
            listed |= {instance.id: instance for instance in page.instances}
            offset += len(page.instances)
            complete = len(page.instances) < wire.PAGE and len(listed) >= page.total
            if complete or len(listed) == before:
                break
        return tuple(listed.values())

    async def _page(self, offset: int) -> ListPage:
        def path(project_id: str) -> str:
            return wire.instances_path(project_id, offset)

        reply = await self._retried("GET", path, b"", urgency=IN_PROGRESS, about="list of instances")
        return wire.read_instances(reply.body, request_id=reply.request_id)

    async def _retried(
        self, method: str, path: Callable[[str], str], body: bytes, *, urgency: float, about: str
    ) -> Reply:
        reply = None
        try:
            async for attempt in stamina.retry_context(on=_Patience(about), attempts=TRIES, timeout=None):
                with attempt:
                    reply = await self._authenticated(method, path, body, urgency=urgency)
        except CloudError as exc:
            self.tally.ended(exc)
            raise
        if reply is None:
            raise AssertionError  # stamina raises the last error itself
        self.tally.ended(None)
        return reply

    async def _authenticated(self, method: str, path: Callable[[str], str], body: bytes, *, urgency: float) -> Reply:
        """Make the call; where other credentials may help, once more with them."""
        url = signing.wire_url(self._endpoint + path(await self._credentials.project_id()))
        request = Request(method=method, url=url, headers=wire.JSON_HEADERS, body=body)
        first = await self._credentials.authenticate(request)
        async with self._trial.of(first.secret):
            proof, answer = await self._once(request, urgency=urgency)
            if isinstance(answer, CloudError) and await self._renewed(proof, answer):
                proof, answer = await self._once(request, urgency=urgency)
            if isinstance(answer, CredentialsRefused):
                await self._credentials.give_up(proof)
        if isinstance(answer, CloudError):
            raise answer
        return answer

    async def _renewed(self, proof: Proof, error: CloudError) -> bool:
        return await self._credentials.renew(proof, sure=isinstance(error, CredentialsRefused))

    async def _once(self, request: Request, *, urgency: float) -> tuple[Proof, Reply | CloudError]:
        """Make the call in its turn; give what came of it where that is a reply, or where a new proof may help."""
        proof = None
        try:
            async with self.budget.call(urgency):
                proof = await self._credentials.authenticate(request)  # no sooner: a signature ages
                reply = await self._sent(request, proof)
        except CloudError as exc:
            if isinstance(exc, CredentialsRefused):
                self._trial.refused()
            if proof is None or not wire.may_be_old_token(exc):
                raise
            return proof, exc
        self._trial.accepted(proof.secret)
        return proof, reply

    async def _sent(self, request: Request, proof: Proof) -> Reply:
        try:
            reply = await self._send(request, proof)
        except CloudError as exc:
            self.tally.answered(_NAMES[request.method], exc)
            raise
        self.tally.answered(_NAMES[request.method], None)
        return reply

    async def _send(self, request: Request, proof: Proof) -> Reply:
        headers = {**request.headers, **proof.headers}
        reply = await self._http.call(request.method, request.url, headers=headers, body=request.body)
        if reply.status == 200:  # noqa: PLR2004  # also while the export is created. dds_api_0096
            return reply
        error = wire.read_error(reply.status, reply.headers, reply.body, now=self._http.now())
        if isinstance(error, Throttled):
            asked = THROTTLED_WAIT_S if error.retry_after_s is None else error.retry_after_s
            self.tally.throttled += 1
            self.budget.pause(min(asked, LONGEST_RETRY_AFTER_S))
        log.debug(
            "api.refused", method=request.method, status=reply.status, code=error.code, request_id=error.request_id
        )
        raise error


class _Patience:
    """Says of each failure of one call whether, and after how many seconds, it is worth another try."""

    def __init__(self, about: str) -> None:
        self._about = about
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
        wait_s = self._wait_s(exc)
        log.info("call.retried", about=self._about, reason=str(exc), wait_s=round(wait_s, 1))
        return wait_s

    def _wait_s(self, exc: Unavailable) -> float:
        if isinstance(exc, Throttled):
            return FIRST_WAIT_S  # the whole account pauses; the turn is what has to be waited for
        if exc.retry_after_s is None:
            return next(self._waits)
        return min(exc.retry_after_s, LONGEST_RETRY_AFTER_S)
