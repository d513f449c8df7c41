"""A YAML text as plain values, with the place of every one of them.

The text is composed once. Scalars are read in YAML 1.2 style: only ``true`` and ``false``, ``null``, ``~`` and nothing,
decimal integers and decimal fractions are not text; ``no``, ``22:30``, ``010`` and ``2026-01-01`` are.
https://yaml.org/spec/1.2.2/#103-core-schema, less its octal, hexadecimal and exponent forms.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast

Location = tuple[int | str, ...]

_MAX_DEPTH: Final = 32
_KEPT = "*@`%?"  # what begins an alias, a directive or a key, or may begin nothing: YAML 1.2, 5.3
"""The configuration needs six; libyaml's composer overruns the C stack at some ten thousand."""
_MAX_VALUES: Final = 1_000_000
"""Some 100,000 instances; a few nested aliases would make billions."""

_STR: Final = "tag:yaml.org,2002:str"
_SCALARS: Final[dict[str, tuple[re.Pattern[str], str, Callable[[str], object]]]] = {
    "tag:yaml.org,2002:null": (re.compile(r"(?:~|null|)\Z"), "~n", lambda _: None),
    "tag:yaml.org,2002:bool": (re.compile(r"(?:true|false)\Z"), "tf", lambda text: text == "true"),
    "tag:yaml.org,2002:int": (re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z"), "-+0123456789", int),
    "tag:yaml.org,2002:float": (re.compile(r"[-+]?(?:0|[1-9][0-9]*)?\.[0-9]+\Z"), "-+.0123456789", float),
}
_MAP: Final = "tag:yaml.org,2002:map"
_SEQ: Final = "tag:yaml.org,2002:seq"
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUOTED: Final = re.compile(r" *'([^']*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlError:
    """Something that the text should not hold.

    Attributes:
        loc: Where in the tree.
        line: From 1.
        column: From 1.
    """

    loc: Location
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a text says, and where it says it.

    Attributes:
        value: None, bool, int, float, str, list or dict with str keys; None too where the text is no YAML.
        findings: What is wrong with the text as YAML.
        values: Where each value begins.
        keys: Where the key of each value begins; entries of a list have none.
        unread: Where a value stands that could not be read and is None in ``value``.
    """

    value: Any
    findings: tuple[YamlError, ...]
    values: Mapping[Location, yaml.Mark] = field(default_factory=dict)
    keys: Mapping[Location, yaml.Mark] = field(default_factory=dict)
    unread: frozenset[Location] = frozenset()

    def place(self, loc: Location, *, key: bool = False) -> tuple[int, int]:
        """Return line and column of a value, or of its key; where there is none, of the nearest parent that is."""
        known = loc
        while known and known not in self.values:
            known = known[:-1]
        key = key or known != loc
        mark = (self.keys.get(known) if key else None) or self.values.get(known)
        return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def read(text: str) -> Tree:
    """Read one YAML document; what is wrong with it comes as findings, not as an error."""
    if bad := _UNPRINTABLE.search(text):
        line, column = position(text[: bad.start()])
        return Tree(
            value=None, findings=(YamlError(loc=(), line=line, column=column, text="is no YAML: a control character"),)
        )
    walk = _Walk()
    value = None
    try:
        node = yaml.compose(text, _Loader)
        value = walk.value_of(node, ()) if node else None
    except yaml.MarkedYAMLError as exc:
        walk.find((), exc.problem_mark, _told(exc) + _advice(text, exc.problem_mark))
        value = None
    return Tree(
        value=value,
        findings=tuple(walk.findings),
        values=walk.values,
        keys=walk.keys,
        unread=frozenset(walk.unread),
    )


def position(before: str) -> tuple[int, int]:
    """Return line and column, from 1, of what follows a text."""
    lines = before.split("\n")
    return len(lines), len(lines[-1]) + 1


def path_of(loc: Location) -> str:
    """Render a location as ``instances[2].every``; keys that are more than a word are in quotes."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_word(step)}" for step in loc)
    return "".join(steps).removeprefix(".")


def _word(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)


def _told(exc: yaml.MarkedYAMLError) -> str:
    """Return what is wrong with the syntax, less what is quoted from the text: an alias or a tag may be a secret."""
    said = ": ".join(part for part in (exc.context, exc.problem) if part)
    return "is no YAML: " + _QUOTED.sub(lambda quote: quote[0] if re.match(r"<|.?\Z", quote[1]) else "", said)


def _advice(text: str, mark: yaml.Mark | None) -> str:
    """Return what to do where a value begins with a character that YAML keeps for itself; empty where none does.

    The mark is at that character, or just behind the star of an alias.
    """
    if mark is None:
        return ""
    line = text.split("\n")[mark.line] if mark.line <= text.count("\n") else ""
    for column in (mark.column, mark.column - 1):
        if 0 <= column < len(line) and line[column] in _KEPT and re.search(r"(?:^|[\s\[{,])\Z", line[:column]):
            return (
                f'; quote it: a value that begins with {line[column]} is text in quotes only, as cron: "*/20 * * * *"'
            )
    return ""


class _Loader(_Base):
    """Composes nodes; which scalars are text is decided by ``_SCALARS`` alone."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute
    depth = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:  # noqa: ARG002 - PyYAML's signature
        """Count how deep the composer is; it calls this before each node."""
        self.depth += 1
        if current_node and self.depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "nested too deep", current_node.start_mark)

    def ascend_resolver(self) -> None:
        """Come up again."""
        self.depth -= 1


for _tag, (_pattern, _begins, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, list(_begins) + ([""] if _tag.endswith("null") else []))


class _Walk:
    """One way through a node tree, with what it saw."""

    def __init__(self) -> None:
        self.findings: list[YamlError] = []
        self.values: dict[Location, yaml.Mark] = {}
        self.keys: dict[Location, yaml.Mark] = {}
        self.unread: set[Location] = set()

    def find(self, loc: Location, mark: yaml.Mark | None, text: str) -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        self.findings.append(YamlError(loc=loc, line=line, column=column, text=text))

    def value_of(self, node: yaml.Node, loc: Location) -> Any:
        """Return the plain value of a node; aliases are nodes that come again, even inside themselves."""
        self.values[loc] = node.start_mark
        if len(self.values) > _MAX_VALUES or len(loc) > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "too much: an alias repeats itself", node.start_mark)
        match node:
            case yaml.MappingNode(tag=tag) if tag == _MAP:
                return {key: self.value_of(value, (*loc, key)) for key, value in self.pairs_of(node, loc)}
            case yaml.SequenceNode(tag=tag) if tag == _SEQ:
                return [self.value_of(value, (*loc, index)) for index, value in enumerate(node.value)]
            case yaml.ScalarNode():
                return self.scalar_of(node, loc)
            case _:
                return self.refuse(node, loc)

    def pairs_of(self, node: yaml.MappingNode, loc: Location) -> Iterator[tuple[str, yaml.Node]]:
        """Yield keys and value nodes; the first of two equal keys counts, so that its value is looked at too."""
        lines: dict[str, int] = {}
        for key, value in node.value:
            mark = key.start_mark
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                self.find(loc, mark, "a key must be text (a number or a null wants quotes)")
            elif key.value in lines:
                self.find((*loc, key.value), mark, f"duplicate key, first on line {lines[key.value]}")
            else:
                lines[key.value] = mark.line + 1
                self.keys[*loc, key.value] = mark
                yield key.value, value

    def scalar_of(self, node: yaml.ScalarNode, loc: Location) -> Any:
        if node.tag == _STR:
            return node.value
        if node.tag in _SCALARS:
            pattern, _, convert = _SCALARS[node.tag]
            if pattern.match(node.value):
                return convert(node.value)
        return self.refuse(node, loc)

    def refuse(self, node: yaml.Node, loc: Location) -> None:
        """Record a tag such as ``!!python/object``, whose name is not repeated: it may be a secret."""
        self.find(loc, node.start_mark, "has a tag (!) that means nothing here, or does not fit")
        self.unread.add(loc)
