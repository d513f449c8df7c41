"""Access keys of the agency of the server that the daemon runs on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud.auth.access_key import REFUSED, SEE_AGENCY, Signer, Signing
from ddslogd.huaweicloud.single_flight import Shared
from ddslogd.model.errors import CredentialsRefused, Unavailable

if TYPE_CHECKING:
    from datetime import datetime

    from ddslogd.huaweicloud.auth import iam_protocol
    from ddslogd.huaweicloud.auth.credentials import Proof
    from ddslogd.huaweicloud.auth.iam_client import IdentityService
    from ddslogd.huaweicloud.auth.metadata_client import MetadataService, TemporaryKeys
    from ddslogd.huaweicloud.auth.request_signing import Keys
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()
REFRESH_BELOW = timedelta(minutes=40)  # of life left. huaweicloudsdkcore


class MetadataKeys(Signing):
    """A cloud server's own keys, shared by all calls and replaced long before they end."""

    def __init__(
        self,
        service: MetadataService,
        *,
        project: iam_protocol.ProjectName,
        identity: IdentityService,
        signer: Signer,
        clock: Clock,
        redactor: Redactor,
    ) -> None:
        """Prepare the keys; none are asked for yet.

        Args:
            service: Gives them.
            project: What calls are for; without an id it is looked up by its name.
            identity: Tells a project's id.
            signer: Signs with them, and has the API's clock: the API judges whether they have ended.
            clock: For the cool-down.
            redactor: Is told every secret, so that none is printed.
        """
        super().__init__(project=project, identity=identity, signer=signer, clock=clock, todo=SEE_AGENCY)
        self._service = service
        self._now = signer.now
        self._redactor = redactor
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
        self._refusal.note(refused.secret, REFUSED)
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
        self._redactor.add_issued(new.keys.secret_key)
        self._redactor.add_issued(new.keys.security_token)
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
