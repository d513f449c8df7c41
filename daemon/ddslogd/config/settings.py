"""The settings: each section of the configuration is a model that says what it takes.

Rules between values of one section (``Section.rules``) read them as they came, so that one bad value hides no other
complaint; rules between sections are in ``rules``. Defaults are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ddslogd.config.regions import endpoints, regions
from ddslogd.config.section import Section, complaint, default_of, guess, raw_value
from ddslogd.config.types import (
    AbsolutePath,
    AccessKeyId,
    CredentialName,
    CronExpression,
    Duration,
    EnvironmentName,
    HostName,
    HostPattern,
    InstanceId,
    ListenAddress,
    MetadataAddress,
    Name,
    NodeId,
    Origin,
    ProjectId,
    Service,
    Size,
    Text,
    Timezone,
    Within,
    domain_of,
    host_of,
)
from ddslogd.model.instance import Cron, Every, Instance, LogKind
from ddslogd.model.units import spell_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddslogd.config.yaml_positions import Location

SECOND: Final = timedelta(seconds=1)
_INSTANT: Final = timedelta(milliseconds=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_BY_PROJECT: Final = ("password", "access_key", "metadata")
Interval = Annotated[Duration, Within(SECOND, 31 * _DAY)]
Wait = Annotated[Duration, Within(_INSTANT, _HOUR)]
Limit = Annotated[Duration, Within(_INSTANT, _DAY)]
Age = Annotated[Duration, Within(timedelta(minutes=1), 3650 * _DAY)]
Margin = Annotated[Duration, Within(timedelta(), timedelta(minutes=3))]

NAMES: Final = "<names>"
DISCOVERS: Final = "<discovers>"
"""The two kinds of entries under instances, in pydantic's words only: no key of the file can be taken for them."""


EXAMPLE: Final = Path("/usr/share/doc/ddslogd/examples/ddslogd.yaml")
"""Where the Debian package has a configuration to begin with."""


class Secret(Section):
    """Where a secret is found: exactly one of an environment variable, a file or a systemd credential.

    Never the secret itself.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    env: EnvironmentName | None = None
    """The name of an environment variable."""
    file: AbsolutePath | None = None
    """The absolute path of a file that holds nothing else."""
    credential: CredentialName | None = None
    """The name of a systemd credential, as in LoadCredential=."""

    @model_validator(mode="before")
    @classmethod
    def _is_a_reference(cls, raw: Any) -> Any:
        """Complain without a word of what is there: it may be the secret."""
        if isinstance(raw, cls):
            return raw
        if not isinstance(raw, Mapping):
            raise complaint(f"a secret must not stand in this file: {_REFERENCE}")
        if len(raw) != 1 or not raw.keys() <= cls.model_fields.keys() or None in raw.values():
            raise complaint(f"must hold exactly one known key: {_REFERENCE}")
        return raw


_REFERENCE: Final = "give {env: NAME}, {file: /path} or {credential: NAME}"


class TokenAuth(Section):
    """A token that somebody else renews."""

    method: Literal["token"]
    token: Secret
    """An IAM token for the project, read again for each call."""


class AssumeRole(Section):
    """An agency, by which another account lets the user work in it."""

    agency_name: Text
    """The agency's name in that account."""
    domain_name: Text
    """The name of that account, which owns the instances."""


class PasswordAuth(Section):
    """An IAM user's name and password: ddslogd asks IAM for tokens itself."""

    method: Literal["password"]
    username: Text
    """The IAM user, not the account's owner."""
    password: Secret
    """The user's password."""
    domain_name: Text
    """The name of the account that the user belongs to."""
    assume_role: AssumeRole | None = None
    """Where the instances are another account's: the agency that it has given to the user's."""


def _kind_of_key(raw: object) -> str:
    return "reference" if isinstance(raw, Mapping | Secret) else "text"


