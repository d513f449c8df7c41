"""The configuration: YAML in, ``Settings`` out, or every complaint about the file at once.

Each section is a model that says what it takes. Rules that look at more than one value (``Section.rules``) read the
values as they came, so that one bad value hides no other complaint. Defaults stand here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import cached_property
from itertools import takewhile
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from ddslogd import yamltree
from ddslogd.cloud.regions import endpoints, regions
from ddslogd.errors import Complaint, ConfigError
from ddslogd.models import Cron, Every, Instance, LogKind
from ddslogd.pacing import bucket
from ddslogd.values import (
    SAID_OF_KEY,
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
    Section,
    Service,
    Size,
    Text,
    Timezone,
    complaint,
    cron_that_fires,
    domain_of,
    guess,
    host_of,
    known_timezone,
    read_duration,
    shortest_gap,
    spell_duration,
    spell_size,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ddslogd.yamltree import Location, Tree

CALLS_PER_CYCLE: Final = Fraction(11, 5)
"""One call starts an export, one finds it ready, and one cycle in five needs another; measured by bench_calls.

Less where exports of an instance take about the same time. The first cycle costs one more; renewals of links are rare.
"""

_SECOND: Final = timedelta(seconds=1)
_INSTANT: Final = timedelta(milliseconds=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE_US: Final = 60_000_000
_AUTH_KEYS: Final = frozenset(
    {
        *("method", "token", "username", "password", "domain_name", "access_key", "secret_key", "security_token"),
        *("assume_role", "agency_name", "address", "env", "file", "credential"),
    },
)
_BY_PROJECT: Final = ("password", "access_key", "metadata")
Interval = Annotated[Duration, AfterValidator(within(_SECOND, 31 * _DAY))]
Wait = Annotated[Duration, AfterValidator(within(_INSTANT, _HOUR))]
Limit = Annotated[Duration, AfterValidator(within(_INSTANT, _DAY))]
Age = Annotated[Duration, AfterValidator(within(timedelta(minutes=1), 3650 * _DAY))]
Margin = Annotated[Duration, AfterValidator(within(timedelta(), timedelta(minutes=3)))]

NAMES: Final = "<names>"
DISCOVERS: Final = "<discovers>"
"""The two kinds of entries under instances, in pydantic's words only: no key of the file can be taken for them."""

_SMALLEST_SIZE: Final = 1024**2
"""No default this large is a mere number."""
_SAME_FILES: Final = "the cloud would serve the same files"
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


class Secret(Section):
    """Where a secret is found: an environment variable, a file or a systemd credential. Never the secret itself."""

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
    """An IAM token, read anew whenever the cloud refuses the last one."""


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
    """The secret key that goes with it, read anew for each call."""
    security_token: Secret | None = None
    """The security token of a temporary key."""


class MetadataAuth(Section):
    """The keys that a cloud server gets from its metadata service, by the agency that is bound to it."""

    method: Literal["metadata"]
    address: MetadataAddress = "http://169.254.169.254"
    """The metadata service; never asked through a proxy."""


