"""The metadata service that a cloud server has on a link-local address: keys for the agency that is bound to it."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aiohttp import web

from ddslogd.sandbox.error_responses import json_reply
from ddslogd.sandbox.faults import take

if TYPE_CHECKING:
    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.iam.access_keys import AccessKeys, TemporaryKey

KEY_LIFE = timedelta(hours=1)
NEXT_KEY_BEFORE = timedelta(minutes=10)
"""So long before a key's end there is the next one; both are good meanwhile."""
_LONGEST_TOKEN_S = 21_600


class Metadata:
    """Serves one cloud server.

    Args:
        keys: Issues them.
        clock: The cloud's.
    """

    def __init__(self, keys: AccessKeys, clock: CloudClock) -> None:
        self._keys = keys
        self._clock = clock
        self._faults = clock.faults
        self._key: TemporaryKey | None = None
        self._tokens: dict[str, datetime] = {}

    async def token(self, request: web.Request) -> web.Response:
        """Answer ``PUT /meta-data/latest/api/token``: version 2 only."""
        if status := take(self._faults.metadata_errors):
            return web.Response(status=status, text="out of order")
        if self._faults.metadata_v1_only:
            return web.Response(status=404, text="404 Not Found")
        life = request.headers.get("X-Metadata-Token-Ttl-Seconds", "")
        if not life.isdecimal() or not 1 <= int(life) <= _LONGEST_TOKEN_S:
            return web.Response(status=400, text="400 Bad Request")
        token = hashlib.sha256(f"metadata {len(self._tokens)}".encode()).hexdigest()
        self._tokens[token] = self._clock.now() + self._clock.scaled(timedelta(seconds=int(life)))
        return web.Response(text=self._faults.metadata_token or token)

    async def security_key(self, request: web.Request) -> web.Response:
        """Answer ``GET /openstack/latest/securitykey``."""
        if status := take(self._faults.metadata_errors):
            return web.Response(status=status, text="out of order")
        now = self._clock.now()
        token = request.headers.get("X-Metadata-Token", "")
        if not self._faults.metadata_v1_only and self._tokens.get(token, now) <= now:
            return web.Response(status=401, text="401 Unauthorized")
        if self._faults.no_agency:
            return web.Response(status=401, text="Please configure Cloud Service Agency first")
        key = self._current(now)
        expires_at = self._clock.shown(key.expires).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        told = {"access": key.access, "secret": key.secret, "securitytoken": key.token, "expires_at": expires_at}
        if self._faults.metadata_mangle:
            return web.Response(body=self._faults.metadata_mangle(told), content_type="application/json")
        return json_reply({"credential": told})

    def revoke(self) -> None:
        """End the keys there are; the next one is given to who asks."""
        self._keys.revoke()
        self._key = None

    def _current(self, now: datetime) -> TemporaryKey:
        if self._key is None or now >= self._key.expires - self._clock.scaled(NEXT_KEY_BEFORE):
            self._key = self._keys.issue(KEY_LIFE)
        return self._key
