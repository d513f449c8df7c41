"""Reads the configuration: from text to settings, or to complaints that name file, line and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from ddslogd.config import yaml_positions
from ddslogd.config.rules import broken, warnings
from ddslogd.config.section import SAID_OF_KEY
from ddslogd.config.settings import EXAMPLE, Settings
from ddslogd.model.errors import Complaint, ConfigError
from ddslogd.model.units import spell_duration, spell_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddslogd.config.yaml_positions import Location, Tree

_AUTH_KEYS: Final = frozenset(
    {
        *("method", "token", "username", "password", "domain_name", "access_key", "secret_key", "security_token"),
        *("assume_role", "agency_name", "address", "env", "file", "credential"),
    },
)

_SMALLEST_SIZE: Final = 1024**2
"""No default this large is a mere number."""
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


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
        if isinstance(exc, FileNotFoundError) and EXAMPLE.exists():
            text += f": begin with the example: cp {EXAMPLE} {path}, put your values into it, then ddslogd check"
        raise ConfigError(path, [Complaint(line=0, column=0, path="", text=text)]) from exc
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line, column = yaml_positions.position(content[: exc.start].decode())
    else:
        return parse(text, path)
    raise ConfigError(path, [Complaint(line=line, column=column, path="", text="is not UTF-8 text")])


def parse(text: str, file: str | Path) -> Loaded:
    """Read a configuration from its text; ``file`` only names it in complaints.

    Raises:
        ConfigError: Holds every complaint, warnings too.
    """
    tree = yaml_positions.read(text)
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
        against = [(where, text) for where, text in broken(tree.value) if where not in tree.unread]
        complaints += [_placed(tree, where, text) for where, text in against]
        complaints += [_placed(tree, where, text, warning=True) for where, text in warnings(tree.value)]
    elif not complaints:
        empty = "the file is empty: it needs clouds and instances"
        complaints.append(_placed(tree, (), empty if tree.value is None else "must be a mapping of keys to values"))
    if settings is None or not all(found.warning for found in complaints):
        raise ConfigError(file, complaints)  # outside of any except clause: foreign errors may quote the file
    return Loaded(settings=settings, warnings=tuple(sorted(complaints)))


def schema() -> dict[str, Any]:
    """Return the JSON schema of the file, draft 2020-12, for editors."""
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
    return yaml_positions.path_of(loc)
