"""IAM: passwords become tokens, tokens end, and who guesses is locked out."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ddslogd.sandbox.faults import take
from ddslogd.sandbox.replies import gateway_refusal, iam_refusal, json_reply, ordered

if TYPE_CHECKING:
    from aiohttp import web

    from ddslogd.sandbox.clock import CloudClock

TRIES = 5
"""Wrong passwords inside ``LOCK`` that lock the user, for as long again."""
LOCK = timedelta(minutes=15)


@dataclass(slots=True, kw_only=True)
class Account:
    """Who may use the cloud; the password may change while it runs."""

    project_id: str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    project_name: str = "loopback-1"
    domain_name: str = "sandbox"
    user_name: str = "collector"
    password: str = field(default="made-up-password-of-the-sandbox", repr=False)

    @property
    def domain_id(self) -> str:
        """Give the id that goes with the domain's name."""
        return hashlib.sha256(self.domain_name.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    expires: datetime
    scoped: bool


class Iam:
    """Issues tokens and knows which are good.

    Args:
        account: The only user there is.
        clock: The cloud's.
        life: Of a token, before it is divided by the speed.
        seed: Makes its tokens differ from another sandbox's.
    """

    def __init__(self, account: Account, clock: CloudClock, *, life: timedelta, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._life = life
        self._seed = seed
        self._tokens: dict[str, _Token] = {}
        self._issued = 0
        self._failures: list[datetime] = []
        self._locked_until: datetime | None = None

    def issue(self, *, scoped: bool = True) -> str:
        """Give a new token; those before it stay good."""
        self._issued += 1
        digest = hashlib.sha512(f"{self._seed} {self._issued} {self._account.user_name}".encode()).digest()
        token = "MIIF" + b64encode(digest * 6, altchars=b"-_").decode()
        self._tokens[token] = _Token(expires=self._clock.now() + self._clock.scaled(self._life), scoped=scoped)
        return token

    def revoke(self) -> None:
        """End every token there is."""
        now = self._clock.now()
        self._tokens = {token: _Token(expires=now, scoped=held.scoped) for token, held in self._tokens.items()}

    def require(self, request: web.Request, *, scoped: bool = True) -> None:
        """Refuse a request without a good token, as the gateway does."""
        token = request.headers.get("X-Auth-Token")
        if token is None:
            raise gateway_refusal(401, "APIGW.0301", "Incorrect IAM authentication information: x-auth-token not found")
        held = self._tokens.get(token)
        if held is None:
            raise gateway_refusal(401, "APIGW.0301", "Incorrect IAM authentication information: decrypt token fail")
        if held.expires <= self._clock.now() or (scoped and not held.scoped):
            raise gateway_refusal(401, "APIGW.0307", "The token must be updated.")

    async def login(self, request: web.Request) -> web.Response:
        """Answer ``POST /v3/auth/tokens``."""
        if error := take(self._clock.faults.login_errors):
            raise ordered(error)
        auth = _object(await _json(request), "auth")
        self._check_password(_object(auth, "identity"))
        scoped = self._check_scope(auth.get("scope"))
        token = self.issue(scoped=scoped)
        return json_reply({"token": self._told(scoped=scoped)}, status=201, headers={"X-Subject-Token": token})

    async def projects(self, request: web.Request) -> web.Response:
        """Answer ``GET /v3/projects``, by name or all."""
        self.require(request, scoped=False)
        name = request.query.get("name", self._account.project_name)
        known = [self._project()] if name == self._account.project_name else []
        return json_reply({"projects": known, "links": {"self": str(request.url), "next": None, "previous": None}})

    def _check_password(self, identity: dict[str, Any]) -> None:
        if identity.get("methods") != ["password"]:
            raise iam_refusal(400, "The request body is invalid: methods")
        user = _object(_object(identity, "password"), "user")
        given = (user.get("name"), user.get("password"), _object(user, "domain").get("name"))
        now = self._clock.now()
        if self._locked_until is not None and now < self._locked_until:
            raise iam_refusal(401, "The account is locked: too many failed logins.")
        if given != (self._account.user_name, self._account.password, self._account.domain_name):
            self._count_failure(now)
            raise iam_refusal(401, "The username or password is wrong.")
        self._failures.clear()

    def _count_failure(self, now: datetime) -> None:
        period = self._clock.scaled(LOCK)
        self._failures = [failure for failure in self._failures if now - failure < period] + [now]
        if len(self._failures) >= TRIES:
            self._failures.clear()
            self._locked_until = now + period

    def _check_scope(self, scope: Any) -> bool:
        """Tell whether a token is for the project: a login without scope gets one that is for no service."""
        if not isinstance(scope, dict) or "project" not in scope:
            return False
        project = _object(scope, "project")
        if self._account.project_id == project.get("id"):
            return True
        domain = project.get("domain", {})
        ours = (
            not domain or self._account.domain_name == domain.get("name") or self._account.domain_id == domain.get("id")
        )
        if ours and "id" not in project and self._account.project_name == project.get("name"):
            return True
        raise iam_refusal(401, "The project of the scope does not exist, or is not yours.")

    def _told(self, *, scoped: bool) -> dict[str, Any]:
        """Give the body's token: all but the token itself."""
        issued = self._clock.shown()
        domain = {"id": self._account.domain_id, "name": self._account.domain_name}
        told: dict[str, Any] = {
            "methods": ["password"],
            "issued_at": _stamp(issued),
            "expires_at": _stamp(issued + self._clock.scaled(self._life)),
            "user": {"name": self._account.user_name, "id": self._account.domain_id[::-1], "domain": domain},
            "roles": [{"id": "0", "name": "dds_adm"}],
        }
        if scoped:
            told["project"] = {"id": self._account.project_id, "name": self._account.project_name, "domain": domain}
        return told

    def _project(self) -> dict[str, Any]:
        return {
            "id": self._account.project_id,
            "name": self._account.project_name,
            "domain_id": self._account.domain_id,
            "parent_id": self._account.domain_id,
            "enabled": True,
            "is_domain": False,
            "description": "",
            "links": {},
        }


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise iam_refusal(400, "The request body is invalid: no JSON") from None


def _object(parent: Any, key: str) -> dict[str, Any]:
    """Give a JSON object's member that must be an object itself."""
    child = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(child, dict):
        raise iam_refusal(400, f"The request body is invalid: {key}")
    return child


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
