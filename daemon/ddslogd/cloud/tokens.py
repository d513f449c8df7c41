"""Tokens: one that is given, or one that a login is exchanged for and that is renewed before its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.cloud import wire
from ddslogd.cloud.credentials import Proof, Refusal, read_secret
from ddslogd.cloud.projects import Project
from ddslogd.errors import CloudError, CredentialsRefused, Unavailable
from ddslogd.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.cloud.credentials import Request
    from ddslogd.cloud.http import Reply
    from ddslogd.cloud.identity import IdentityService
    from ddslogd.config import PasswordAuth, Secret
    from ddslogd.pacing import Clock

log = structlog.get_logger()

TOKEN_COOL_DOWN = timedelta(minutes=5)
PASSWORD_COOL_DOWN = timedelta(minutes=15)  # as long as IAM locks a user by default. OTC login policy
RENEW_BEFORE = timedelta(minutes=30)  # or a fifth of the token's life, where that is less
YOUNG = timedelta(minutes=5)  # a token of that age is not the reason of a missing right
TOKEN_HEADER = "X-Auth-Token"  # noqa: S105  # a header's name


class GivenToken:
    """A token that somebody else obtains and puts where the configuration says; read anew for each call."""

    def __init__(
        self,
        secret: Secret,
        *,
        project_id: str,
        identity: IdentityService,
        clock: Clock,
        redact: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            secret: Where the token is.
            project_id: What it is for; where it is empty, the identity service is asked.
            identity: Tells what a token is for.
            clock: For the cool-down.
            redact: Hears every secret, so that none is printed.
        """
        self._secret = secret
        self._identity = identity
        self._project = Project(project_id, look_up=self._look_up)
        self._redact = redact
        self._refusal = Refusal(identity.cloud, clock, TOKEN_COOL_DOWN)

    async def authenticate(self, request: Request) -> Proof:  # noqa: ARG002  # a token is the same for any request
        """Give the token's header, unless this very token was refused a short while ago."""
        token = await self._read()
        self._refusal.check(token)
        return _proof(token)

    async def project_id(self) -> str:
        """Give the project the token is for."""
        return await self._project.id()

    async def renew(self, refused: Proof, *, sure: bool) -> bool:  # noqa: ARG002  # any new token will do
        """Look whether another token has been put in place meanwhile."""
        return await self._read() != refused.secret

    async def give_up(self, refused: Proof) -> None:
        """Begin the cool-down of this token."""
        self._refusal.note(refused.secret, "the cloud does not accept the token: put a new one in its place")

    async def _look_up(self) -> str:
        token = await self._read()
        self._refusal.check(token)
        try:
            return await self._identity.project_of_token(token)
        except CredentialsRefused:
            await self.give_up(_proof(token))
            raise

    async def _read(self) -> str:
        token = await read_secret(self._secret)
        self._redact(token)
        return token


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    text: str = field(repr=False)
    project_id: str
    begun_at: datetime
    ends_at: datetime
    renew_at: datetime


class PasswordLogin:
    """A user's password, exchanged for a token that everybody shares and that is renewed before it ends."""

    def __init__(
        self,
        auth: PasswordAuth,
        *,
        identity: IdentityService,
        project: wire.ProjectName,
        server_now: Callable[[], datetime],
        clock: Clock,
        redact: Callable[[str], None],
    ) -> None:
        """Prepare the login.

        Args:
            auth: User, domain, and where the password is.
            identity: Exchanges the password for a token.
            project: What the token is to be for.
            server_now: The time by the cloud's clock, which a token's end is judged by.
            clock: For the cool-down.
            redact: Hears every secret, so that none is printed.
        """
        self._auth = auth
        self._identity = identity
        self._project = project
        self._now = server_now
        self._redact = redact
        self._token: _Token | None = None
        self._login = Shared(self._log_in, name=f"login of {auth.username}")
        self._refusal = Refusal(identity.cloud, clock, PASSWORD_COOL_DOWN)

    async def authenticate(self, request: Request) -> Proof:  # noqa: ARG002  # a token is the same for any request
        """Give the shared token's header, logging in first where there is none or its end is near."""
        return _proof((await self._current()).text)

    async def project_id(self) -> str:
        """Give the project of the token, as the identity service names it."""
        return (await self._current()).project_id

    async def renew(self, refused: Proof, *, sure: bool) -> bool:
        """Drop the refused token, once for all who used it, so that the next call logs in."""
        token = self._token
        if token is None or token.text != refused.secret:
            return True  # somebody has renewed it already
        if not sure and self._now() - token.begun_at < YOUNG:
            return False
        self._token = None
        return True

    async def give_up(self, refused: Proof) -> None:
        """Begin the cool-down of this password: never more than two logins in a row."""
        if self._token is not None and self._token.text == refused.secret:
            self._token = None
        password = await read_secret(self._auth.password)
        self._refusal.note(
            password, "the cloud accepts the login but not the token it gave: check region, project and rights"
        )

    async def _current(self) -> _Token:
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        try:
            return await self._login()
        except (Unavailable, CredentialsRefused) as exc:
            now = self._now()
            if token is None or now >= token.ends_at or self._token is not token:  # another: this one was refused
                raise
            log.warning(
                "token.not_renewed",
                cloud=self._identity.cloud,
                reason=str(exc),
                ends_at=token.ends_at.isoformat(timespec="seconds"),
            )
            self._token = replace(token, renew_at=now + (token.ends_at - now) / 4)  # it still serves
            return self._token

    async def _log_in(self) -> _Token:
        password = await read_secret(self._auth.password)
        self._redact(password)
        self._refusal.check(password)
        try:
            reply = await self._exchange(password)
        except Unavailable:
            raise
        except CloudError as exc:
            self._refusal.note(password, f"the login of {self._auth.username} was refused: {exc}")
            raise CredentialsRefused(f"the login of {self._auth.username} was refused: {exc}") from exc
        self._token = self._read_token(reply)
        log.info(
            "login.done", cloud=self._identity.cloud, user=self._auth.username, ends_at=self._token.ends_at.isoformat()
        )
        return self._token

    async def _exchange(self, password: str) -> Reply:
        """Log in; where an agency is named, exchange the token for one in the account that it is of."""
        auth, role = self._auth, self._auth.assume_role
        project = None if role else self._project
        body = wire.password_login(user=auth.username, password=password, domain=auth.domain_name, project=project)
        reply = await self._identity.login(body)
        if role is None:
            return reply
        own = reply.headers.get(wire.SUBJECT_TOKEN, "")
        self._redact(own)
        body = wire.agency_login(agency=role.agency_name, domain=role.domain_name, project=self._project)
        return await self._identity.login(body, headers={TOKEN_HEADER: own})

    def _read_token(self, reply: Reply) -> _Token:
        text = reply.headers.get(wire.SUBJECT_TOKEN, "")
        self._redact(text)
        ends_at, project_id = wire.read_token(reply.body, request_id=reply.request_id)
        if not text:
            raise Unavailable("the login's reply holds no token", status=reply.status, request_id=reply.request_id)
        now = self._now()
        renew_at = ends_at - min(RENEW_BEFORE, (ends_at - now) / 5)
        return _Token(text=text, project_id=project_id, begun_at=now, ends_at=ends_at, renew_at=renew_at)


def _proof(token: str) -> Proof:
    return Proof(headers={TOKEN_HEADER: token}, secret=token)