class Cloud(Section):
    """One account in one region."""

    tagged: ClassVar[str] = "auth"

    region: Text | None = None
    """The region, as eu-west-101: gives the endpoints and the project's name of clouds that are known."""
    endpoint: Service | None = None
    """The DDS service: https, or http on a loopback address; default the region's."""
    iam_endpoint: Service | None = None
    """The IAM service of the same region; default the region's."""
    project_id: ProjectId | None = None
    """The project's id; where it is missing, it is looked up."""
    project_name: Text | None = None
    """The project's name, in place of the id; default the region."""
    auth: Annotated[TokenAuth | PasswordAuth | AccessKeyAuth | MetadataAuth, Field(discriminator="method")]
    """Who ddslogd says it is."""
    calls_per_minute: int = Field(default=60, strict=True, ge=1, le=12_000)
    """The account's budget of calls, retries included."""
    link_hosts: tuple[HostPattern, ...] = ()
    """Hosts that links may point to, as host or *.domain; empty for the endpoint's own domain."""
    ca_file: AbsolutePath | None = None
    """Certificates to trust in place of the host's, PEM."""
    proxy: Origin | None = None
    """An HTTP proxy on the way to the cloud."""

    @property
    def allowed_link_hosts(self) -> tuple[str, ...]:
        """Give the hosts that links may point to, in lower case: a host itself, or ``*.`` and a domain."""
        return tuple(host.lower() for host in self.link_hosts) or (domain_of(host_of(self.dds_endpoint)),)

    @property
    def dds_endpoint(self) -> str:
        """Give the base URL of DDS, without a slash at its end."""
        known = endpoints(self.region) if self.region else None
        return (self.endpoint or (known.dds if known else "")).rstrip("/")

    @property
    def identity_endpoint(self) -> str:
        """Give the base URL of IAM, without a slash at its end; empty where none is known."""
        known = endpoints(self.region) if self.region else None
        return (self.iam_endpoint or (known.iam if known else "")).rstrip("/")

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check that the method has what it needs, and where what is missing comes from."""
        given = {key for key in ("endpoint", "iam_endpoint", "project_id", "project_name") if raw.get(key) is not None}
        region, method = raw.get("region"), _given(raw.get("auth"), "method")
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
    """An interval; each instance has a phase of its own in it."""
    cron: CronExpression | None = None
    """Five cron fields, in place of every."""
    timezone: Timezone = "UTC"
    """What cron is read in, an IANA name; instances with a cron of their own take it over."""
    refresh: Interval = timedelta(minutes=15)
    """How often the clouds are asked which instances there are."""
    cycle_timeout: Limit = _HOUR
    """A cycle that hangs is ended after it."""
    adapt: bool = Field(default=True, strict=True)
    """Whether an instance that fills more than half an export between two ticks has its next tick sooner."""

    @property
    def when(self) -> Every | Cron:
        """Give the schedule of the instances that have none of their own."""
        return _when(self.every, self.cron, self.timezone) or Every(interval=_default(Schedule, "every"))

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

    first_poll: Wait = 10 * _SECOND
    """The wait before the second call, until an instance's exports have shown how long they take."""
    max_poll: Wait = Field(default=30 * _SECOND, validate_default=True)
    """The longest wait between two calls."""
    give_up_after: Limit = Field(default=timedelta(minutes=10), validate_default=True)
    """Rows that are not ready by then have failed."""
    fresh_for: Limit = timedelta(minutes=15)
    """How long the cloud serves the same files before it exports anew. A fact of the cloud: leave it."""

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
    stall_timeout: Wait = 60 * _SECOND
    """Silence on a connection that ends it; there is no limit on the whole transfer."""
    connect_timeout: Wait = 10 * _SECOND
    """A connection must stand within it."""
    renew_before: Margin = 30 * _SECOND
    """A link with less life than this is renewed before it is used; the shortest life seen is 3 minutes."""
    attempts: int = Field(default=5, strict=True, ge=1, le=100)
    """Tries per file in one cycle."""
    verify: Literal["md5", "length"] = "md5"
    """What proves a file whole: its MD5 where the object store gives one, or its length alone, which takes less of the
    processor."""
    max_size: Size = Field(default=1024**3, ge=1)
    """A file larger than this is refused; the cloud's own limit is 40 MB."""
    delta: Literal["auto", "off"] = "auto"
    """Whether only what the node's last file does not hold is fetched, where the ETag can prove it."""


class Rotate(Section):
    """When a stream's live file is rotated away, before something is appended."""

    size: Size = Field(default=100 * 1024**2, ge=1)
    """It would grow larger than this."""
    every: Age = _DAY
    """Its first line came that long ago."""


class Stream(Section):
    """One continuous log per node and kind, in which every line stands once."""

    enabled: bool = Field(default=True, strict=True)
    """Whether there are streams beside the snapshots."""
    rotate: Rotate = Field(default_factory=Rotate)
    """When its live file is renamed to <node>.log.<UTC time>, and a new one begins."""


class Limits(Section):
    """How long, and how much, of one kind of file is kept."""

    age: Age | None = None
    """Older files go; default that of storage.keep."""
    size: Size | None = Field(default=None, ge=1)
    """While there is more, the oldest go; default that of storage.keep."""


class Keep(Section):
    """How long files are kept, for each kind of them: snapshots, and files that streams have rotated away."""

    age: Age | None = 30 * _DAY
    """Older files go; null: none goes for its age."""
    size: Size | None = Field(default=50 * 1024**3, ge=1)
    """While there is more of a kind, its oldest go; null: none goes for its size."""
    snapshots: Limits = Field(default_factory=Limits)
    """Other limits for snapshots."""
    streams: Limits = Field(default_factory=Limits)
    """Other limits for streams."""

    def limits(self, own: Limits) -> Limits:
        """Give the limits of one kind."""
        return Limits(age=own.age or self.age, size=own.size or self.size)