class AccessKeyAuth(Section):
    """An access key, lasting or temporary: requests are signed with it."""

    tagged: ClassVar[str] = "access_key"

    method: Literal["access_key"]
    access_key: Annotated[
        Annotated[AccessKeyId, Tag("text")] | Annotated[Secret, Tag("reference")], Discriminator(_kind_of_key)
    ]
    """The access key's id, which is no secret; or where it is found."""
    secret_key: Secret
    """The secret key that goes with it, read again for each call."""
    security_token: Secret | None = None
    """The security token of a temporary key."""


class MetadataAuth(Section):
    """The keys that a cloud server gets from its metadata service, by the agency that is bound to it."""

    method: Literal["metadata"]
    address: MetadataAddress = "http://169.254.169.254"
    """The metadata service; never asked through clouds.NAME.proxy."""


class Cloud(Section):
    """One account in one region."""

    tagged: ClassVar[str] = "auth"

    region: Text | None = None
    """The region, as eu-west-101. Fills in both endpoints and the project's name for clouds that are known: the public
    cloud, the European one, Open Telekom Cloud (eu-de), Orange (eu-west-0), Vodafone Turkey. For any other region set
    both endpoints too."""
    endpoint: Service | None = None
    """The DDS service; default the region's."""
    iam_endpoint: Service | None = None
    """The IAM service of the same region; default the region's. Needed for method password, and to look a project
    up."""
    project_id: ProjectId | None = None
    """The project's id. If it is missing, IAM is asked once: which project the token is for, or which id the name
    has."""
    project_name: Text | None = None
    """The project's name, in place of the id, which wins; default the region. All methods but token need one of region,
    project_id and project_name."""
    auth: Annotated[TokenAuth | PasswordAuth | AccessKeyAuth | MetadataAuth, Field(discriminator="method")]
    """Who ddslogd says it is."""
    calls_per_minute: int = Field(default=60, strict=True, ge=1, le=12_000)
    """The account's budget of calls, retries included."""
    link_hosts: tuple[HostPattern, ...] = ()
    """Hosts that links may point to, as host or *.domain; empty for the endpoint's own domain. An address is allowed
    only if it is listed itself."""
    ca_file: AbsolutePath | None = None
    """Certificates to trust in place of the host's, PEM; for DDS, IAM and OBS."""
    proxy: Origin | None = None
    """An HTTP proxy for DDS, IAM and OBS, without user and password. The variables https_proxy and the like are not
    read."""

    @property
    def allowed_link_hosts(self) -> tuple[str, ...]:
        """Return the hosts that links may point to, in lower case: a host itself, or ``*.`` and a domain."""
        return tuple(host.lower() for host in self.link_hosts) or (domain_of(host_of(self.dds_endpoint)),)

    @property
    def dds_endpoint(self) -> str:
        """Return the base URL of DDS, without a slash at its end."""
        known = endpoints(self.region) if self.region else None
        return (self.endpoint or (known.dds if known else "")).rstrip("/")

    @property
    def identity_endpoint(self) -> str:
        """Return the base URL of IAM, without a slash at its end; empty where none is known."""
        known = endpoints(self.region) if self.region else None
        return (self.iam_endpoint or (known.iam if known else "")).rstrip("/")

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check that the method has what it needs, and where what is missing comes from."""
        given = {key for key in ("endpoint", "iam_endpoint", "project_id", "project_name") if raw.get(key) is not None}
        region, method = raw.get("region"), raw_value(raw.get("auth"), "method")
        known = isinstance(region, str) and endpoints(region) is not None
        if "endpoint" not in given and region is None:
            yield ("endpoint",), "is missing: set it, or region"
        if isinstance(region, str) and not known and not {"endpoint", "iam_endpoint"} <= given:
            text = f"{region!r} is not known{guess(region, regions())}: set endpoint and iam_endpoint beside it"
            yield ("region",), text
            return
        named = bool({"project_id", "project_name"} & given) or region is not None
        asked = "iam_endpoint" in given or known
        if method == "password" and not asked:
            yield ("iam_endpoint",), "is missing: method password asks it for tokens"
        if method in _BY_PROJECT and not named:
            yield ("project_id",), f"is missing: method {method} needs it, or project_name or region"
        elif method != "password" and "project_id" not in given and not asked:
            yield ("project_id",), "is missing: set it, or iam_endpoint or region, to look it up"


class Schedule(Section):
    """When cycles begin: at an interval, or by cron."""

    every: Interval | None = timedelta(minutes=20)
    """An interval; each instance has a phase of its own in it. Below export.fresh_for it brings nothing, and is a
    warning."""
    cron: CronExpression | None = None
    """Five cron fields in quotes, in place of every: minute, hour, day of month, month, day of week; or @hourly,
    @daily, @weekly, @monthly, @yearly."""
    timezone: Timezone = "UTC"
    """What cron is read in; also the default for instances with a cron of their own."""
    refresh: Interval = timedelta(minutes=15)
    """How often the clouds are asked which instances there are."""
    cycle_timeout: Limit = _HOUR
    """A cycle that hangs is ended after it. Not below export.give_up_after."""
    adapt: bool = Field(default=True, strict=True)
    """Whether an instance that fills more than half an export between two scheduled runs has its next run sooner."""

    @property
    def when(self) -> Every | Cron:
        """Return the schedule of the instances that have none of their own."""
        return _when(self.every, self.cron, self.timezone) or Every(interval=default_of(Schedule, "every"))

    @model_validator(mode="before")
    @classmethod
    def _cron_replaces_every(cls, raw: Any) -> Any:
        return {"every": None, **raw} if isinstance(raw, Mapping) and raw.get("cron") is not None else raw

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check that one of every and cron is there."""
        yield from _one_schedule(raw)
        if "every" in raw and raw["every"] is None and raw.get("cron") is None:
            yield ("every",), "is empty: give it a value, or give cron"


