"""The identity service's calls: logins, and which project a token or a name stands for. They have their own budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.huaweicloud import error_codes, json_reader
from ddslogd.huaweicloud.auth import iam_protocol, request_signing
from ddslogd.huaweicloud.auth.credentials import Request
from ddslogd.huaweicloud.call_stats import CallStats
from ddslogd.huaweicloud.rate_limiter import IN_PROGRESS
from ddslogd.model.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from ddslogd.huaweicloud.auth.credentials import Proof
    from ddslogd.huaweicloud.http import Http, Reply
    from ddslogd.huaweicloud.rate_limiter import Budget

_CREATED = 201  # the one answer to a login that holds a token


class IdentityService:
    """The identity service of one cloud (IAM, which speaks Keystone v3). Nothing is repeated here.

    Attributes:
        cloud: The cloud's name, by which events speak of it.
    """

    def __init__(
        self, cloud: str, *, endpoint: str, http: Http, budget: Budget, call_stats: CallStats | None = None
    ) -> None:
        self.cloud = cloud
        self._call_stats = call_stats or CallStats()
        self._endpoint = endpoint
        self._http = http
        self._budget = budget

    def now(self) -> datetime:
        """Return the time by the service's own clock: it sets the ends of tokens, and judges signatures."""
        return self._http.now()

    async def login(self, body: bytes, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a login, or a token to be exchanged with its header; the reply holds a token.

        Raises:
            CloudError: One of its kinds; refused logins lock the account.
        """
        request = self._request("POST", iam_protocol.TOKEN_PATH, body)
        return await self._counted(request, headers or {}, expected=_CREATED)

    async def project_of_token(self, token: str) -> str:
        """Ask for which project a token is.

        Raises:
            CloudError: One of its kinds; CredentialsRefused for a token that is none any more.
        """
        request = self._request("GET", iam_protocol.TOKEN_PATH, b"")
        reply = await self._counted(request, {"X-Auth-Token": token, iam_protocol.SUBJECT_TOKEN: token}, expected=200)
        return iam_protocol.read_token(reply.body, request_id=reply.request_id)[1]

    async def project_of_name(self, name: str, authenticate: Callable[[Request], Awaitable[Proof]]) -> str:
        """Ask for the id of the project of a name.

        Raises:
            CloudError: One of its kinds.
        """
        request = self._request("GET", iam_protocol.projects_path(name), b"")
        proof = await authenticate(request)
        reply = await self._counted(request, proof.headers, expected=200)
        return iam_protocol.read_project(reply.body, name, request_id=reply.request_id)

    def _request(self, method: str, path: str, body: bytes) -> Request:
        url = request_signing.wire_url(self._endpoint + path)
        return Request(method=method, url=url, headers=json_reader.JSON_HEADERS, body=body)

    async def _send(self, request: Request, headers: Mapping[str, str], *, expected: int) -> Reply:
        async with self._budget.call(IN_PROGRESS):
            sent = {**request.headers, **headers}
            reply = await self._http.call(request.method, request.url, headers=sent, body=request.body)
            now = self._http.now()
            error = error_codes.refusal(reply.status, reply.headers, reply.body, now=now, expected=expected)
            if error is not None:
                raise error
            return reply

    async def _counted(self, request: Request, headers: Mapping[str, str], *, expected: int) -> Reply:
        call = "login" if expected == _CREATED else "project"
        try:
            reply = await self._send(request, headers, expected=expected)
        except CloudError as exc:
            self._call_stats.answered(call, exc)
            raise
        self._call_stats.answered(call, None)
        return reply
