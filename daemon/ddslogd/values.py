"""The kinds of values that a configuration holds: durations, sizes, URLs, names, cron expressions, sections.

Each reads what an operator writes and complains in an operator's words. A complaint repeats the text only where that
cannot be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, LiteralString, Self
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pydantic.json_schema import JsonSchemaValue

    from ddslogd.yamltree import Location

SAID: Final = "said"
"""The type of an error that is in our words already."""
SAID_OF_KEY: Final = "said_of_key"
"""The same where the key is wrong and not its value."""
_DURATION: Final = (
    r"(?=[0-9])(?:([0-9]{1,7})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?(?:([0-9]{1,7})ms)?"
)
_SIZE: Final = r"([0-9]{1,15})([KMGT]i?B|B)?"
_FACTORS: Final[dict[str, int]] = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_LISTEN: Final = r"(?:localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
_URL: Final = rf"(https?)://({_HOST}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?/?"
_LAST_PORT: Final = 65_535
_CRON_FIELDS: Final = 5
_FIRST_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""From here schedules are tried: a Monday in a leap year, and no clock is asked."""
_TICKS: Final = 100
"""A day of ticks 15 minutes apart, and a little more."""
_LAST_DAY: Final = _FIRST_DAY + timedelta(days=9)
"""Each day of the week, and the night after it."""


def complaint(text: str, kind: LiteralString = SAID) -> PydanticCustomError:
    """Make a complaint for pydantic to carry; the text is not formatted again."""
    return PydanticCustomError(kind, "{text}", {"text": text})


def guess(word: object, known: Iterable[str]) -> str:
    """Give `` (did you mean …)`` where something known looks like the word, else nothing."""
    close = get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _shown(value: object) -> str:
    """Show a duration or a size that cannot be read; never call it for what could be a secret."""
    return f"{str(value)[:40]!r}" if isinstance(value, str | int | float) else "this"


def read_duration(value: object) -> timedelta:
    """Read ``20m``, ``10s``, ``500ms``, ``1h30m`` or ``1d``; a bare number is refused."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not (match := re.fullmatch(_DURATION, value)):
        if re.fullmatch(r"[0-9]{1,7}", str(value)):
            raise complaint(f"{value} has no unit (did you mean {value}s or {value}m?)")
        raise complaint(f"{_shown(value)} is no duration like 20m, 10s, 500ms or 1h30m")
    days, hours, minutes, seconds, milliseconds = (int(number or 0) for number in match.groups())
    return timedelta(days, seconds, hours=hours, minutes=minutes, milliseconds=milliseconds)


def duration_or_none(text: str) -> timedelta | None:
    """Read a duration as ``read_duration`` does; None where it is none, or is longer than any calendar."""
    try:
        return read_duration(text)
    except (PydanticCustomError, OverflowError):
        return None


def spell_duration(value: timedelta) -> str:
    """Write a duration the way ``read_duration`` reads it, to the millisecond."""
    left = value // timedelta(milliseconds=1)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        number, left = divmod(left, length)
        parts.append(f"{number}{unit}" if number else "")
    return "".join(parts) or "0s"


def within(low: timedelta, high: timedelta) -> Callable[[timedelta], timedelta]:
    """Give a check that a duration is neither below nor above two limits."""

    def check(value: timedelta) -> timedelta:
        if value < low:
            raise complaint(f"must be at least {spell_duration(low)}")
        if value > high:
            raise complaint(f"must be at most {spell_duration(high)}")
        return value

    return check


def read_size(value: object) -> int:
    """Read ``2GiB``, ``512KiB``, ``100MB``, ``0``; a bare number counts bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not (match := re.fullmatch(_SIZE, value)):
        raise complaint(f"{_shown(value)} is no size like 2GiB, 512KiB, 100MB or 0{_guess_size(value)}")
    return int(match[1]) * _FACTORS[match[2] or "B"]


def _guess_size(value: object) -> str:
    match = re.fullmatch(r"\s*([0-9]{1,15})\s*([kmgt])i?b?\s*", str(value), re.IGNORECASE)
    return f" (did you mean {match[1]}{match[2].upper()}iB?)" if match else ""


