"""Grafana Alloy's positions."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from ddslogd.storage.shippers.bounded_read import read_bytes, read_position
from ddslogd.storage.shippers.file_identity import LogPath, Mark, Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_DEPTH: Final = 32
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


def alloy_positions(registry: Path) -> Iterator[tuple[Mark, Position]]:
    """Read positions. grafana/alloy, internal/component/common/loki/positions/positions.go.

    The file is written again every ten seconds, changed or not. A key is a mapping of path and labels; a file that is
    read with several labels has several, of which the least counts.
    """
    text, _ = read_bytes(registry / "positions.yml" if registry.is_dir() else registry)
    try:
        found = _positions_of(yaml.parse(text, _YamlLoader))
    except (yaml.YAMLError, ValueError) as exc:
        raise ValueError(f"no YAML: {registry}") from exc
    if found is None:
        raise ValueError(f"no positions: {registry}")
    for path, value in found:
        position = read_position(int(value)) if re.fullmatch(r"\d{1,19}", value, re.ASCII) else None
        yield LogPath(os.path.normpath(path)), Position(position=position)


def _positions_of(events: Iterator[Any]) -> list[tuple[str, str]] | None:
    """Return paths and values of the mapping under ``positions``; None where there is none.

    Nodes are never built, so aliases cost nothing.
    """
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            break
    if not isinstance(next(events, None), yaml.MappingStartEvent):
        return None
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name, value = _past(event, events), next(events)
        if name == "positions" and isinstance(value, yaml.MappingStartEvent):
            return list(_paths(events))
        _past(value, events)
    return None


def _paths(events: Iterator[Any]) -> Iterator[tuple[str, str]]:
    """Return the path of each key of the mapping that has begun, and the scalar that it leads to."""
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _path_in(events) if isinstance(event, yaml.MappingStartEvent) else _past(event, events) and None
        value = _past(next(events), events)
        if key is not None and value is not None:
            yield key, value


def _path_in(events: Iterator[Any]) -> str | None:
    """Return what the mapping that has begun has under ``path``; None where that is no scalar."""
    found = None
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name, value = _past(event, events), _past(next(events), events)
        found = value if name == "path" else found
    return found


def _past(event: Any, events: Iterator[Any]) -> str | None:
    """Go past a node that begins with an event; give its text, None where it is no scalar.

    Raises:
        ValueError: It is nested deeper than anything Alloy writes; the time it takes grows with the square.
    """
    if isinstance(event, yaml.ScalarEvent):
        return str(event.value)
    depth = int(isinstance(event, yaml.CollectionStartEvent))
    while depth:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    return None
