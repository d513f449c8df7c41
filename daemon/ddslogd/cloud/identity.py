"""The identity service's calls: a login is exchanged for a token. They have a budget of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.cloud import wire

if TYPE_CHECKING:
    from ddslogd.cloud.budget import Budget
    from ddslogd.cloud.http import Http, Reply


class IdentityService:
    """The identity service of one cloud (IAM, which speaks Keystone v3)."""

    def __init__(self, *, endpoint: str, http: Http, budget: Budget) -> None:
        self._endpoint = endpoint
        self._http = http
        self._budget = budget

    async def login(self, body: bytes) -> Reply:
        """Send a login; the reply holds a token.

        Raises:
            CloudError: One of its kinds; never repeated here, since refused logins lock the account.
        """
        async with self._budget.call(0.0):
            reply = await self._http.call(
                "POST", self._endpoint + wire.TOKEN_PATH, headers=wire.JSON_HEADERS, body=body
            )
            if reply.status != 201:  # noqa: PLR2004  # Created is the one answer that holds a token. IAM
                raise wire.read_error(reply.status, reply.headers, reply.body, now=self._http.now())
            return reply
