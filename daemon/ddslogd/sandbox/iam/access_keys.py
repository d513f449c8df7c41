"""Access keys: which are good, for how long, and which are locked because somebody guesses."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from ddslogd.sandbox.error_responses import gateway_refusal
from ddslogd.sandbox.iam import request_signature

if TYPE_CHECKING:
    from aiohttp import web

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.iam.request_signature import Claim

FAILURES = 5
"""In a row; one more locks the key for ``LOCK``."""
LOCK = timedelta(minutes=5)
SKEW = timedelta(minutes=15)
"""A signature that is further from the cloud's time is refused."""
_IAM = {"/v3/auth/tokens", "/v3/projects"}
_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryKey:
    """A key that ends, and that is good together with its token only."""

    access: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires: datetime


class AccessKeys:
    """Checks signatures.

    Args:
        project_id: Of the project that the keys' user is in.
        clock: The cloud's.
        seed: Makes its temporary keys differ from another sandbox's.

    Attributes:
        access: The lasting key; it may change while the cloud runs.
        secret: What goes with it; the same.
    """

    def __init__(self, project_id: str, clock: CloudClock, *, seed: int) -> None:
        self.access = "HSTSANDBOXACCESSKEY1"
        self.secret = "made-up-secret-key-of-the-sandbox-000000"  # noqa: S105
        self._project_id = project_id
        self._clock = clock
        self._seed = seed
        self._temporary: dict[str, TemporaryKey] = {}
        self._issued = 0
        self._failures: Counter[str] = Counter()
        self._locked_until: dict[str, datetime] = {}

    def issue(self, life: timedelta) -> TemporaryKey:
        """Return a new temporary key; those before it stay good until their end."""
        self._issued += 1
        digest = hashlib.sha512(f"{self._seed} temporary {self._issued}".encode()).hexdigest()
        key = TemporaryKey(
            access=f"TMP{digest[:17].upper()}",
            secret=digest[20:60],
            token=f"ggpj{digest[60:] * 8}",
            expires=self._clock.now() + self._clock.scaled(life),
        )
        self._temporary[key.access] = key
        return key

    def revoke(self) -> None:
        """End every temporary key there is."""
        self._temporary.clear()

    @staticmethod
    def signed(request: web.Request) -> bool:
        """Return whether a request wants to be judged by its signature."""
        return request.headers.get("Authorization", "").startswith(request_signature.SCHEME)

    async def require(self, request: web.Request) -> None:
        """Refuse a request whose signature is not good, as the gateway does."""
        claim = request_signature.read_claim(request.headers.get("Authorization", ""))
        if claim is None:
            _refuse("the Authorization header is malformed")
        now = self._clock.now()
        if now < self._locked_until.get(claim.access, now):
            _refuse(f"AK access failed to reach the limit, forbidden: {claim.access}")
        trouble = self._trouble(request, claim, await request.read())
        if not trouble:
            del self._failures[claim.access]
            return
        self._failures[claim.access] += 1
        if self._failures[claim.access] > FAILURES:
            del self._failures[claim.access]
            self._locked_until[claim.access] = now + self._clock.scaled(LOCK)
        _refuse(trouble)

    def _trouble(self, request: web.Request, claim: Claim, body: bytes) -> str:
        """Return what is wrong with a signature; nothing where it is good."""
        headers = request.headers
        if claim.names != tuple(sorted(claim.names)) or not all(name in headers for name in claim.names):
            return "a signed header is missing, or out of order"
        if "x-sdk-date" not in claim.names or _needs_signing(request) - set(claim.names):
            return "a header that has to be signed is not"
        if trouble := self._too_old(headers["X-Sdk-Date"], by="iam" if request.path in _IAM else "dds"):
            return trouble
        secret, token = self._known(claim.access)
        if not secret or not hmac.compare_digest(headers.get("X-Security-Token", "").encode(), token.encode()):
            return f"the access key {claim.access} or its token does not exist, or has expired"
        expected = request_signature.signature(
            secret, verb=request.method, target=request.raw_path, headers=headers, names=claim.names, body=body
        )
        if not hmac.compare_digest(expected, claim.signature):
            return "verify aksk signature fail"
        project = headers.get("X-Project-Id", self._project_id)
        return "" if project == self._project_id else "the project does not exist, or is not yours"

    def _too_old(self, date: str, *, by: str) -> str:
        now = self._clock.shown(by=by)
        try:
            signed = datetime.strptime(date, _DATE).replace(tzinfo=UTC)
        except ValueError:
            return "X-Sdk-Date is malformed"
        if abs(now - signed) <= SKEW:
            return ""
        return f"signature expired, signature time: {signed:{_DATE}}, server time: {now:{_DATE}}"

    def _known(self, access: str) -> tuple[str, str]:
        """Return a key's secret and its token; nothing where there is no such key, or not any more."""
        if access == self.access:
            return self.secret, ""
        key = self._temporary.get(access)
        return (key.secret, key.token) if key and self._clock.now() < key.expires else ("", "")


def _needs_signing(request: web.Request) -> set[str]:
    """Return the headers that mean nothing unless they are signed, as far as they came."""
    return {name for name in ("x-security-token", "x-project-id") if name in request.headers}


def _refuse(why: str) -> NoReturn:
    raise gateway_refusal(401, "APIGW.0301", f"Incorrect IAM authentication information: {why}")