def spell_size(value: int) -> str | int:
    """Write a size the way ``read_size`` reads it: with the largest binary unit that leaves no rest."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _FACTORS[unit] == 0:
            return f"{value // _FACTORS[unit]}{unit}"
    return value


@dataclass(frozen=True, slots=True)
class Matching:
    """Text that a pattern describes wholly; a complaint says what it should be and does not repeat it."""

    pattern: str
    what: str

    def check(self, text: str) -> str:
        """Give the text back if it fits."""
        if not re.fullmatch(self.pattern, text):
            raise complaint(f"must be {self.what}")
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$"}


def origin_of(text: str) -> str:
    """Read the scheme, host and port of a service; nothing else may stand in its URL."""
    if not (match := re.fullmatch(_URL, text)):
        raise complaint(_url_trouble(text))
    if match[3] and not 0 < int(match[3]) <= _LAST_PORT:
        raise complaint("has a port that does not exist")
    if match[2].startswith("[") and not _is_address(match[2].strip("[]")):
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
    if origin.startswith("http:") and not _is_loopback(host_of(origin)):
        raise complaint("must begin with https://; plain http is for loopback addresses only")
    return origin


def metadata_of(text: str) -> str:
    """Read the origin of a metadata service: by https, or to an address that no router passes on."""
    origin = origin_of(text)
    host = host_of(origin)
    if origin.startswith("http:") and not _is_loopback(host) and not _is_link_local(host):
        raise complaint("must begin with https://; plain http is for loopback and link-local addresses only")
    return origin


def listen_of(text: str) -> str:
    """Check that a port is one, and an address too."""
    host, _, port = text.rpartition(":")
    if int(port) > _LAST_PORT:
        raise complaint(f"has no port: the last one is {_LAST_PORT}")
    if host != "localhost" and not _is_address(host.strip("[]")):
        raise complaint("must begin with an address of this host, as 127.0.0.1, 0.0.0.0 or [::1]")
    return text


def host_of(origin: str) -> str:
    """Give the host of an origin in lower case, an IPv6 address without its brackets."""
    match = re.fullmatch(_URL, origin)
    return match[2].strip("[]").lower() if match else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_link_local(host: str) -> bool:
    return _is_address(host) and ip_address(host).is_link_local


def domain_of(host: str) -> str:
    """Give the pattern of the hosts beside a service's: its domain less the service's and the region's label."""
    labels = host.split(".")
    less = min(2, len(labels) - 2)
    return host if less < 1 or _is_address(host) else ".".join(["*", *labels[less:]])


@lru_cache(maxsize=4096)
def cron_that_fires(expression: str) -> str:
    """Check five cron fields, and that they fire at some time."""
    if len(expression.split()) != _CRON_FIELDS:
        raise complaint("must have five fields: minute, hour, day of month, month, day of week")
    try:
        if next(CronSim(expression, _FIRST_DAY), None):
            return expression
    except (CronSimError, ValueError) as exc:
        if not _would_fire_in_other_months(expression):
            raise complaint(f"is no cron expression: {str(exc).lower()}") from None
    raise complaint("never fires: its months have no such day")


def _would_fire_in_other_months(expression: str) -> bool:
    """Tell whether only day and month do not go together; cronsim calls that a bad day."""
    minute, hour, day, month, weekday = expression.split()
    return _is_cron(f"{minute} {hour} {day} * {weekday}") and _is_cron(f"* * * {month} *")


def _is_cron(expression: str) -> bool:
    try:
        CronSim(expression, _FIRST_DAY)
    except (CronSimError, ValueError):
        return False
    return True


def timezone_of(name: str) -> tzinfo:
    """Give the time zone of an IANA name; UTC needs no time zone data on the host."""
    return UTC if name == "UTC" else ZoneInfo(name)


def known_timezone(name: str) -> str:
    """Check that the host knows a time zone."""
    try:
        timezone_of(name)
    except (KeyError, ValueError, OSError):
        raise complaint(f"is no time zone this host knows{guess(name, available_timezones())}") from None
    return name


@lru_cache(maxsize=4096)
def shortest_gap(expression: str, timezone: str) -> timedelta:
    """Give the shortest time between two ticks of a cron expression, as far as a week of them shows it."""
    ticks = islice(CronSim(expression, _FIRST_DAY.astimezone(timezone_of(timezone))), _TICKS)
    moments = [tick.astimezone(UTC) for tick in takewhile(lambda tick: tick < _LAST_DAY, ticks)]
    return min((later - sooner for sooner, later in pairwise(moments)), default=timedelta.max)


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or not str(path).isprintable():
        raise complaint("must be an absolute path")
    return path


