"""The sandbox: IAM, DDS and object store on one port of loopback."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self

from aiohttp import web

from ddslogd.sandbox.clock import CloudClock, utc_now
from ddslogd.sandbox.dds.api import Dds
from ddslogd.sandbox.dds.exports import CloudRules
from ddslogd.sandbox.dds.instances import Estate
from ddslogd.sandbox.dds.log_kinds import KINDS, LogKind
from ddslogd.sandbox.dds.topology import default_fleet
from ddslogd.sandbox.error_responses import gateway_refusal
from ddslogd.sandbox.faults import Faults
from ddslogd.sandbox.iam.access_keys import AccessKeys
from ddslogd.sandbox.iam.metadata_service import KEY_LIFE, Metadata
from ddslogd.sandbox.iam.service import Iam, IamUser
from ddslogd.sandbox.obs.object_response import Delivery
from ddslogd.sandbox.obs.object_store import ObjectStore
from ddslogd.sandbox.request_log import Journal

if TYPE_CHECKING:
    from collections import Counter, deque
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ddslogd.sandbox.dds.topology import Fleet, SandboxInstance
    from ddslogd.sandbox.iam.access_keys import TemporaryKey
    from ddslogd.sandbox.iam.service import TokenCheck
    from ddslogd.sandbox.request_log import Handler, RequestRecord

_HOST = "127.0.0.1"
_DEFAULT_FLEET = default_fleet()
# Long enough for a reply that is on its way, too short to wait for one that a fault holds back.
_LONGEST_HEADER = 128 * 1024  # bytes: tokens grow with the roles of their user
_PATIENCE_S = 0.05


class Sandbox:
    """A cloud on loopback. It serves between ``start`` and ``stop``, or inside ``async with``.

    Args:
        fleet: The instances it has at first.
        now: Its only clock; aware.
        speed: Divides every duration of the cloud: exports, freshness, the lives of tokens and links, lockouts.
        window: Bytes of a node's newest log that an export holds.
        lines_per_second: Of each node, by the clock; a fifth of it in the slow log; 0 where only ``write`` writes.
        backlog: How much log there is before the start.
        seed: Decides the lines and how long each export takes.
        token_life: Before the division.
        token_length: Characters that a token has at least, as those of users with many roles do.
        link_life: From the reply on, before the division; rounded up to whole seconds, as a link has no others.
        fresh_for: How long an export's files are served before a call begins a new one, before the division.
        faults: What goes wrong; its fields may be changed at any time.
        port: 0 for a free one, which it keeps when it is started again.
        export_takes: Seconds, from and to, before the division.
        export_jitter: None where each export of each node takes a time of its own between them. Else an instance's
            exports take about the same time, and differ from it by that many seconds at the most.
        keep_exports: Of each node and kind of log, whose objects are kept.
        project_id: Of its only project; None for one of its own.
        token_check: Says which tokens are good where another identity service issues them; its own are good no more.
        agency_only: The instances are another domain's: a token for them is got by the agency only.
    """

    def __init__(  # noqa: PLR0913 - each is a dial of the cloud with a default, none belongs to another
        self,
        *,
        fleet: Sequence[SandboxInstance] = _DEFAULT_FLEET,
        now: Callable[[], datetime] = utc_now,
        speed: float = 1.0,
        window: int = 40_000_000,
        lines_per_second: float = 2.0,
        backlog: timedelta = timedelta(hours=1),
        seed: int = 0,
        token_life: timedelta = timedelta(hours=24),
        token_length: int = 0,
        link_life: timedelta = timedelta(minutes=5),
        fresh_for: timedelta = timedelta(minutes=15),
        faults: Faults | None = None,
        port: int = 0,
        export_takes: tuple[float, float] = (8.0, 25.0),
        export_jitter: float | None = None,
        keep_exports: int = 64,
        project_id: str | None = None,
        token_check: TokenCheck | None = None,
        agency_only: bool = False,
    ) -> None:
        self.speed = speed
        self._account = IamUser(project_id=project_id) if project_id else IamUser()
        self._account.agency_only = agency_only
        self.rules = CloudRules(
            project_id=self._account.project_id,
            window=window,
            lines_per_second=lines_per_second,
            backlog=backlog,
            takes=export_takes,
            jitter=export_jitter,
            fresh_for=fresh_for,
            link_life=link_life,
            keep=keep_exports,
            seed=seed,
        )
        self._clock = CloudClock(now, speed=speed, faults=faults or Faults())
        self._keys = AccessKeys(self._account.project_id, self._clock, seed=seed)
        self._metadata = Metadata(self._keys, self._clock)
        self._iam = Iam(
            self._account, self._keys, self._clock, life=token_life, seed=seed, check=token_check, least=token_length
        )
        self._store = ObjectStore(self._clock)
        self._journal = Journal(self._clock)
        self._estate = Estate(fleet, rules=self.rules, store=self._store, clock=self._clock)
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; the endpoints hold from here on."""
        # A handler ends with its connection, so that one which a fault holds back does not outlive its client.
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_PATIENCE_S,
            max_field_size=_LONGEST_HEADER,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection; what the cloud knows stays for another start."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def endpoint(self) -> str:
        """Return where DDS is; its links point there too."""
        return f"http://{_HOST}:{self._port}"

    @property
    def iam_endpoint(self) -> str:
        """Return where IAM is."""
        return self.endpoint

    @property
    def metadata_endpoint(self) -> str:
        """Return where the metadata service is."""
        return self.endpoint

    @property
    def faults(self) -> Faults:
        """Return what goes wrong: set its fields."""
        return self._clock.faults

    @property
    def project_id(self) -> str:
        """Return the only project's id."""
        return self._account.project_id

    @property
    def project_name(self) -> str:
        """Return the only project's name."""
        return self._account.project_name

    @property
    def domain_name(self) -> str:
        """Return the domain of the only user."""
        return self._account.domain_name

    @property
    def user_name(self) -> str:
        """Return the only user's name."""
        return self._account.user_name

    @property
    def password(self) -> str:
        """Return the only user's password; to set it is to change it."""
        return self._account.password

    @password.setter
    def password(self, password: str) -> None:
        self._account.password = password

    @property
    def access_key(self) -> str:
        """Return the only user's lasting access key; to set it is to change it."""
        return self._keys.access

    @access_key.setter
    def access_key(self, access_key: str) -> None:
        self._keys.access = access_key

    @property
    def secret_key(self) -> str:
        """Return the secret key that goes with it; to set it is to change it."""
        return self._keys.secret

    @secret_key.setter
    def secret_key(self, secret_key: str) -> None:
        self._keys.secret = secret_key

    @property
    def calls(self) -> Counter[str]:
        """Return how many requests of each kind came, faults included."""
        return self._journal.calls

    @property
    def requests(self) -> deque[RequestRecord]:
        """Return the newest requests, oldest first."""
        return self._journal.requests

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes of objects went to sockets; no headers, no error bodies."""
        return self._journal.bytes_sent

    @property
    def agency_name(self) -> str:
        """Return the agency by which the user acts in the other domain."""
        return self._account.agency_name

    @property
    def agency_domain_name(self) -> str:
        """Return the domain that the agency is of; it has the project too, and alone with ``agency_only``."""
        return self._account.agency_domain_name

    def issue_token(self) -> str:
        """Return a token for the user's own project, as a login would; with ``agency_only`` that is another project."""
        return self._iam.issue()

    def revoke_tokens(self) -> None:
        """End every token there is."""
        self._iam.revoke()

    @property
    def fleet(self) -> Fleet:
        """Return the instances that are there now."""
        return self._estate.fleet

    def add(self, instance: SandboxInstance) -> None:
        """Put an instance there; one with the same id is changed into it and keeps its logs."""
        self._estate.add(instance)

    def remove(self, name_or_id: str) -> None:
        """Take an instance away: to clients it is unknown, to ``log_of`` and its like it is not."""
        self._estate.remove(name_or_id)

    def issue_key(self, life: timedelta = KEY_LIFE) -> TemporaryKey:
        """Return a temporary access key, as IAM's call for security tokens would."""
        return self._keys.issue(life)

    def revoke_keys(self) -> None:
        """End every temporary key there is; the metadata service has another one then."""
        self._metadata.revoke()

    def log_of(self, node_name: str, kind: LogKind = "error") -> bytes:
        """Return everything the node has ever written, up to now; KeyError where it has no log of the kind."""
        return bytes(self._estate.node(node_name, kind).log.content)

    def exports_of(self, node_name: str, kind: LogKind = "error") -> list[bytes]:
        """Return what the node's finished exports held, oldest first; replaced bytes follow those they replaced."""
        return list(self._estate.node(node_name, kind).contents)

    def write(self, node_name: str, data: bytes, kind: LogKind = "error") -> None:
        """Append to a node's log."""
        self._estate.node(node_name, kind).log.content.extend(data)

    def rewrite(self, node_name: str, data: bytes, kind: LogKind = "error") -> None:
        """Replace the content of a node's log, as of one that was rotated or repaired has."""
        self._estate.node(node_name, kind).log.content[:] = data

    def replace_object(self, node_name: str, data: bytes, kind: LogKind = "error") -> None:
        """Replace the bytes of the node's newest object, and so its ETag, under the same key."""
        self._estate.node(node_name, kind).replace(data)

    def finish_exports(self) -> None:
        """Bring every export under way to its end, now."""
        self._estate.settle()

    def _sign(self, key: str, expires: int) -> str:
        return self._store.link(self.endpoint, key, expires=expires)

    def _application(self) -> web.Application:
        dds = Dds(self._estate, rules=self.rules, iam=self._iam, clock=self._clock, sign=self._sign)
        delivery = Delivery(self._store, self.faults, self._journal.sent)
        instance = "/v3/{project}/instances/{instance}"
        # The first route that fits is taken; a bucket fits everything.
        routes: tuple[tuple[str, str, str, Handler], ...] = (
            ("POST", "/v3/auth/tokens", "login", self._iam.login),
            ("GET", "/v3/auth/tokens", "token", self._iam.token),
            ("GET", "/v3/projects", "projects", self._iam.projects),
            ("GET", "/v3/{project}/instances", "instances", dds.instances),
            *(
                ("POST", f"{instance}/{kind.call}", kind.call, partial(dds.download, kind=name))
                for name, kind in KINDS.items()
            ),
            ("PUT", "/meta-data/latest/api/token", "metadata-token", self._metadata.token),
            ("GET", "/openstack/latest/securitykey", "securitykey", self._metadata.security_key),
            ("*", "/v3/{path:.*}", "other", _no_such_api),
            ("*", "/{bucket}/{key:.+}", "object", delivery.serve),
        )
        application = web.Application()
        for method, path, kind, handler in routes:
            application.router.add_route(method, path, self._journal.watch(kind, handler))
        application.on_response_prepare.append(self._journal.stamp)
        return application


async def _no_such_api(_: web.Request) -> web.StreamResponse:
    raise gateway_refusal(404, "APIGW.0101", "The API does not exist or has not been published in the environment.")