class ShipperBooks(Section):
    """The shipper that reads what is stored, so that nothing goes before it was read."""

    kind: Literal["filebeat", "vector", "fluent-bit", "promtail", "rsyslog", "none"] = "none"
    """Which program; none: nothing is known of what was read."""
    registry: AbsolutePath | None = None
    """Where it notes what it has read: a file or a directory, as the README says of each."""

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
    """The logs: snapshots/<instance>/<node>/… and streams/<instance>/…"""
    state: AbsolutePath = Path("/var/lib/ddslogd")
    """The ledger of what is on disk."""
    keep_free: Size = Field(default=2 * 1024**3, ge=0)
    """Below this much free room old files make room, and if that is not enough, nothing is requested."""
    snapshots: Literal["all", "latest"] = "all"
    """all: as long as keep says; latest: of each node only what the next export is compared with."""
    keep: Keep = Field(default_factory=Keep)
    """How long files stay."""
    shipper: ShipperBooks = Field(default_factory=ShipperBooks)
    """What reads them meanwhile."""
    sha256: bool = Field(default=False, strict=True)
    """Whether the ledger holds a SHA-256 of each file beside its MD5; costs a second pass of arithmetic, no reading."""


class Health(Section):
    """What counts as fresh."""

    target_factor: float = Field(default=2.0, ge=1, le=100)
    """An instance is stale once its last good cycle is older than so many times its schedule's usual interval."""

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
    """Address and port, as 127.0.0.1:9464 or [::1]:9464. Whoever reaches it can read it: there is no login."""
    hosts: tuple[HostName, ...] = ()
    """By which names it may be asked for, beside loopback's and addresses; others are refused (DNS rebinding)."""

    @property
    def address(self) -> tuple[str, int]:
        """Give host and port to listen on."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def reached(self) -> tuple[str, int]:
        """Give the host and port at which a program on this host finds it."""
        host, port = self.address
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104  # compared, not bound


def _kinds_once(kinds: tuple[LogKind, ...]) -> tuple[LogKind, ...]:
    if len(set(kinds)) < len(kinds):
        raise complaint("names a kind twice")
    return kinds


Kinds = Annotated[tuple[LogKind, ...], Field(min_length=1), AfterValidator(_kinds_once)]


class Discover(Section):
    """Which of a cloud's instances are collected from; without any key, all."""

    include: tuple[Text, ...] = ()
    """Patterns of names (*, ?, [abc]), one of which must fit; empty for all."""
    exclude: tuple[Text, ...] = ()
    """Patterns of names, none of which may fit."""
    tags: dict[Text, str] = Field(default_factory=dict)
    """Tags that an instance must have, with their values."""
    modes: tuple[Literal["Sharding", "ReplicaSet", "Single"], ...] = ()
    """Kinds of instances; empty for all."""
    statuses: tuple[Text, ...] = ()
    """States as the cloud words them, as normal; empty for all."""


class Collected(Section):
    """What every entry under instances says, however it finds its instances."""

    cloud: Name | None = None
    """An entry under clouds; optional where there is one."""
    logs: Kinds = (LogKind.ERROR,)
    """Which logs are collected: error, slow."""
    every: Interval | None = None
    """Overrides schedule."""
    cron: CronExpression | None = None
    """Overrides schedule."""
    timezone: Timezone | None = None
    """What this entry's cron is read in; default schedule.timezone."""

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
    """The instance's id: 32 hex digits and in02."""
    name: Name | None = None
    """The name of its directory; default the id."""
    nodes: tuple[NodeId, ...] = ()
    """Ids of the nodes to collect; empty for all."""


def _variant(entry: object) -> str:
    discovers = isinstance(entry, DiscoverEntry) or (isinstance(entry, Mapping) and "discover" in entry)
    return DISCOVERS if discovers else NAMES


Entry = Annotated[
    Annotated[InstanceEntry, Tag(NAMES)] | Annotated[DiscoverEntry, Tag(DISCOVERS)], Discriminator(_variant)
]


