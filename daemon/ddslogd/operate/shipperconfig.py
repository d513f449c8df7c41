"""What a log shipper is told to read: its configuration, as far as it bears on files that are tailed.

Options are named and their defaults taken from each program's reference; the sources stand beside what is not obvious.
Nothing is executed or included: what a file takes in from others is not seen.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import yaml

from ddslogd.operate import globs
from ddslogd.operate.globs import Dialect, compiled
from ddslogd.storage.shippers import Shipper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_SIZE: Final = 4 * 1024 * 1024  # bytes; a configuration of more is none
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRUE: Final = {"true", "on", "yes", "1"}


class Unreadable(Exception):
    """The file cannot be read, or is not what that shipper reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """One input that follows files.

    Attributes:
        name: What it is called in its file.
        paths: As written.
        includes: They match whole paths.
        excludes: What they find in a path keeps it out.
        options: The input's own, by dotted names in lower case.
    """

    shipper: Shipper
    name: str
    paths: tuple[str, ...]
    includes: tuple[re.Pattern[str], ...]
    excludes: tuple[re.Pattern[str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, path: str) -> bool:
        """Tell whether it would read a file of that path."""
        return any(one.fullmatch(path) for one in self.includes) and not any(one.search(path) for one in self.excludes)

    def text(self, name: str, default: str = "") -> str:
        """Give an option as text."""
        value = self.options.get(name)
        return default if value is None else str(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Give an option that is on or off."""
        return self.text(name, str(default)).lower() in _TRUE

    def duration(self, name: str) -> timedelta | None:
        """Give an option that is a time; a bare number counts seconds. None where there is none, or no limit."""
        return read_time(self.text(name))


def read_time(text: str) -> timedelta | None:
    """Read ``90``, ``2h``, ``1h30m`` or ``1.5h``; None where it is nothing of the kind, or zero."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|[smhd])", text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in pieces)) or None
    except OverflowError:
        return None


def guessed(text: str) -> Shipper | None:
    """Guess whose configuration a text is; None where it looks like nobody's."""
    signs = (
        (Shipper.RSYSLOG, r"(?im)^\s*(input|module|action)\s*\(\s*(type|load)\s*="),
        (Shipper.FLUENT_BIT, r"(?im)^\s*\[(INPUT|SERVICE)\]|^pipeline:"),
        (Shipper.PROMTAIL, r"(?m)^scrape_configs:|__path__"),
        (Shipper.FILEBEAT, r"(?m)^filebeat\b|^\s*-?\s*type:\s*(filestream|log)\b"),
        (Shipper.VECTOR, r"(?m)^\s*\[sources\.|^sources:"),
    )
    return next((shipper for shipper, sign in signs if re.search(sign, text)), None)


def read(path: Path, shipper: Shipper | None = None) -> tuple[Shipper, tuple[Tail, ...]]:
    """Read a configuration; whose it is is guessed where it is not said. Blocks.

    Raises:
        Unreadable: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SIZE).decode()
    except OSError as exc:
        raise Unreadable(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is no text") from None
    kind = shipper or guessed(text)
    if kind is None:
        raise Unreadable(f"{path}: whose configuration is it? Say filebeat:{path}, or vector:, fluent-bit:, …")
    try:
        return kind, tuple(_tails(kind, text, toml=path.suffix == ".toml"))
    except (yaml.YAMLError, tomllib.TOMLDecodeError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)  # not the text around it: it may hold a password
        where = f", line {mark.line + 1}" if mark else ""
        raise Unreadable(f"{path} is no configuration of {kind}{where}") from None


def _tails(kind: Shipper, text: str, *, toml: bool) -> Iterable[Tail]:
    match kind:
        case Shipper.FILEBEAT:
            return _filebeat(_yaml(text))
        case Shipper.VECTOR:
            return _vector(tomllib.loads(text) if toml or re.search(r"(?m)^\s*\[", text) else _yaml(text))
        case Shipper.FLUENT_BIT:
            return _fluent_bit(_classic(text) if re.search(r"(?m)^\s*\[", text) else _pipeline(_yaml(text)))
        case Shipper.PROMTAIL:
            return _promtail(_yaml(text))
        case Shipper.RSYSLOG:
            return _rsyslog(text)


def _yaml(text: str) -> Any:
    return yaml.safe_load(text)


# --- Filebeat ---------------------------------------------------------------------------------------------------------


def _filebeat(tree: Any) -> Iterator[Tail]:
    """Read ``filebeat.inputs``, nested or dotted, or a bare list as ``filebeat.config.inputs`` takes it."""
    entries = tree if isinstance(tree, list) else _flat(tree).get("filebeat.inputs")
    for number, entry in enumerate(_mappings(entries)):
        options = _flat(entry)
        kind = str(options.get("type", "log"))
        if kind not in {"filestream", "log"} or not _on(options.get("enabled", True)):
            continue
        paths = _texts(options.get("paths"))
        excluded = _texts(options.get("prospector.scanner.exclude_files")) + _texts(options.get("exclude_files"))
        yield Tail(
            shipper=Shipper.FILEBEAT,
            name=f"input {options.get('id', number)}",
            paths=paths,
            includes=_compiled(paths, globs.GO),
            excludes=tuple(_regex(one) for one in excluded),
            options={**options, "type": kind},
        )


# --- Vector -----------------------------------------------------------------------------------------------------------


def _vector(tree: Any) -> Iterator[Tail]:
    sources = tree.get("sources") if isinstance(tree, Mapping) else None
    for name, source in sources.items() if isinstance(sources, Mapping) else ():
        options = _flat(source)
        if options.get("type") != "file":
            continue
        paths = _texts(options.get("include"))
        yield Tail(
            shipper=Shipper.VECTOR,
            name=f"source {name}",
            paths=paths,
            includes=_compiled(paths, globs.RUST),
            excludes=tuple(
                re.compile(rf"\A(?:{one.pattern})\Z", re.DOTALL)
                for one in _compiled(_texts(options.get("exclude")), globs.RUST_EXCLUDE)
            ),
            options=options,
        )


# --- Fluent Bit -------------------------------------------------------------------------------------------------------


def _classic(text: str) -> Iterator[dict[str, str]]:
    """Read the sections ``[INPUT]``: a key, blanks, the value; a line whose first sign is # is a comment."""
    section: dict[str, str] | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            if section is not None:
                yield section
            section = {} if stripped.upper() == "[INPUT]" else None
        elif stripped and not stripped.startswith("#") and section is not None:
            key, _, value = stripped.partition(" ")
            section[key.lower()] = value.strip()
    if section is not None:
        yield section


