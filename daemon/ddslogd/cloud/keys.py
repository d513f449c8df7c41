"""Access keys: given ones, or a cloud server's own, which end within the hour. Each request is signed with them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.cloud import signing
from ddslogd.cloud.credentials import Proof, Refusal, read_secret
from ddslogd.cloud.projects import Project
from ddslogd.cloud.signing import Keys
from ddslogd.errors import CredentialsRefused, Unavailable
from ddslogd.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ddslogd.cloud import wire
    from ddslogd.cloud.credentials import Request
    from ddslogd.cloud.identity import IdentityService
    from ddslogd.cloud.metadata import MetadataService, TemporaryKeys
    from ddslogd.config import AccessKeyAuth, Secret
    from ddslogd.pacing import Clock

log = structlog.get_logger()

KEY_COOL_DOWN = timedelta(minutes=5)  # as long as the gateway locks a key that failed too often. OTC apig-faq-0003
REFRESH_BELOW = timedelta(minutes=40)  # of life left. huaweicloudsdkcore
CORRECTED = timedelta(minutes=10)  # a signature so far off its time may be refused for that; the limit is 15 minutes
REFUSED = "the cloud does not accept the access key: check it, its secret key, the region and the host's clock"


class Signer:
    """Signs requests.

    Args:
        server_now: The time by the cloud's clock, which is signed too.
    """

    def __init__(self, *, server_now: Callable[[], datetime]) -> None:
        self.now = server_now

    def proof(self, request: Request, keys: Keys, *, project_id: str) -> Proof:
        """Sign a request as of now; the project goes along, signed, where there is one."""
        project = {"X-Project-Id": project_id} if project_id else {}
        signature = signing.sign(
            method=request.method,
            url=request.url,
            headers={**request.headers, **project},
            body=request.body,
            keys=keys,
            now=self.now(),
        )
        return Proof(headers={**project, **signature}, secret=keys)

    def was_off(self, refused: Proof) -> bool:
        """Tell whether the clock has been corrected since, by so much that it may be why a signature was refused."""
        return abs(self.now() - signing.signed_at(refused.headers)) > CORRECTED


class _Signing:
    """What both kinds of keys do alike: sign for a project, and rest once they are refused."""

    def __init__(self, *, project: wire.ProjectName, identity: IdentityService, signer: Signer, clock: Clock) -> None:
        self._name = project.name
        self._identity = identity
        self._project = Project(project.id, look_up=self._look_up)
        self._signer = signer
        self._refusal = Refusal(identity.cloud, clock, KEY_COOL_DOWN)

    async def authenticate(self, request: Request) -> Proof:
        """Sign the request, unless these very keys were refused a short while ago."""
        keys = await self._keys()
        self._refusal.check(keys)
        return self._signer.proof(request, keys, project_id=await self._project.id())

    async def project_id(self) -> str:
        """Give the project calls are for."""
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
            proofs.append(self._signer.proof(request, keys, project_id=""))
            return proofs[-1]

        try:
            return await self._identity.project_of_name(self._name, authenticate)
        except CredentialsRefused:
            if not self._signer.was_off(proofs[-1]):
                await self.give_up(proofs[-1])
                raise
        try:  # our clock was off, and the refusal has told us the right time
            return await self._identity.project_of_name(self._name, authenticate)
        except CredentialsRefused:
            await self.give_up(proofs[-1])
            raise


class AccessKey(_Signing):
    """Keys that somebody puts where the configuration says; read anew for each call."""

    def __init__(
        self,
        auth: AccessKeyAuth,
        *,
        project: wire.ProjectName,
        identity: IdentityService,
        signer: Signer,
        clock: Clock,
        redact: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            auth: Where the keys are.
            project: What calls are for; without an id it is looked up by its name.
            identity: Tells a project's id.
            signer: Signs with the keys.
            clock: For the cool-down.
            redact: Hears every secret, so that none is printed.
        """
        super().__init__(project=project, identity=identity, signer=signer, clock=clock)
        self._auth = auth
        self._redact = redact

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
        self._redact(secret_key)
        security_token = ""
        if auth.security_token is not None:
            security_token = await self._header(auth.security_token)
            self._redact(security_token)
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


class MetadataKeys(_Signing):
    """A cloud server's own keys, shared by all calls and replaced long before they end."""

    def __init__(
        self,
        service: MetadataService,
        *,
        project: wire.ProjectName,
        identity: IdentityService,
        signer: Signer,
        clock: Clock,
        redact: Callable[[str], None],
    ) -> None:
        """Prepare the keys; none are asked for yet.

        Args:
            service: Gives them.
            project: What calls are for; without an id it is looked up by its name.
            identity: Tells a project's id.
            signer: Signs with them, and has the cloud's clock, which the keys' end is judged by.
            clock: For the cool-down.
            redact: Hears every secret, so that none is printed.
        """
        super().__init__(project=project, identity=identity, signer=signer, clock=clock)
        self._service = service
        self._now = signer.now
        self._redact = redact
        self._held: TemporaryKeys | None = None
        self._refresh_at: datetime | None = None
        self._refresh = Shared(self._ask, name="keys of the metadata service")

    async def renew(self, refused: Proof, *, sure: bool) -> bool:
        """Ask for other keys, once for all whose call was refused."""
        if self._held is not None and self._held.keys != refused.secret:
            return True  # somebody has them already
        if not sure:
            return False
        return (await self._refresh()).keys != refused.secret or self._signer.was_off(refused)

    async def give_up(self, refused: Proof) -> None:
        """Begin the cool-down of these keys; others that come meanwhile are used."""
        self._refusal.note(refused.secret, f"{REFUSED}; it comes from the metadata service: see its agency's rights")
        self._refresh_at = self._now()

    async def _keys(self) -> Keys:
        held, now = self._held, self._now()
        if held is not None and self._refresh_at is not None and now < self._refresh_at:
            return held.keys
        try:
            return (await self._refresh()).keys
        except (Unavailable, CredentialsRefused) as exc:
            now = self._now()
            if held is None or now >= held.ends_at:
                raise
            self._refresh_at = now + (held.ends_at - now) / 4
            log.warning(
                "keys.not_refreshed",
                cloud=self._identity.cloud,
                reason=str(exc),
                ends_at=held.ends_at.isoformat(timespec="seconds"),
            )
            return held.keys

    async def _ask(self) -> TemporaryKeys:
        new = await self._service.security_key()
        self._redact(new.keys.secret_key)
        self._redact(new.keys.security_token)
        known = self._held is not None and self._held.keys == new.keys
        now = self._now()
        # The service gives the same keys until some ten minutes before their end: it is asked again, at shorter times.
        self._refresh_at = max(new.ends_at - REFRESH_BELOW, now + (new.ends_at - now) / 4)
        self._held = new
        if not known:
            log.info(
                "keys.refreshed",
                cloud=self._identity.cloud,
                access_key=new.keys.access_key,
                ends_at=new.ends_at.isoformat(),
            )
        return new