class Settings(Section):
    """The whole configuration of ddslogd."""

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

    def fleet(self) -> tuple[Instance, ...]:
        """Give the instances that are named, with every default applied, in the order of the file."""
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

    def calls_a_minute(self, cloud: str) -> Fraction:
        """Give the calls a minute that the schedules need for the named instances of a cloud, where ticks are closest.

        Of instances that are discovered nothing is known here.
        """
        cycles = Counter((one.schedule, len(one.logs)) for one in self.fleet() if one.cloud == cloud)
        return _need((_closest(when), kinds * number) for (when, kinds), number in cycles.items())

    def discover_entries(self, cloud: str) -> tuple[tuple[str, DiscoverEntry], ...]:
        """Give the entries that discover in a cloud, each with its place in the file, as ``instances[2]``."""
        only = next(iter(self.clouds))
        return tuple(
            (f"instances[{index}]", entry)
            for index, entry in enumerate(self.instances)
            if isinstance(entry, DiscoverEntry) and (entry.cloud or only) == cloud
        )

    def places(self) -> dict[str, str]:
        """Give the places of the entries that name an instance, by its id."""
        entries = ((index, entry) for index, entry in enumerate(self.instances) if isinstance(entry, InstanceEntry))
        return {entry.id: f"instances[{index}]" for index, entry in entries}

    def discovered(self, entry: DiscoverEntry, *, id_: str, name: str, cloud: str) -> Instance:
        """Give an instance that an entry discovers, with every default applied."""
        return Instance(id=id_, name=name, cloud=cloud, logs=entry.logs, schedule=self._schedule_of(entry))

    def _schedule_of(self, entry: Collected) -> Every | Cron:
        own = _when(entry.every, entry.cron, entry.timezone or self.schedule.timezone)
        return own or self.schedule.when

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
        """Check what sections say of each other."""
        entries = _entries(raw)
        yield from _unknown_clouds(entries, raw.get("clouds"))
        yield from _taken(entries)
        yield from _cut_short(raw)
        if _given(raw.get("storage"), "snapshots") == "latest" and _given(raw.get("stream"), "enabled") is False:
            yield ("storage", "snapshots"), "latest needs stream.enabled: else the lines of older ones would be lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that can be used, and what the operator should still hear about it."""

    settings: Settings
    warnings: tuple[Complaint, ...]


def load(path: Path) -> Loaded:
    """Read one file.

    Raises:
        ConfigError: Holds every complaint, also the one about a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        text = f"cannot be read: {exc.strerror or exc}"
        raise ConfigError(path, [Complaint(line=0, column=0, path="", text=text)]) from exc
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line, column = yamltree.position(content[: exc.start].decode())
    else:
        return parse(text, path)
    raise ConfigError(path, [Complaint(line=line, column=column, path="", text="is not UTF-8 text")])


def parse(text: str, file: str | Path) -> Loaded:
    """Read a configuration from its text; ``file`` only names it in complaints.

    Raises:
        ConfigError: Holds every complaint, warnings too.
    """
    tree = yamltree.read(text)
    complaints = [
        Complaint(line=found.line, column=found.column, path=_path(found.loc), text=found.text)
        for found in tree.findings
    ]
    settings = None
    if isinstance(tree.value, Mapping):
        try:
            settings = Settings.model_validate(tree.value)
        except ValidationError as exc:
            complaints += _complaints(tree, exc)
        complaints += [_placed(tree, where, said, warning=True) for where, said in _warnings(tree.value)]
    elif not complaints:
        empty = "the file is empty: it needs clouds and instances"
        complaints.append(_placed(tree, (), empty if tree.value is None else "must be a mapping of keys to values"))
    if settings is None or not all(found.warning for found in complaints):
        raise ConfigError(file, complaints)  # outside of any except clause: foreign errors may quote the file
    return Loaded(settings=settings, warnings=tuple(sorted(complaints)))


def schema() -> dict[str, Any]:
    """Give the JSON schema of the file, draft 2020-12, for editors."""
    return {"$schema": _DRAFT, **Settings.model_json_schema(schema_generator=_InOurSpelling)}


class _InOurSpelling(GenerateJsonSchema):
    """Writes defaults as the file would."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return spell_duration(dft)
            case int() if dft >= _SMALLEST_SIZE:
                return spell_size(dft)
            case _:
                return super().encode_default(dft)


