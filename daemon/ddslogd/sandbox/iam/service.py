"""IAM: passwords become tokens, tokens end, and who guesses is locked out."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ddslogd.sandbox.error_responses import gateway_refusal, iam_refusal, json_reply, ordered
from ddslogd.sandbox.faults import take
from ddslogd.sandbox.iam.tokens import Domain, Grant, Scope

if TYPE_CHECKING:
    from aiohttp import web

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.iam.access_keys import AccessKeys

TokenCheck = Callable[[str], Awaitable[bool]]
"""Says whether a token is good."""

TRIES = 5
"""Wrong passwords inside ``LOCK`` that lock the user, for as long again."""
LOCK = timedelta(minutes=15)


@dataclass(slots=True, kw_only=True)
class IamUser:
    """Who may use the cloud; the password may change while it runs.

    Attributes:
        project_id: Of the project that the instances are in.
        agency_name: Lends the user the other domain.
        agency_domain_name: Has a project of the same name. It has the instances too, and with ``agency_only`` nobody
            else has: the user's own project is then another, as it is in a cloud.
    """

    project_id: str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    project_name: str = "loopback-1"
    domain_name: str = "sandbox"
    user_name: str = "collector"
    password: str = field(default="made-up-password-of-the-sandbox", repr=False)
    agency_name: str = "log-collection"
    agency_domain_name: str = "customer"
    agency_only: bool = False

    @property
    def home(self) -> Domain:
        """Return the user's own domain."""
        own = hashlib.sha256(f"{self.domain_name} {self.project_name}".encode()).hexdigest()[:32]
        project_id = own if self.agency_only else self.project_id
        return Domain(name=self.domain_name, project_id=project_id, project_name=self.project_name)

    @property
    def lender(self) -> Domain:
        """Return the domain that the agency is of."""
        return Domain(name=self.agency_domain_name, project_id=self.project_id, project_name=self.project_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    expires: datetime
    grant: Grant
    told: dict[str, Any]


class Iam:
    """Issues tokens and knows which are good.

    Args:
        account: The only user there is.
        keys: Judges requests that are signed.
        clock: The cloud's.
        life: Of a token, before it is divided by the speed.
        seed: Makes its tokens differ from another sandbox's.
        check: Another identity service's word on tokens, which then is the only one.
        least: Characters that a token has at least, as those of users with many roles do.
    """

    def __init__(
        self,
        account: IamUser,
        keys: AccessKeys,
        clock: CloudClock,
        *,
        life: timedelta,
        seed: int,
        check: TokenCheck | None = None,
        least: int = 0,
    ) -> None:
        self._account = account
        self._keys = keys
        self._clock = clock
        self._life = life
        self._seed = seed
        self._check = check
        self._least = least
        self._tokens: dict[str, _Token] = {}
        self._issued = 0
        self._failures: list[datetime] = []
        self._locked_until: datetime | None = None

    def issue(self, grant: Grant | None = None) -> str:
        """Return a new token, by default for the user's own project; those before it stay good."""
        grant = grant or self._grant(self._account.home, "project")
        self._issued += 1
        digest = hashlib.sha512(f"{self._seed} {self._issued} {self._account.user_name}".encode()).digest()
        token = ("MIIF" + b64encode(digest * 6, altchars=b"-_").decode()).ljust(self._least, "A")
        expires = self._clock.now() + self._clock.scaled(self._life)
        told = grant.told(issued=self._clock.shown(by="iam"), expires=self._clock.shown(expires, by="iam"))
        self._tokens[token] = _Token(expires=expires, grant=grant, told=told)
        return token

    def revoke(self) -> None:
        """End every token there is."""
        now = self._clock.now()
        self._tokens = {token: replace(held, expires=now) for token, held in self._tokens.items()}

    async def require(self, request: web.Request, *, scoped: bool = True) -> None:
        """Refuse a request without a good token or signature, as the gateway does."""
        if self._keys.signed(request):
            await self._keys.require(request)
            return
        token = request.headers.get("X-Auth-Token")
        if token is None:
            raise gateway_refusal(401, "APIGW.0301", "Incorrect IAM authentication information: x-auth-token not found")
        if self._check is not None:
            if not await self._check(token):
                raise gateway_refusal(401, "APIGW.0307", "The token must be updated.")
            return
        held = self._tokens.get(token)
        if held is None:
            raise gateway_refusal(401, "APIGW.0301", "Incorrect IAM authentication information: decrypt token fail")
        if held.expires <= self._clock.now() or (scoped and held.grant.scope != "project"):
            raise gateway_refusal(401, "APIGW.0307", "The token must be updated.")

    def project_of(self, request: web.Request) -> str | None:
        """Return the project that a request's token is for; None where it is not one of ours to know."""
        held = self._good(request, "X-Auth-Token")
        return held.grant.domain.project_id if held is not None else None

    async def login(self, request: web.Request) -> web.Response:
        """Answer ``POST /v3/auth/tokens``."""
        if error := take(self._clock.faults.login_errors):
            raise ordered(error)
        auth = _object(await _json(request), "auth")
        identity = _object(auth, "identity")
        domain, agency = self._account.home, ""
        match identity.get("methods"):
            case ["password"]:
                self._check_password(identity)
            case ["assume_role"]:
                self._check_agency(request, identity)
                domain, agency = self._account.lender, self._account.agency_name
            case _:
                raise iam_refusal(400, "The request body is invalid: methods")
        token = self.issue(self._grant(domain, _scope(auth.get("scope"), domain), agency))
        shown = self._clock.faults.subject_token or token
        return json_reply({"token": self._tokens[token].told}, status=201, headers={"X-Subject-Token": shown})

    async def token(self, request: web.Request) -> web.Response:
        """Answer ``GET /v3/auth/tokens``: what a token says, to who asks with a good one of the same domain."""
        asker, subject = self._good(request, "X-Auth-Token"), self._good(request, "X-Subject-Token")
        if asker is None:
            raise iam_refusal(401, "The X-Auth-Token is invalid!")
        if subject is None:
            raise iam_refusal(404, "Could not find the token.")
        if asker.grant.domain != subject.grant.domain:
            raise iam_refusal(403, "The token is of another domain.")
        return json_reply({"token": subject.told}, headers={"X-Subject-Token": request.headers["X-Subject-Token"]})

    async def projects(self, request: web.Request) -> web.Response:
        """Answer ``GET /v3/projects``, by name or all."""
        await self.require(request, scoped=False)
        held = self._good(request, "X-Auth-Token")
        project = (held.grant.domain if held else self._account.home).project
        known = [project] if request.query.get("name", project["name"]) == project["name"] else []
        return json_reply({"projects": known, "links": {"self": str(request.url), "next": None, "previous": None}})

    def _grant(self, domain: Domain, scope: Scope, agency: str = "") -> Grant:
        account = self._account
        return Grant(user=account.user_name, home=account.home, domain=domain, scope=scope, agency=agency)

    def _check_password(self, identity: dict[str, Any]) -> None:
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

    def _check_agency(self, request: web.Request, identity: dict[str, Any]) -> None:
        """Refuse who may not act for the other domain.

        The pages list 401, 403 and 404 without saying which is for what. Guessed here: a domain or an agency that is
        not there is 404, a token that may not assume (one of an agency itself) is 403. The words of the 401 were seen
        in opentelekomcloud/terraform-provider-opentelekomcloud issue 2089.
        """
        held = self._good(request, "X-Auth-Token")
        if held is None:
            raise iam_refusal(401, "The X-Auth-Token is invalid!")
        if held.grant.agency:
            raise iam_refusal(403, "An agency cannot assume an agency.")
        asked, lender = _object(identity, "assume_role"), self._account.lender
        name, domain = asked.get("agency_name"), asked.get("domain_name", asked.get("domain_id"))
        if not (isinstance(name, str) and isinstance(domain, str)):
            raise iam_refusal(400, "The request body is invalid: assume_role")
        if domain != (lender.name if "domain_name" in asked else lender.id) or name != self._account.agency_name:
            raise iam_refusal(404, f"Could not find the agency {name} of the domain {domain}.")

    def _good(self, request: web.Request, header: str) -> _Token | None:
        """Return what is known of the token in a header; None where there is none or it is over."""
        held = self._tokens.get(request.headers.get(header, ""))
        return held if held is not None and self._clock.now() < held.expires else None


def _scope(asked: Any, domain: Domain) -> Scope:
    """Return what a token is for, in its domain: without scope it is for no service."""
    if not isinstance(asked, dict) or not asked.keys() & {"project", "domain"}:
        return "none"
    if "project" not in asked:
        if not _names(_object(asked, "domain"), domain):
            raise iam_refusal(401, "The domain of the scope does not exist, or is not yours.")
        return "domain"
    project = _object(asked, "project")
    if domain.project_id == project.get("id"):
        return "project"
    ours = not project.get("domain") or _names(_object(project, "domain"), domain)
    if ours and "id" not in project and domain.project_name == project.get("name"):
        return "project"
    raise iam_refusal(401, "The project of the scope does not exist, or is not yours.")


def _names(asked: dict[str, Any], domain: Domain) -> bool:
    return domain.name == asked.get("name") or domain.id == asked.get("id")


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise iam_refusal(400, "The request body is invalid: no JSON") from None


def _object(parent: Any, key: str) -> dict[str, Any]:
    """Return a JSON object's member that must be an object itself."""
    child = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(child, dict):
        raise iam_refusal(400, f"The request body is invalid: {key}")
    return child
