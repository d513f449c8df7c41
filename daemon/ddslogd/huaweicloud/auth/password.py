"""A login by password, exchanged for a token that is renewed before its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud.auth import iam_protocol
from ddslogd.huaweicloud.auth.credentials import Proof, Refusal
from ddslogd.huaweicloud.auth.secret_source import read_secret, to_replace
from ddslogd.huaweicloud.auth.token import TOKEN_HEADER, proof
from ddslogd.huaweicloud.single_flight import Shared
from ddslogd.model.errors import CloudError, CredentialsRefused, Misdirected, Unavailable
from ddslogd.model.redactor import is_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.config.settings import PasswordAuth
    from ddslogd.huaweicloud.auth.credentials import Request
    from ddslogd.huaweicloud.auth.iam_client import IdentityService
    from ddslogd.huaweicloud.http import Reply
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()
PASSWORD_COOL_DOWN = timedelta(minutes=15)  # as long as IAM locks a user by default. OTC login policy
RENEW_BEFORE = timedelta(minutes=30)  # or a fifth of the token's life, where that is less
YOUNG = timedelta(minutes=5)  # a token of that age is not the reason of a missing right


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
        project: iam_protocol.ProjectName,
        server_now: Callable[[], datetime],
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        """Prepare the login.

        Args:
            auth: User, domain, and where the password is.
            identity: Exchanges the password for a token.
            project: What the token is to be for.
            server_now: The time by the identity service's clock, which sets a token's end.
            clock: For the cool-down.
            redactor: Is told every secret, so that none is printed.
        """
        self._auth = auth
        self._identity = identity
        self._project = project
        self._now = server_now
        self._redactor = redactor
        self._token: _Token | None = None
        self._login = Shared(self._log_in, name=f"login of {auth.username}")
        self._refusal = Refusal(identity.cloud, clock, PASSWORD_COOL_DOWN, todo=to_replace(auth.password))

    @property
    def todo(self) -> str:
        """Return what puts another secret to use, or what else is to be done."""
        return self._refusal.todo

    async def authenticate(self, request: Request) -> Proof:  # noqa: ARG002  # a token is the same for any request
        """Return the shared token's header, logging in first where there is none or its end is near."""
        return proof((await self._current()).text)

    async def project_id(self) -> str:
        """Return the project of the token, as the identity service names it."""
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
            password, "the cloud accepts the login but not the token it gave", todo="check region, project and rights"
        )

    async def _current(self) -> _Token:
        token = self._token
        if token is not None and self._now() < token.renew_at:
            return token
        try:
            return await self._login()
        except (Unavailable, Misdirected, CredentialsRefused) as exc:
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
        self._redactor.add(password)
        self._refusal.check(password)
        try:
            reply = await self._exchange(password)
        except (Unavailable, Misdirected):  # nobody has looked at the password
            raise
        except CloudError as exc:
            refused = f"the login of {self._auth.username} was refused: {exc}"
            self._refusal.note(password, refused)
            raise CredentialsRefused(f"{refused}: {self._refusal.todo}") from exc
        self._token = self._read_token(reply)
        log.info(
            "login.done", cloud=self._identity.cloud, user=self._auth.username, ends_at=self._token.ends_at.isoformat()
        )
        return self._token

    async def _exchange(self, password: str) -> Reply:
        """Log in; where an agency is named, exchange the token for one in the account that it is of."""
        auth, role = self._auth, self._auth.assume_role
        project = None if role else self._project
        body = iam_protocol.password_login(
            user=auth.username, password=password, domain=auth.domain_name, project=project
        )
        reply = await self._identity.login(body)
        if role is None:
            return reply
        own = self._issued(reply)
        body = iam_protocol.agency_login(agency=role.agency_name, domain=role.domain_name, project=self._project)
        return await self._identity.login(body, headers={TOKEN_HEADER: own})

    def _read_token(self, reply: Reply) -> _Token:
        text = self._issued(reply)
        ends_at, project_id = iam_protocol.read_token(reply.body, request_id=reply.request_id)
        now = self._now()
        renew_at = ends_at - min(RENEW_BEFORE, (ends_at - now) / 5)
        return _Token(text=text, project_id=project_id, begun_at=now, ends_at=ends_at, renew_at=renew_at)

    def _issued(self, reply: Reply) -> str:
        """Return the token that a login's reply holds.

        Raises:
            Unavailable: It holds none, or what cannot be one: it would be blanked out of every line that has it.
        """
        text = reply.headers.get(iam_protocol.SUBJECT_TOKEN, "")
        if not is_token(text):
            reason = "what it calls a token is none: see iam_endpoint" if text else "the login's reply holds no token"
            raise Unavailable(reason, status=reply.status, request_id=reply.request_id)
        self._redactor.add_issued(text)
        return text