def _complaints(tree: Tree, exc: ValidationError) -> Iterator[Complaint]:
    """Turn what pydantic found into complaints, less what the tree could not read in the first place."""
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        if error["loc"] not in tree.unread:
            yield _placed(tree, error["loc"], error["msg"], key=error["type"] == SAID_OF_KEY)


def _placed(tree: Tree, loc: Location, text: str, *, key: bool = False, warning: bool = False) -> Complaint:
    line, column = tree.place(loc, key=key)
    return Complaint(line=line, column=column, path=_path(loc), text=text, warning=warning)


def _path(loc: Location) -> str:
    """Render a path. Below ``auth`` it ends at the first unknown key: ``token: {hunter2}`` makes a key of a secret."""
    if loc[:1] == ("clouds",) and loc[2:3] == ("auth",):
        loc = (*loc[:3], *takewhile(_AUTH_KEYS.__contains__, loc[3:]))
    return yamltree.path_of(loc)


def _given(section: object, key: str) -> Any:
    """Look into a section that is still raw, or is a model already; None where it is neither, or has no such key."""
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


def _default(section: type[Section], name: str) -> Any:
    return section.model_fields[name].default


def _timing(section: type[Section], raw: object, name: str) -> timedelta:
    """Read a duration of a raw section; its default where there is none that can be read."""
    try:
        return read_duration(_given(_given(raw, section.__name__.lower()), name))
    except PydanticCustomError:
        duration: timedelta = _default(section, name)
        return duration


def _when(every: timedelta | None, cron: str | None, timezone: str) -> Every | Cron | None:
    if cron is not None:
        return Cron(expression=cron, timezone=timezone)
    return None if every is None else Every(interval=every)