Duration = Annotated[
    timedelta,
    BeforeValidator(read_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION}$", "examples": ["20m", "1h30m", "500ms"]}),
]
Size = Annotated[
    int,
    BeforeValidator(read_size),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE}$"}],
            "examples": ["2GiB", "512KiB", 0],
        }
    ),
]
Text = Annotated[str, Matching(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f]+", "text without control characters, and not empty")]
Name = Annotated[
    str, Matching(r"(?=.*\S)[^/\x00-\x1f\x7f-\x9f]+", "a name without / and control characters, and not empty")
]
InstanceId = Annotated[
    str, Matching(r"[0-9a-f]{32}in[0-9]{2}", "an instance's id: 32 digits from 0-9 and a-f, then in02")
]
NodeId = Annotated[str, Matching(r"[0-9a-f]{32}no[0-9]{2}", "a node's id: 32 digits from 0-9 and a-f, then no02")]
ProjectId = Annotated[str, Matching(r"[0-9A-Za-z_-]{1,64}", "a project's id, as the console shows it")]
Service = Annotated[str, AfterValidator(service_of), WithJsonSchema({"type": "string", "pattern": f"^{_URL}$"})]
MetadataAddress = Annotated[
    str, AfterValidator(metadata_of), WithJsonSchema({"type": "string", "pattern": f"^{_URL}$"})
]
AccessKeyId = Annotated[str, Matching(r"[0-9A-Za-z_-]{1,128}", "an access key's id, as the console shows it")]
Origin = Annotated[str, AfterValidator(origin_of), WithJsonSchema({"type": "string", "pattern": f"^{_URL}$"})]
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
AbsolutePath = Annotated[Path, AfterValidator(_absolute), WithJsonSchema({"type": "string", "pattern": "^/"})]
CronExpression = Annotated[str, AfterValidator(cron_that_fires)]
Timezone = Annotated[str, AfterValidator(known_timezone)]
EnvironmentName = Annotated[
    str, Matching(r"[A-Za-z_][A-Za-z0-9_]*", "the NAME of an environment variable (letters, digits and _)")
]
CredentialName = Annotated[str, Matching(r"(?!\.\.?$)[^/\x00-\x1f\x7f]{1,255}", "the name of a systemd credential")]


class Section(BaseModel):
    """One mapping of the file: unknown keys are refused, and what it holds does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    tagged: ClassVar[str] = ""
    """The field whose errors carry the name of a variant, which is no key of the file."""
    variants: ClassVar[frozenset[str]] = frozenset()
    """Names of variants that stand in errors' places, and are no keys of the file."""

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:  # noqa: ARG003 - sections with rules use it
        """Give what is wrong between values that came: where in this section, and what."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _complain_at_once(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        broken = list(cls.rules(raw)) if isinstance(raw, Mapping) else []
        found: list[InitErrorDetails] = []
        try:
            section = handler(raw)
        except ValidationError as exc:
            found = [cls._told(error) for error in exc.errors(include_url=False) if not _is_echo(error)]
        else:
            if not broken:
                return section
        found += [InitErrorDetails(type=complaint(text), loc=where, input=None) for where, text in broken]
        raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True)

    @classmethod
    def _told(cls, error: ErrorDetails) -> InitErrorDetails:
        """Put pydantic's error into our words, without what was in the file."""
        loc = tuple(part for part in error["loc"] if part not in cls.variants)
        if len(loc) > 1 and loc[0] == cls.tagged:
            loc = (loc[0], *loc[2:])
        if error["type"].startswith("union_tag"):
            loc = (*loc, error["ctx"]["discriminator"].strip("'"))
        if error["type"] == SAID_OF_KEY:
            told = complaint(error["msg"], SAID_OF_KEY)
        elif error["type"] == SAID:
            told = complaint(error["msg"])
        elif error["type"] == "extra_forbidden":
            told = complaint(f"unknown key{guess(loc[-1], cls.model_fields)}", SAID_OF_KEY)
        else:
            told = complaint(_words(error))
        if loc[-1:] == ("[key]",):
            loc, told = loc[:-1], complaint(told.message(), SAID_OF_KEY)
        return InitErrorDetails(type=told, loc=loc, input=None)


_WORDS: Final = {
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "string_type": "must be text (a number wants quotes)",
    "path_type": "must be an absolute path",
    "int_type": "must be a whole number",
    "too_short": "must have at least one entry",
}


def _is_echo(error: ErrorDetails) -> bool:
    """Tell whether a list seems too short only because what is in it was refused."""
    return error["type"] == "too_short" and bool(error["input"])


def _words(error: ErrorDetails) -> str:
    """Say in the operator's words what pydantic found."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing" | "union_tag_not_found":
            return "is missing"
        case _ if error["input"] is None:
            return "is empty: give a value, or leave the key out"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "union_tag_invalid":
            known = context["expected_tags"].replace("'", "").split(", ")
            return f"must be {', '.join(known[:-1])} or {known[-1]}{guess(context['tag'], known)}"
        case kind:
            return _WORDS.get(kind, error["msg"])
