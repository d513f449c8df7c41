"""Calls of a check: one at a time, and not for long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ddslogd.huaweicloud import error_codes, json_reader
from ddslogd.huaweicloud.auth import request_signing
from ddslogd.huaweicloud.auth.credentials import Request
from ddslogd.model.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.huaweicloud.auth.credentials import Credentials
    from ddslogd.huaweicloud.http import Http, Reply


PATIENCE_S: Final = 10.0
"""To connect, of silence, and for each step as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Makes single calls to one account."""

    endpoint: str
    http: Http
    credentials: Credentials

    async def ask(self, method: str, path: Callable[[str], str], body: bytes) -> Reply:
        """Make a call, once.

        Raises:
            CloudError: It was refused, or no answer came in time.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._sent(method, path, body)
        except TimeoutError:
            raise Unavailable("no answer within 10 s") from None

    async def _sent(self, method: str, path: Callable[[str], str], body: bytes) -> Reply:
        url = request_signing.wire_url(self.endpoint + path(await self.credentials.project_id()))
        request = Request(method=method, url=url, headers=json_reader.JSON_HEADERS, body=body)
        proof = await self.credentials.authenticate(request)
        headers = {**request.headers, **proof.headers}
        reply = await self.http.call(request.method, request.url, headers=headers, body=request.body)
        error = error_codes.refusal(reply.status, reply.headers, reply.body, now=self.http.now())
        if error is not None:
            raise error
        return reply