def _one_schedule(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    if raw.get("every") is not None and raw.get("cron") is not None:
        yield ("cron",), "cannot stand beside every: keep one of them"


def _cut_short(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Find a cycle that ends before its export is given up: at its limit, or at the export's if that alone is given."""
    limit, give_up = _timing(Schedule, raw, "cycle_timeout"), _timing(Export, raw, "give_up_after")
    if limit >= give_up:
        return
    if _given(raw.get("schedule"), "cycle_timeout") is None:
        text = f"is {spell_duration(give_up)}, above schedule.cycle_timeout ({spell_duration(limit)})"
        yield ("export", "give_up_after"), text
    else:
        text = f"is {spell_duration(limit)}, below export.give_up_after ({spell_duration(give_up)})"
        yield ("schedule", "cycle_timeout"), text


def _entries(raw: object) -> list[object]:
    """Give the raw entries under instances; nothing where that is no list."""
    entries = _given(raw, "instances")
    return list(entries) if isinstance(entries, list | tuple) else []


def _unknown_clouds(entries: list[object], clouds: object) -> Iterator[tuple[Location, str]]:
    """Find entries that name no known cloud, or none where there are several."""
    if not isinstance(clouds, Mapping) or not clouds:
        return
    for index, entry in enumerate(entries):
        match _given(entry, "cloud"):
            case str(cloud) if cloud not in clouds:
                yield ("instances", index, "cloud"), f"there is no {cloud!r} under clouds{guess(cloud, clouds)}"
            case None if len(clouds) > 1 and isinstance(entry, Mapping | Collected):
                yield ("instances", index, "cloud"), f"is missing: there are {len(clouds)} clouds to choose from"


def _taken(entries: list[object]) -> Iterator[tuple[Location, str]]:
    """Find entries whose id or name is another's, or whose name is another's id."""
    ids, names = _firsts(entries, "id"), _firsts(entries, "name")
    for index, entry in enumerate(entries):
        own_id, name = _given(entry, "id"), _given(entry, "name")
        if isinstance(own_id, str) and ids[own_id] != index:
            yield ("instances", index, "id"), f"is the id of instances[{ids[own_id]}] too"
        if isinstance(name, str) and names[name] != index:
            yield ("instances", index, "name"), f"is the name of instances[{names[name]}] too"
        elif isinstance(name, str) and ids.get(name, index) != index:
            yield ("instances", index, "name"), f"is the id of instances[{ids[name]}]"


def _firsts(entries: list[object], key: str) -> dict[str, int]:
    """Map each text under a key to the first entry that has it."""
    firsts: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if isinstance(text := _given(entry, key), str):
            firsts.setdefault(text, index)
    return firsts


def _gap(section: object, usual: timedelta | None, timezone: str) -> timedelta | None:
    """Give the shortest time between ticks of a raw section; ``usual`` where it has no schedule, None if a bad one."""
    every, cron = _given(section, "every"), _given(section, "cron")
    if every is None and cron is None:
        return usual
    try:
        if isinstance(cron, str):
            return shortest_gap(cron_that_fires(cron), known_timezone(_given(section, "timezone") or timezone))
        every = read_duration(every)
    except (PydanticCustomError, TypeError):
        return None
    return every if every >= _SECOND else None


def _warnings(raw: object) -> Iterator[tuple[Location, str]]:
    """Find what runs, but not as the operator may think."""
    schedule, entries, clouds = _given(raw, "schedule"), _entries(raw), _given(raw, "clouds")
    timezone = _given(schedule, "timezone") or _default(Schedule, "timezone")
    usual = _gap(schedule, _default(Schedule, "every"), timezone)
    gaps = [_gap(entry, usual, timezone) for entry in entries]
    fresh_for = _timing(Export, raw, "fresh_for")
    yield from _served_again(("schedule",), schedule, usual, fresh_for)
    for index, (entry, gap) in enumerate(zip(entries, gaps, strict=True)):
        yield from _served_again(("instances", index), entry, gap, fresh_for)
    if isinstance(clouds, Mapping):
        yield from _over_budget(clouds, entries, gaps)


def _served_again(
    where: Location, section: object, gap: timedelta | None, fresh_for: timedelta
) -> Iterator[tuple[Location, str]]:
    """Warn of ticks before the cloud exports anew: at the schedule, or at the limit if that alone is given."""
    if gap is None or gap >= fresh_for:
        return
    spelled, limit = spell_duration(gap), spell_duration(fresh_for)
    if _given(section, "cron") is not None:
        yield (*where, "cron"), f"has ticks {spelled} apart, below export.fresh_for ({limit}): {_SAME_FILES}"
    elif _given(section, "every") is not None:
        yield (*where, "every"), f"is {spelled}, below export.fresh_for ({limit}): {_SAME_FILES}"
    elif where == ("schedule",):
        yield ("export", "fresh_for"), f"is {limit}, above schedule.every ({spelled}): {_SAME_FILES}"


def _over_budget(
    clouds: Mapping[str, object], entries: list[object], gaps: list[timedelta | None]
) -> Iterator[tuple[Location, str]]:
    """Warn of accounts whose instances need more calls than they have."""
    only = next(iter(clouds)) if len(clouds) == 1 else None
    cycles: dict[object, list[tuple[timedelta, int]]] = {name: [] for name in clouds}
    for entry, gap in zip(entries, gaps, strict=True):
        cloud = _given(entry, "cloud") or only
        if gap is not None and isinstance(cloud, str) and cloud in cycles:
            cycles[cloud].append((gap, _kinds(entry)))
    for name, account in clouds.items():
        own = cycles[name]
        need = _need(own)
        budget = _given(account, "calls_per_minute")
        budget = budget if isinstance(budget, int) else _default(Cloud, "calls_per_minute")
        steady = bucket(budget)[1]
        if need > steady:
            calls = f"{tenths(need)} (instances: {len(own)}, {float(CALLS_PER_CYCLE):g} calls a cycle)"
            text = f"{budget} is too few (in the long run it is {steady:g}): the schedules need {calls}"
            yield ("clouds", name, "calls_per_minute"), text


def tenths(calls: Fraction) -> str:
    """Spell a number of calls, rounded up."""
    return f"{ceil(calls * 10) / 10:.1f}"


def _need(cycles: Iterable[tuple[timedelta, int]]) -> Fraction:
    """Give the calls a minute for so many exports every so often."""
    counts: Counter[timedelta] = Counter()
    for gap, number in cycles:
        counts[gap] += number
    calls = (Fraction(number * CALLS_PER_CYCLE * _MINUTE_US, gap // _MICROSECOND) for gap, number in counts.items())
    return sum(calls, Fraction())


def _kinds(entry: object) -> int:
    """Count the kinds of log of a raw entry; one where it does not say, or not rightly."""
    logs = _given(entry, "logs")
    return max(1, len(set(map(str, logs)))) if isinstance(logs, list | tuple) else 1


def _closest(schedule: Every | Cron) -> timedelta:
    """Give the shortest time between two ticks."""
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron(expression=expression, timezone=timezone):
            return shortest_gap(expression, timezone)
