"""Access keys that are given: each request is signed with them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud.auth import request_signing
from ddslogd.huaweicloud.auth.credentials import Proof, Refusal
from ddslogd.huaweicloud.auth.project_lookup import Project
from ddslogd.huaweicloud.auth.request_signing import Keys
from ddslogd.huaweicloud.auth.secret_source import read_secret, to_replace
from ddslogd.model.errors import CredentialsRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.config.settings import AccessKeyAuth, Secret
    from ddslogd.huaweicloud.auth import iam_protocol
    from ddslogd.huaweicloud.auth.credentials import Request
    from ddslogd.huaweicloud.auth.iam_client import IdentityService
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()

KEY_COOL_DOWN = timedelta(minutes=5)  # as long as the gateway locks a key that failed too often. OTC apig-faq-0003
CORRECTED = timedelta(minutes=10)  # a signature so far off its time may be refused for that; the limit is 15 minutes
REFUSED = "the cloud does not accept the access key: check it, its secret key, the region and the host's clock"

SEE_AGENCY = "it comes from the metadata service: see its agency's rights"


class Signer:
    """Signs requests.

    Args:
        server_now: The time by the clock of the server that the requests go to, which is signed too.
    """

    def __init__(self, *, server_now: Callable[[], datetime]) -> None:
        self.now = server_now

    def proof(self, request: Request, keys: Keys, *, project_id: str) -> Proof:
        """Sign a request as of now; the project goes along, signed, where there is one."""
        project = {"X-Project-Id": project_id} if project_id else {}
        signature = request_signing.sign(
            method=request.method,
            url=request.url,
            headers={**request.headers, **project},
            body=request.body,
            keys=keys,
            now=self.now(),
        )
        return Proof(headers={**project, **signature}, secret=keys)

    def was_off(self, refused: Proof) -> bool:
        """Return whether the clock has been corrected since, by so much that it may be why a signature was refused."""
        return abs(self.now() - request_signing.signed_at(refused.headers)) > CORRECTED


class Signing:
    """What both kinds of keys do alike: sign for a project, and rest once they are refused."""

    def __init__(
        self, *, project: iam_protocol.ProjectName, identity: IdentityService, signer: Signer, clock: Clock, todo: str
    ) -> None:
        self._name = project.name
        self._to_identity = Signer(server_now=identity.now)  # another server, with a clock of its own
        self._identity = identity
        self._project = Project(project.id, look_up=self._look_up)
        self._signer = signer
        self._refusal = Refusal(identity.cloud, clock, KEY_COOL_DOWN, todo=todo)

    @property
    def todo(self) -> str:
        """Return what puts another secret to use, or what else is to be done."""
        return self._refusal.todo

    async def authenticate(self, request: Request) -> Proof:
        """Sign the request, unless these very keys were refused a short while ago."""
        keys = await self._keys()
        self._refusal.check(keys)
        return self._signer.proof(request, keys, project_id=await self._project.id())

    async def project_id(self) -> str:
        """Return the project calls are for."""
        return await self._project.id()

    async def give_up(self, refused: Proof) -> None:
        """Begin the cool-down of these keys: a few refusals more would lock them."""
        self._refusal.note(refused.secret, REFUSED)

    async def _keys(self) -> Keys:
        raise NotImplementedError

    async def _look_up(self) -> str:
        """Ask the identity service for the project's id; keys that it refuses rest, as after any other call."""
        keys = await self._keys()
        self._refusal.check(keys)
        proofs: list[Proof] = []

        async def authenticate(request: Request) -> Proof:
            proofs.append(self._to_identity.proof(request, keys, project_id=""))
            return proofs[-1]

        try:
            return await self._identity.project_of_name(self._name, authenticate)
        except CredentialsRefused:
            if not self._to_identity.was_off(proofs[-1]):
                await self.give_up(proofs[-1])
                raise
        try:  # our clock was off, and the refusal has told us the right time
            return await self._identity.project_of_name(self._name, authenticate)
        except CredentialsRefused:
            await self.give_up(proofs[-1])
            raise


class AccessKey(Signing):
    """Keys that somebody puts where the configuration says; read again for each call."""

    def __init__(
        self,
        auth: AccessKeyAuth,
        *,
        project: iam_protocol.ProjectName,
        identity: IdentityService,
        signer: Signer,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        """Prepare.

        Args:
            auth: Where the keys are.
            project: What calls are for; without an id it is looked up by its name.
            identity: Tells a project's id.
            signer: Signs with the keys.
            clock: For the cool-down.
            redactor: Is told every secret, so that none is printed.
        """
        todo = to_replace(auth.secret_key)
        super().__init__(project=project, identity=identity, signer=signer, clock=clock, todo=todo)
        self._auth = auth
        self._redactor = redactor

    async def renew(self, refused: Proof, *, sure: bool) -> bool:  # noqa: ARG002  # any other keys will do
        """Look whether other keys have been put in place, or the clock was off, which the reply has corrected."""
        return self._signer.was_off(refused) or await self._read() != refused.secret

    async def _keys(self) -> Keys:
        return await self._read()

    async def _read(self) -> Keys:
        auth = self._auth
        given = auth.access_key
        access_key = given if isinstance(given, str) else await self._header(given)
        secret_key = await read_secret(auth.secret_key)
        self._redactor.add(secret_key)
        security_token = ""
        if auth.security_token is not None:
            security_token = await self._header(auth.security_token)
            self._redactor.add(security_token)
        return Keys(access_key=access_key, secret_key=secret_key, security_token=security_token)

    @staticmethod
    async def _header(secret: Secret) -> str:
        """Read what is sent in a header."""
        text = await read_secret(secret)
        if not text.isascii() or not text.isprintable():
            raise CredentialsRefused(
                "the access key or its security token is no key: it is of several lines, or no text"
            )
        return text
