"""The kinds of values that a configuration holds: durations, sizes, URLs, names, cron expressions.

Each reads what an operator writes and complains in an operator's words. A complaint repeats the text only where that
cannot be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from ddslogd.config.section import complaint, guess
from ddslogd.model.addresses import address_of, is_loopback
from ddslogd.model.units import DURATION, SIZE, UnitError, read_duration, read_size, spell_duration
from ddslogd.scheduling.triggers import FIRST_DAY, timezone_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.json_schema import JsonSchemaValue

T = TypeVar("T")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_LISTEN: Final = r"(?:localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
_URL: Final = rf"(https?)://({_HOST}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?/?"
_LAST_PORT: Final = 65_535
_CRON_FIELDS: Final = 5
_CRON_NAMES = {  # crontab(5)
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""From here schedules are tried: a Monday in a leap year, and no clock is asked."""


def not_all_zero(text: str) -> str:
    """Refuse an id that stands for one that is yet to be filled in."""
    if not text[:32].strip("0"):
        raise complaint("is all zeros, and stands for an id: put yours in its place, as the console shows it")
    return text


@dataclass(frozen=True, slots=True)
class Within:
    """A duration that is neither below nor above two limits."""

    low: timedelta
    high: timedelta

    def check(self, value: timedelta) -> timedelta:
        """Return the duration if it is within the limits."""
        if value < self.low:
            raise complaint(f"must be at least {spell_duration(self.low)}")
        if value > self.high:
            raise complaint(f"must be at most {spell_duration(self.high)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        limits = f"a duration from {spell_duration(self.low)} to {spell_duration(self.high)}"
        return {**handler(schema), "$comment": limits}


@dataclass(frozen=True, slots=True)
class Matching:
    """Text that a pattern describes wholly; a complaint says what it should be and does not repeat it."""

    pattern: str
    what: str
    short: str = ""
    """What documents call it, if that is less than what a complaint has to say."""

    def check(self, text: str) -> str:
        """Return the text back if it fits."""
        if not re.fullmatch(self.pattern, text):
            raise complaint(f"must be {self.what}")
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$", "$comment": self.short or self.what}


def origin_of(text: str) -> str:
    """Read the scheme, host and port of a service; nothing else may are in its URL."""
    if not (match := re.fullmatch(_URL, text)):
        raise complaint(_url_trouble(text))
    if match[3] and not 0 < int(match[3]) <= _LAST_PORT:
        raise complaint("has a port that does not exist")
    if match[2].startswith("[") and address_of(match[2].strip("[]")) is None:
        raise complaint("has no IPv6 address between its brackets")
    return text.rstrip("/")


def _url_trouble(text: str) -> str:
    if "@" in text:
        return "must not hold a user or a password: they would stand in this file"
    if re.match(_URL, text):
        return "must end after the host and its port: no path, no query"
    return "must be a URL like https://host or https://host:port"


def service_of(text: str) -> str:
    """Read the origin of a service that credentials go to: by https, or to a loopback address."""
    origin = origin_of(text)
    if origin.startswith("http:") and not is_loopback(host_of(origin)):
        raise complaint("must begin with https://; plain http is for loopback addresses only")
    return origin


def metadata_of(text: str) -> str:
    """Read the origin of a metadata service: by https, or to an address that no router passes on."""
    origin = origin_of(text)
    host = host_of(origin)
    if origin.startswith("http:") and not is_loopback(host) and not _is_link_local(host):
        raise complaint("must begin with https://; plain http is for loopback and link-local addresses only")
    return origin


def listen_of(text: str) -> str:
    """Check that a port is one, and an address too."""
    host, _, port = text.rpartition(":")
    if int(port) > _LAST_PORT:
        raise complaint(f"has no port: the last one is {_LAST_PORT}")
    if host != "localhost" and address_of(host.strip("[]")) is None:
        raise complaint("must begin with an address of this host, as 127.0.0.1, 0.0.0.0 or [::1]")
    return text


def host_of(origin: str) -> str:
    """Return the host of an origin in lower case, an IPv6 address without its brackets."""
    match = re.fullmatch(_URL, origin)
    return match[2].strip("[]").lower() if match else ""


def _is_link_local(host: str) -> bool:
    address = address_of(host)
    # IPv4 in IPv6's form never counts: Python judges it as IPv4 from 3.13 on, and not before.
    return address is not None and address.is_link_local and getattr(address, "ipv4_mapped", None) is None


def domain_of(host: str) -> str:
    """Return the pattern of the hosts next to a service's: its domain less the service's and the region's label."""
    labels = host.split(".")
    less = min(2, len(labels) - 2)
    return host if less < 1 or address_of(host) is not None else ".".join(["*", *labels[less:]])


@lru_cache(maxsize=4096)
def cron_that_fires(expression: str) -> str:
    """Check five cron fields, or a name for them, and that they fire at some time; return the fields."""
    expression = _CRON_NAMES.get(expression, expression)
    if len(expression.split()) != _CRON_FIELDS:
        raise complaint(
            "must have five fields: minute, hour, day of month, month, day of week; or be @hourly, @daily, …"
        )
    try:
        if next(CronSim(expression, FIRST_DAY), None):
            return expression
    except (CronSimError, ValueError) as exc:
        if not _would_fire_in_other_months(expression):
            raise complaint(f"is no cron expression: {str(exc).lower()}") from None
    raise complaint("never fires: its months have no such day")


def _would_fire_in_other_months(expression: str) -> bool:
    """Return whether only day and month do not go together; cronsim calls that a bad day."""
    minute, hour, day, month, weekday = expression.split()
    return _is_cron(f"{minute} {hour} {day} * {weekday}") and _is_cron(f"* * * {month} *")


def _is_cron(expression: str) -> bool:
    try:
        CronSim(expression, FIRST_DAY)
    except (CronSimError, ValueError):
        return False
    return True


def known_timezone(name: str) -> str:
    """Check that the host knows a time zone."""
    try:
        timezone_of(name)
    except (KeyError, ValueError, OSError):
        raise complaint(f"is no time zone this host knows{guess(name, available_timezones())}") from None
    return name


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or not str(path).isprintable():
        raise complaint("must be an absolute path")
    return path


def _complaining(read: Callable[[object], T]) -> Callable[[object], T]:
    """Turn a reader's refusal into a complaint."""

    def checked(value: object) -> T:
        try:
            return read(value)
        except UnitError as exc:
            raise complaint(str(exc)) from None

    return checked


def _url(form: str) -> WithJsonSchema:
    """Return the schema of a service's URL, with its form in words."""
    return WithJsonSchema({"type": "string", "pattern": f"^{_URL}$", "$comment": form})


Duration = Annotated[
    timedelta,
    BeforeValidator(_complaining(read_duration)),
    PlainSerializer(spell_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION}$", "examples": ["20m", "1h30m", "500ms"]}),
]
Size = Annotated[
    int,
    BeforeValidator(_complaining(read_size)),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{SIZE}$"}],
            "examples": ["2GiB", "512KiB", 0],
            "$comment": "a size",
        }
    ),
]
Text = Annotated[
    str, Matching(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f]+", "text without control characters, and not empty", "text")
]
Name = Annotated[
    str,
    Matching(
        r"(?=.*\S)[^/\x00-\x1f\x7f-\x9f]+", "a name without / and control characters, and not empty", "a name without /"
    ),
]
InstanceId = Annotated[
    str,
    Matching(r"[0-9a-f]{32}in[0-9]{2}", "an instance's id: 32 digits from 0-9 and a-f, then in02"),
    AfterValidator(not_all_zero),
]
NodeId = Annotated[
    str,
    Matching(r"[0-9a-f]{32}no[0-9]{2}", "a node's id: 32 digits from 0-9 and a-f, then no02"),
    AfterValidator(not_all_zero),
]
ProjectId = Annotated[
    str,
    Matching(r"[0-9A-Za-z_-]{1,64}", "a project's id, as the console shows it", "1 to 64 letters, digits, _, -"),
    AfterValidator(not_all_zero),
]
Service = Annotated[str, AfterValidator(service_of), _url("https://host or https://host:port; http on loopback only")]
MetadataAddress = Annotated[
    str, AfterValidator(metadata_of), _url("https://host or http://host, the latter on loopback and link-local only")
]
AccessKeyId = Annotated[
    str, Matching(r"[0-9A-Za-z_-]{1,128}", "an access key's id, as the console shows it", "its id as text")
]
Origin = Annotated[str, AfterValidator(origin_of), _url("http://host:port or https://host:port")]
HostPattern = Annotated[
    str,
    Matching(
        rf"\*\.{_LABEL}(?:\.{_LABEL})+|{_HOST}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+",
        "a host, an address, or *. and a domain of at least two labels",
    ),
]
HostName = Annotated[str, Matching(_HOST, "a host's name")]
ListenAddress = Annotated[
    str,
    Matching(_LISTEN, "an address and a port to listen on, as 127.0.0.1:9464 or [::1]:9464"),
    AfterValidator(listen_of),
]
AbsolutePath = Annotated[
    Path,
    AfterValidator(_absolute),
    WithJsonSchema({"type": "string", "pattern": "^/", "$comment": "an absolute path"}),
]
CronExpression = Annotated[
    str,
    AfterValidator(cron_that_fires),
    WithJsonSchema({"type": "string", "$comment": "cron, which must fire sometime"}),
]
Timezone = Annotated[
    str,
    AfterValidator(known_timezone),
    WithJsonSchema({"type": "string", "$comment": "an IANA name that the host knows"}),
]
EnvironmentName = Annotated[
    str,
    Matching(
        r"[A-Za-z_][A-Za-z0-9_]*", "the NAME of an environment variable (letters, digits and _)", "letters, digits, _"
    ),
]
CredentialName = Annotated[
    str,
    Matching(r"(?!\.\.?$)[^/\x00-\x1f\x7f]{1,255}", "the name of a systemd credential", "1 to 255 characters, no /"),
]
