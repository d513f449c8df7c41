"""Builds the client of one account: its HTTP session, its proofs, its budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ddslogd.config.settings import AccessKeyAuth, MetadataAuth, PasswordAuth, TokenAuth
from ddslogd.huaweicloud import response_limits
from ddslogd.huaweicloud.api_client import Api
from ddslogd.huaweicloud.auth import metadata_client
from ddslogd.huaweicloud.auth.access_key import AccessKey, Signer
from ddslogd.huaweicloud.auth.iam_client import IdentityService
from ddslogd.huaweicloud.auth.iam_protocol import ProjectName
from ddslogd.huaweicloud.auth.instance_metadata import MetadataKeys
from ddslogd.huaweicloud.auth.metadata_client import MetadataService
from ddslogd.huaweicloud.auth.password import PasswordLogin
from ddslogd.huaweicloud.auth.token import GivenToken
from ddslogd.huaweicloud.call_stats import CallStats
from ddslogd.huaweicloud.export import LinkRule
from ddslogd.huaweicloud.http import MOST_CALLS, REQUEST_TIMEOUT_S, Http, new_session
from ddslogd.huaweicloud.rate_limiter import Budget
from ddslogd.huaweicloud.services import dds
from ddslogd.huaweicloud.single_call import PATIENCE_S, Caller
from ddslogd.model.addresses import is_loopback
from ddslogd.scheduling.clock import Skew

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    import aiohttp
    from aiohttp.abc import AbstractResolver

    from ddslogd.config.settings import Settings
    from ddslogd.huaweicloud.auth.credentials import Credentials
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock

LOGINS_PER_MINUTE = 60  # one account needs one login a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """An account without what fetches files."""

    api: Api
    rule: LinkRule
    skew: Skew


class ClientFactory:
    """Builds what makes calls to one cloud.

    Attributes:
        cloud: As the settings have it.
        settings: In force.
        clock: Policy time.
    """

    def __init__(self, name: str, *, settings: Settings, clock: Clock, stack: AsyncExitStack) -> None:
        self._name = name
        self.cloud = cloud = settings.clouds[name]
        self.settings = settings
        self.clock = clock
        self._stack = stack
        # One clock a server: of the API, of the identity service, of the metadata service, and of each object store.
        self._identity_skew = Skew()
        same_server = urlsplit(cloud.identity_endpoint).netloc == urlsplit(cloud.dds_endpoint).netloc
        self._skew = self._identity_skew if same_server else Skew(until_known=self._identity_skew)
        self._call_stats = CallStats()

    async def account(self, redactor: Redactor) -> Calls:
        """Build what makes the calls of the account, within its budget and as patiently as the daemon does.

        Raises:
            ConfigError: The file of trusted certificates cannot be used.
        """
        cloud = self.cloud
        session = await self._stack.enter_async_context(self.connect(read_timeout_s=REQUEST_TIMEOUT_S))
        http = Http(session, clock=self.clock, skew=self._skew, redactor=redactor)
        endpoint = cloud.dds_endpoint
        api = Api(
            service=dds.DDS,
            endpoint=endpoint,
            http=http,
            credentials=await self._credentials(session, http, redactor),
            budget=self._budget(self._name, cloud.calls_per_minute),
            call_stats=self._call_stats,
        )
        parts = urlsplit(endpoint)
        on_loopback = parts.scheme == "http" and is_loopback(parts.hostname or "")
        rule = LinkRule(hosts=cloud.allowed_link_hosts, plain_http=on_loopback)
        return Calls(api=api, rule=rule, skew=self._skew)

    def connect(
        self, *, read_timeout_s: float, most_connections: int = MOST_CALLS, resolver: AbstractResolver | None = None
    ) -> aiohttp.ClientSession:
        """Make an HTTP session to the cloud, as its account and the settings have it."""
        return new_session(
            ca_file=self.cloud.ca_file,
            proxy=self.cloud.proxy,
            connect_timeout_s=self.settings.download.connect_timeout.total_seconds(),
            read_timeout_s=read_timeout_s,
            most_connections=most_connections,
            resolver=resolver,
        )

    async def caller(self, redactor: Redactor) -> Caller:
        """Build what makes single calls: once, with little patience.

        Raises:
            ConfigError: The file of trusted certificates cannot be used.
        """
        session = new_session(
            ca_file=self.cloud.ca_file,
            proxy=self.cloud.proxy,
            connect_timeout_s=PATIENCE_S,
            read_timeout_s=PATIENCE_S,
        )
        await self._stack.enter_async_context(session)
        http = Http(session, clock=self.clock, skew=self._skew, redactor=redactor)
        credentials = await self._credentials(session, http, redactor)
        return Caller(endpoint=self.cloud.dds_endpoint, http=http, credentials=credentials)

    async def _credentials(self, session: aiohttp.ClientSession, http: Http, redactor: Redactor) -> Credentials:
        identity = IdentityService(
            self._name,
            endpoint=self.cloud.identity_endpoint,
            http=Http(
                session,
                clock=self.clock,
                skew=self._identity_skew,
                redactor=redactor,
                max_body=response_limits.MAX_LOGIN_BODY,
                max_header=response_limits.MAX_LOGIN_HEADER,
            ),
            call_stats=self._call_stats,
            budget=self._budget(f"{self._name} (logins)", LOGINS_PER_MINUTE),
        )
        match self.cloud.auth:
            case TokenAuth() | PasswordAuth() as auth:
                return self._by_token(auth, identity, redactor)
            case AccessKeyAuth() | MetadataAuth() as auth:
                return await self._by_key(auth, identity, http, redactor)

    def _by_token(self, auth: TokenAuth | PasswordAuth, identity: IdentityService, redactor: Redactor) -> Credentials:
        if isinstance(auth, TokenAuth):
            project_id = self.cloud.project_id or ""
            return GivenToken(auth.token, project_id=project_id, identity=identity, clock=self.clock, redactor=redactor)
        owner = auth.assume_role or auth
        return PasswordLogin(
            auth,
            identity=identity,
            project=self._project(domain=owner.domain_name),
            server_now=identity.now,
            clock=self.clock,
            redactor=redactor,
        )

    async def _by_key(
        self, auth: AccessKeyAuth | MetadataAuth, identity: IdentityService, http: Http, redactor: Redactor
    ) -> Credentials:
        project, signer = self._project(), Signer(server_now=http.now)
        if isinstance(auth, AccessKeyAuth):
            return AccessKey(
                auth, project=project, identity=identity, signer=signer, clock=self.clock, redactor=redactor
            )
        service = await self._metadata(auth.address, redactor)
        return MetadataKeys(
            service, project=project, identity=identity, signer=signer, clock=self.clock, redactor=redactor
        )

    def _project(self, *, domain: str = "") -> ProjectName:
        cloud = self.cloud
        return ProjectName(id=cloud.project_id or "", name=cloud.project_name or cloud.region or "", domain=domain)

    async def _metadata(self, address: str, redactor: Redactor) -> MetadataService:
        """Reach the metadata service by a session of its own: through no proxy, and with little patience."""
        session = new_session(
            ca_file=self.cloud.ca_file,
            proxy=None,
            connect_timeout_s=metadata_client.TIMEOUT_S,
            read_timeout_s=metadata_client.TIMEOUT_S,
        )
        await self._stack.enter_async_context(session)
        http = Http(session, clock=self.clock, skew=Skew(), max_body=response_limits.MAX_LOGIN_BODY)
        return MetadataService(address=address, http=http, redactor=redactor)

    def _budget(self, name: str, calls_per_minute: int) -> Budget:
        budget = Budget(calls_per_minute=calls_per_minute, clock=self.clock, name=name)
        self._stack.callback(budget.close)
        return budget