def _pipeline(tree: Any) -> Iterator[dict[str, Any]]:
    inputs = _flat(tree).get("pipeline.inputs")
    return ({str(key).lower(): value for key, value in _flat(entry).items()} for entry in _mappings(inputs))


def _fluent_bit(inputs: Iterable[Mapping[str, Any]]) -> Iterator[Tail]:
    for options in inputs:
        if str(options.get("name", "")).lower() != "tail":
            continue
        paths = tuple(one.strip() for one in str(options.get("path", "")).split(",") if one.strip())
        excluded = [one.strip() for one in str(options.get("exclude_path", "")).split(",") if one.strip()]
        yield Tail(
            shipper=Shipper.FLUENT_BIT,
            name=f"input tail {options.get('tag', '')}".strip(),
            paths=paths,
            includes=_compiled(paths, globs.POSIX),
            excludes=tuple(
                re.compile(rf"\A(?:{compiled(one, globs.RUST_EXCLUDE).pattern})\Z", re.DOTALL) for one in excluded
            ),  # fnmatch(3) without flags
            options=options,
        )


# --- Promtail ---------------------------------------------------------------------------------------------------------


def _promtail(tree: Any) -> Iterator[Tail]:
    positions = _flat(tree).get("positions.filename")
    for job in _mappings(_flat(tree).get("scrape_configs")):
        for static in _mappings(job.get("static_configs")):
            labels = static.get("labels")
            path = labels.get("__path__") if isinstance(labels, Mapping) else None
            if not isinstance(labels, Mapping) or not isinstance(path, str):
                continue
            excluded = _texts(labels.get("__path_exclude__"))
            yield Tail(
                shipper=Shipper.PROMTAIL,
                name=f"job {job.get('job_name', '?')}",
                paths=(path,),
                includes=_compiled((path,), globs.DOUBLESTAR),
                excludes=tuple(
                    re.compile(rf"\A(?:{one.pattern})\Z", re.DOTALL) for one in _compiled(excluded, globs.DOUBLESTAR)
                ),
                options={"positions.filename": positions} if positions else {},
            )


# --- rsyslog ----------------------------------------------------------------------------------------------------------

_STATEMENT = re.compile(r"\b(input|module|global)\s*\(((?:[^()\"]|\"(?:[^\"\\]|\\.)*\")*)\)", re.IGNORECASE)
_PARAMETER = re.compile(r"([\w.]+)\s*=\s*\"((?:[^\"\\]|\\.)*)\"")
_COMMENT = re.compile(r"\"(?:[^\"\\]|\\.)*\"|#[^\n]*|/\*.*?\*/", re.DOTALL)


def _rsyslog(text: str) -> Iterator[Tail]:
    """Read the statements ``input(type="imfile" …)``; the oldest form, ``$InputFileName``, is not."""
    bare = _COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)
    shared: dict[str, str] = {}
    for statement, inner in _STATEMENT.findall(bare):
        given = {key.lower(): value for key, value in _PARAMETER.findall(inner)}
        if statement.lower() == "global":
            shared |= {f"global.{key}": value for key, value in given.items()}
        elif statement.lower() == "module" and given.get("load", "").lower() == "imfile":
            shared |= {f"module.{key}": value for key, value in given.items()}
    for statement, inner in _STATEMENT.findall(bare):
        given = {key.lower(): value for key, value in _PARAMETER.findall(inner)}
        if statement.lower() != "input" or given.get("type", "").lower() != "imfile":
            continue
        paths = _texts(given.get("file"))
        yield Tail(
            shipper=Shipper.RSYSLOG,
            name=f"input {given.get('tag', '')}".rstrip(": "),
            paths=paths,
            includes=_compiled(paths, globs.POSIX_BRACES),
            options=shared | given,
        )


# --- what they share --------------------------------------------------------------------------------------------------


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Give a tree of mappings by dotted names; so ``a.b: 1`` and ``a: {b: 1}`` are the same. Lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _mappings(value: Any) -> list[Mapping[Any, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _compiled(patterns: Iterable[str], dialect: Dialect) -> tuple[re.Pattern[str], ...]:
    return tuple(compiled(pattern, dialect) for pattern in patterns)


def _regex(text: str) -> re.Pattern[str]:
    """Compile a regular expression of Go's; one that only Go knows finds nothing."""
    try:
        return re.compile(text)
    except re.error:
        return re.compile(r"(?!)")


def _on(value: Any) -> bool:
    return str(value).lower() in _TRUE
