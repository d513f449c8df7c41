"""Filebeat's registry."""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ddslogd.storage.shippers.bounded_read import or_none, read_json, read_position, read_text
from ddslogd.storage.shippers.file_identity import LogPath, Mark, Position
from ddslogd.storage.shippers.fluent_bit import TRIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# --- the programs -----------------------------------------------------------------------------------------------------

# elastic/beats, filebeat/input/filestream/identifier.go and internal/input-logfile/manager.go:
# filestream::<input's id>::path::<path>; other identities are none that our snippet sets.
_FILEBEAT_KEY: Final = re.compile(r"filestream::.+::path::(?P<path>/.+)", re.DOTALL)


def filebeat_positions(registry: Path) -> Iterator[tuple[Mark, Position]]:
    """Read Filebeat's registry."""
    home = registry / "filebeat" if (registry / "filebeat").is_dir() else registry
    meta = read_json(home / "meta.json")
    if not isinstance(meta, dict) or meta.get("version") != "1":  # memlog/diskstore.go: storeVersion
        raise ValueError(f"no registry of version 1: {home / 'meta.json'}")
    for key, value in _filebeat_states(home).items():
        found = _FILEBEAT_KEY.fullmatch(key)
        if found is None or value.get("ttl") == 0:  # filestream/internal/input-logfile/store.go: 0 is to be removed
            continue
        cursor = value.get("cursor")
        position = read_position(cursor.get("offset") if isinstance(cursor, dict) else None)
        yield LogPath(os.path.normpath(found["path"])), Position(position=position)


def _filebeat_states(home: Path) -> dict[str, dict[str, Any]]:
    """Read the newest checkpoint and what was logged since; give the states by key.

    memlog/store.go: active.dat is not needed, the checkpoint with the highest number is the newest. One that is made
    while we read empties the log and takes the old one away.
    """
    for _ in range(TRIES):
        newest = _newest_checkpoint(home)
        with suppress(FileNotFoundError):
            log = read_text(home / "log.json") if (home / "log.json").exists() else ""
            states = _checkpoint(home / f"{newest}.json") if newest else {}
            if _newest_checkpoint(home) == newest:
                return _replayed(states, newest, log, home / "log.json")
    raise OSError(errno.EBUSY, "being rewritten again and again", str(home))


def _newest_checkpoint(home: Path) -> int:
    """Return the highest number of a checkpoint; 0 where there is none."""
    names = (re.fullmatch(r"(\d{1,20})\.json", path.name, re.ASCII) for path in home.iterdir())
    return max((int(name[1]) for name in names if name), default=0)


def _checkpoint(path: Path) -> dict[str, dict[str, Any]]:
    """Read an array of states, each with its key as ``_key``. memlog/diskstore.go: checkpointTmpFile."""
    states = read_json(path)
    if not isinstance(states, list):
        raise ValueError(f"no array: {path}")  # noqa: TRY004  # it is the file's type that is wrong
    found = (state for state in states if isinstance(state, dict))
    return {key: state for state in found if isinstance(key := state.get("_key"), str)}


def _replayed(states: dict[str, dict[str, Any]], number: int, log: str, path: Path) -> dict[str, dict[str, Any]]:
    """Apply what was logged after a checkpoint, as far as Filebeat itself would.

    memlog/diskstore.go, loadLogFile: numbers up to the checkpoint's are old, the others follow one on the other. At
    anything else (a line that was cut when it died, or is being written) it stops with what it has.
    """
    lines = [line for line in log.split("\n")[:-1] if line.strip()]
    if lines and not isinstance(or_none(lines[0]), dict):
        raise ValueError(f"no log of operations: {path}")
    for action, operation in zip(map(or_none, lines[::2]), map(or_none, lines[1::2]), strict=False):
        if not isinstance(action, dict) or not isinstance(operation, dict):
            break
        if isinstance(action.get("id"), int) and 0 <= action["id"] <= number:
            continue
        if action.get("id") != number + 1:
            break
        number += 1
        _apply(states, action.get("op"), operation.get("k"), operation.get("v"))
    return states


def _apply(states: dict[str, dict[str, Any]], op: object, key: object, value: object) -> None:
    if not isinstance(key, str):
        return
    states.pop(key, None)
    if op == "set" and isinstance(value, dict):
        states[key] = value
