"""A token as a proof, given or logged in for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.auth.credentials import Proof, Refusal
from ddslogd.huaweicloud.auth.project_lookup import Project
from ddslogd.huaweicloud.auth.secret_source import read_secret, to_replace
from ddslogd.model.errors import CredentialsRefused

if TYPE_CHECKING:
    from ddslogd.config.settings import Secret
    from ddslogd.huaweicloud.auth.credentials import Request
    from ddslogd.huaweicloud.auth.iam_client import IdentityService
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock


TOKEN_COOL_DOWN = timedelta(minutes=5)
TOKEN_HEADER = "X-Auth-Token"  # noqa: S105  # a header's name


class GivenToken:
    """A token that somebody else obtains and puts where the configuration says; read again for each call."""

    def __init__(
        self,
        secret: Secret,
        *,
        project_id: str,
        identity: IdentityService,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        """Prepare.

        Args:
            secret: Where the token is.
            project_id: What it is for; where it is empty, the identity service is asked.
            identity: Tells what a token is for.
            clock: For the cool-down.
            redactor: Is told every secret, so that none is printed.
        """
        self._secret = secret
        self._identity = identity
        self._project = Project(project_id, look_up=self._look_up)
        self._redactor = redactor
        self._refusal = Refusal(identity.cloud, clock, TOKEN_COOL_DOWN, todo=to_replace(secret))

    @property
    def todo(self) -> str:
        """Return what puts another secret to use, or what else is to be done."""
        return self._refusal.todo

    async def authenticate(self, request: Request) -> Proof:  # noqa: ARG002  # a token is the same for any request
        """Return the token's header, unless this very token was refused a short while ago."""
        token = await self._read()
        self._refusal.check(token)
        return proof(token)

    async def project_id(self) -> str:
        """Return the project the token is for."""
        return await self._project.id()

    async def renew(self, refused: Proof, *, sure: bool) -> bool:  # noqa: ARG002  # any new token will do
        """Look whether another token has been put in place meanwhile."""
        return await self._read() != refused.secret

    async def give_up(self, refused: Proof) -> None:
        """Begin the cool-down of this token."""
        self._refusal.note(refused.secret, "the cloud does not accept the token")

    async def _look_up(self) -> str:
        token = await self._read()
        self._refusal.check(token)
        try:
            return await self._identity.project_of_token(token)
        except CredentialsRefused:
            await self.give_up(proof(token))
            raise

    async def _read(self) -> str:
        token = await read_secret(self._secret)
        self._redactor.add(token)
        return token


def proof(token: str) -> Proof:
    """Return the header that carries a token."""
    return Proof(headers={TOKEN_HEADER: token}, secret=token)