class Export(Section):
    """How long the cloud is asked for the links of one cycle."""

    first_poll: Wait = 10 * SECOND
    """The wait before the second call, until an instance's exports have shown how long they take; from here the waits
    grow by half."""
    max_poll: Wait = Field(default=30 * SECOND, validate_default=True)
    """The longest wait between two calls; not below first_poll. If exports take longer than that, a longer one saves
    calls."""
    give_up_after: Limit = Field(default=timedelta(minutes=10), validate_default=True)
    """Files that are not ready by then have failed in this cycle. Not below max_poll."""
    fresh_for: Limit = timedelta(minutes=15)
    """How long the cloud serves the same files before it makes a new export. A fact of the cloud: leave it."""

    @field_validator("max_poll", "give_up_after")
    @classmethod
    def _is_not_below(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        lower = "first_poll" if info.field_name == "max_poll" else "max_poll"
        if lower in info.data and value < info.data[lower]:
            raise complaint(f"is {spell_duration(value)}, below {lower} ({spell_duration(info.data[lower])})")
        return value


class Download(Section):
    """How files are fetched."""

    concurrent: int = Field(default=16, strict=True, ge=1, le=256)
    """Files fetched at the same time, over all instances."""
    stall_timeout: Wait = 60 * SECOND
    """Silence on a connection that ends it; there is no limit on the whole transfer."""
    connect_timeout: Wait = 10 * SECOND
    """The time within which a connection must be made."""
    renew_before: Margin = 30 * SECOND
    """A link with less life than this is renewed before it is used; the shortest life seen is 3 minutes."""
    attempts: int = Field(default=5, strict=True, ge=1, le=100)
    """Requests in a row for one file that may bring less than 64 KiB, until the file has failed in this cycle."""
    min_rate: Size = Field(default=1024)
    """Bytes a second, over a minute. While others wait for a slot, a slower file gives its own up, which counts as one
    of its attempts, and is resumed behind them; 0: none does."""
    verify: Literal["md5", "length"] = "md5"
    """What proves a file whole: its MD5 if the object store gives one, or its length alone. The latter takes a third
    less of the processor for large files, and cannot tell whether the bytes are the same as last time."""
    max_size: Size = Field(default=1024**3, ge=1)
    """A file larger than this is refused; the cloud's own limit is 40 MB."""
    delta: Literal["auto", "off"] = "auto"
    """Whether only what the node's last snapshot does not hold is fetched, if the ETag can prove it."""


class Rotate(Section):
    """When a stream's newest file is closed, and the next line goes to a new one."""

    size: Size = Field(default=100 * 1024**2, ge=1)
    """It would grow larger than this. One append may be larger by itself."""
    every: Age = _DAY
    """Its first line came that long ago."""


class Stream(Section):
    """One continuous log per node and kind, in which every line stands once."""

    enabled: bool = Field(default=True, strict=True)
    """Whether there are streams next to the snapshots."""
    rotate: Rotate = Field(default_factory=Rotate)
    """When its newest file is closed: the next line goes to a new one, <node>/<UTC time>.log."""


class Limits(Section):
    """How long, and how much, of one kind of file is kept."""

    age: Age | None = None
    """Older files go; default that of storage.keep."""
    size: Size | None = Field(default=None, ge=1)
    """While there is more, the oldest go; default that of storage.keep."""


class Keep(Section):
    """How long files are kept, for each kind of them: snapshots, and the closed files of streams."""

    age: Age | None = 30 * _DAY
    """Older files go; null: none goes for its age."""
    size: Size | None = Field(default=50 * 1024**3, ge=1)
    """While there is more of a kind, its oldest go; null: none goes for its size."""
    snapshots: Limits = Field(default_factory=Limits)
    """Other limits for snapshots."""
    streams: Limits = Field(default_factory=Limits)
    """Other limits for streams, live files included in the size."""

    def limits(self, own: Limits) -> Limits:
        """Return the limits of one kind."""
        return Limits(age=own.age or self.age, size=own.size or self.size)


class ShipperSettings(Section):
    """The shipper that reads what is stored, so that nothing goes before it was read."""

    kind: Literal["filebeat", "vector", "fluent-bit", "alloy", "rsyslog", "none"] = "none"
    """Which program; none: nothing is known of what was read."""
    registry: AbsolutePath | None = None
    """Where it keeps its read positions: a file or a directory, by kind; see Shippers in systemd/README.md. Required
    for all but none."""

    @field_validator("kind", mode="before")
    @classmethod
    def _is_alive(cls, value: object) -> object:
        if value == "promtail":
            raise complaint(
                "Promtail has reached its end of life: use Grafana Alloy, whose positions are read with kind: alloy"
            )
        return value

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check that kind and registry go together."""
        shipper, registry = raw.get("kind", "none"), raw.get("registry")
        if shipper != "none" and registry is None:
            yield ("registry",), f"is missing: where does {shipper} note what it has read?"
        if shipper == "none" and registry is not None:
            yield ("kind",), "is missing: whose registry is it?"


class Storage(Section):
    """Where files and state are kept, and for how long."""

    directory: AbsolutePath = Path("/var/log/ddslogd")
    """The logs: snapshots/<instance>/<node>/… and streams/<instance>/… Not on NFS."""
    state: AbsolutePath = Path("/var/lib/ddslogd")
    """The ledger of what is on disk. Not on NFS."""
    keep_free: Size = Field(default=2 * 1024**3, ge=0)
    """This much of the file system of directory stays free: nothing is written that would take of it. Old files make
    room; if that is not enough, nothing is requested."""
    snapshots: Literal["all", "latest", "none"] = "latest"
    """Which files as the cloud had them stay once their lines are in a stream. all: as long as keep says, as always
    where stream.enabled is false; latest: of each node and kind the one that the next export is compared with; none:
    the stream is the only copy, and what is new is written once. What an older version left goes by keep alone."""
    keep: Keep = Field(default_factory=Keep)
    """How long files stay."""
    shipper: ShipperSettings = Field(default_factory=ShipperSettings)
    """Which program reads them."""
    sha256: bool = Field(default=False, strict=True)
    """Whether the ledger also holds a SHA-256 of each file; costs a second pass of arithmetic, no reading."""


class Health(Section):
    """What counts as fresh."""

    target_factor: float = Field(default=2.0, ge=1, le=100)
    """An instance is stale once its last good cycle ended longer ago than so many times its schedule: of every the
    interval (or export.fresh_for, if that is longer), of cron the longest time between two of the next runs."""
    source_stalled: Literal["stale", "warn"] = "stale"
    """What it means that the cloud makes no new export of a node. stale: the cycle was not good, so that the instance
    goes stale. warn: it was good, and it is only reported: for clouds that make no new file of a quiet node, which no
    document says."""

    @field_validator("target_factor", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        if isinstance(value, bool | str):
            raise complaint("must be a number, as 2 or 1.5")
        return value


class Web(Section):
    """The page, the metrics and the checks of health, over HTTP; nothing can be changed there."""

    enabled: bool = Field(default=True, strict=True)
    """Whether they are served."""
    listen: ListenAddress = "127.0.0.1:9464"
    """Address and port, as 127.0.0.1:9464 or [::1]:9464; port 0: any free one, which the event web.listening names.
    Nothing can be changed there and no secret is shown, but there is no login: whoever reaches it can read it, and
    ddslogd check warns of what is not loopback. If it cannot be had, the daemon collects all the same and tries
    again."""
    hosts: tuple[HostName, ...] = ()
    """Names it may be asked by, in addition to localhost and addresses. Others get status 421: else any web page could
    read it through the browser of somebody who can (DNS rebinding). If Prometheus asks by this host's name, add
    that."""
    socket: AbsolutePath | None = None
    """The unix socket by which ddslogd status, gaps and instances ask the daemon, also if enabled is false. Default:
    /run/ddslogd/ddslogd.sock if systemd makes that directory, as for our unit, else ddslogd.sock in storage.state. A
    unit with another RuntimeDirectory needs it set. The directory has to exist."""

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def _kinds_once(kinds: tuple[LogKind, ...]) -> tuple[LogKind, ...]:
    if len(set(kinds)) < len(kinds):
        raise complaint("names a kind twice")
    return kinds


Kinds = Annotated[tuple[LogKind, ...], Field(min_length=1), AfterValidator(_kinds_once)]


class Discover(Section):
    """Which of a cloud's instances are collected from; {} for all. Needs the right dds:instance:list.

    The first entry that matches takes an instance; an entry that names it by id wins over all.
    """

    include: tuple[Text, ...] = ()
    """Patterns of names (*, ?, [abc]; case counts), one of which must match; empty for all."""
    exclude: tuple[Text, ...] = ()
    """Patterns of names, none of which may match."""
    tags: dict[Text, str] = Field(default_factory=dict)
    """Tags that an instance must have, with their values."""
    modes: tuple[Literal["Sharding", "ReplicaSet", "Single"], ...] = ()
    """Kinds of instances; empty for all."""
    statuses: tuple[Text, ...] = ()
    """States as the cloud words them, as normal, abnormal, frozen; empty for all."""


class Collected(Section):
    """What every entry under instances says, however it finds its instances."""

    cloud: Name | None = None
    """An entry under clouds; required if there are several."""
    logs: Kinds = (LogKind.ERROR,)
    """Which logs are collected, each once. DDS has slow logs of shard and replica nodes, not of mongos and config
    nodes."""
    every: Interval | None = None
    """Overrides schedule; not with cron."""
    cron: CronExpression | None = None
    """Overrides schedule; not with every."""
    timezone: Timezone | None = None
    """What this entry's cron is read in, and only with one; default schedule.timezone."""

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check that at most one schedule is there."""
        yield from _one_schedule(raw)
        if raw.get("timezone") is not None and raw.get("cron") is None:
            yield ("timezone",), "has no effect without cron"


class DiscoverEntry(Collected):
    """Instances that are found by asking the cloud, every schedule.refresh."""

    discover: Discover
    """What an instance must be like."""


class InstanceEntry(Collected):
    """One DDS instance."""

    id: InstanceId
    """The instance's id; each once."""
    name: Name | None = None
    """The name of its directory, and in events; default the id. Each once, and no other entry's id."""
    nodes: tuple[NodeId, ...] = ()
    """Ids of the nodes to collect; empty for all."""


def _variant(entry: object) -> str:
    discovers = isinstance(entry, DiscoverEntry) or (isinstance(entry, Mapping) and "discover" in entry)
    return DISCOVERS if discovers else NAMES


Entry = Annotated[
    Annotated[InstanceEntry, Tag(NAMES)] | Annotated[DiscoverEntry, Tag(DISCOVERS)], Discriminator(_variant)
]


class Settings(Section):
    """The whole configuration of ddslogd, in YAML, UTF-8.

    A mistake is a complaint, never a guess: unknown and duplicate keys are refused, and one bad value keeps the daemon
    from starting. YAML 1.2 is read: no, 22:30 and 010 are text.

    A duration is a number and a unit, from large to small: 500ms, 10s, 20m, 1h30m, 1d; a number alone is refused. A
    size is 512KiB, 2GiB (1024), 100MB (1000), or a whole number of bytes; spelling counts: 2gb is refused.
    """

    variants = frozenset({NAMES, DISCOVERS})

    clouds: dict[Name, Cloud] = Field(min_length=1)
    """One entry per account and region."""
    schedule: Schedule = Field(default_factory=Schedule)
    export: Export = Field(default_factory=Export)
    download: Download = Field(default_factory=Download)
    storage: Storage = Field(default_factory=Storage)
    stream: Stream = Field(default_factory=Stream)
    health: Health = Field(default_factory=Health)
    web: Web = Field(default_factory=Web)
    instances: tuple[Entry, ...] = Field(min_length=1)
    """The instances whose logs are collected: each named, or found by what they are like."""

    @property
    def kept_snapshots(self) -> Literal["all", "latest", "none"]:
        """Return which snapshots stay: without streams all of them."""
        return self.storage.snapshots if self.stream.enabled else "all"

    def fleet(self) -> tuple[Instance, ...]:
        """Return the instances that are named, with every default applied, in the order of the file."""
        return self.named

    @cached_property
    def named(self) -> tuple[Instance, ...]:
        """What ``fleet`` gives: made once, it may be ten thousand."""
        cloud = next(iter(self.clouds))
        return tuple(
            Instance(
                id=entry.id,
                name=entry.name or entry.id,
                cloud=entry.cloud or cloud,
                node_ids=entry.nodes,
                logs=entry.logs,
                schedule=self._schedule_of(entry),
            )
            for entry in self.instances
            if isinstance(entry, InstanceEntry)
        )

    def discover_entries(self, cloud: str) -> tuple[tuple[str, DiscoverEntry], ...]:
        """Return the entries that discover in a cloud, each with its place in the file, as ``instances[2]``."""
        only = next(iter(self.clouds))
        return tuple(
            (f"instances[{index}]", entry)
            for index, entry in enumerate(self.instances)
            if isinstance(entry, DiscoverEntry) and (entry.cloud or only) == cloud
        )

    def places(self) -> dict[str, str]:
        """Return the places of the entries that name an instance, by its id."""
        entries = ((index, entry) for index, entry in enumerate(self.instances) if isinstance(entry, InstanceEntry))
        return {entry.id: f"instances[{index}]" for index, entry in entries}

    def discovered(self, entry: DiscoverEntry, *, id_: str, name: str, cloud: str) -> Instance:
        """Return an instance that an entry discovers, with every default applied."""
        return Instance(id=id_, name=name, cloud=cloud, logs=entry.logs, schedule=self._schedule_of(entry))

    def _schedule_of(self, entry: Collected) -> Every | Cron:
        own = _when(entry.every, entry.cron, entry.timezone or self.schedule.timezone)
        return own or self.schedule.when


def _when(every: timedelta | None, cron: str | None, timezone: str) -> Every | Cron | None:
    if cron is not None:
        return Cron(expression=cron, timezone=timezone)
    return None if every is None else Every(interval=every)


def _one_schedule(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    if raw.get("every") is not None and raw.get("cron") is not None:
        yield ("cron",), "cannot stand beside every: keep one of them"
