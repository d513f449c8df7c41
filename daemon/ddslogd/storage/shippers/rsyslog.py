"""State files of rsyslog's imfile."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ddslogd.storage.shippers.bounded_read import or_none, read_position, read_text
from ddslogd.storage.shippers.file_identity import ImfileState, Mark, Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_STATE: Final = 4 * 1024 * 1024  # bytes; a state file of imfile may hold a line that has no end yet


_IMFILE_STATE: Final = re.compile(r"imfile-state:(\d{1,20})(?::([0-9a-f]{16}))?", re.ASCII)


def rsyslog_positions(registry: Path) -> Iterator[tuple[Mark, Position]]:
    """Read the state files of imfile. rsyslog/rsyslog, plugins/imfile/imfile.c; seen with 8.2302.

    Other files are passed over: those of queues, and the states of older versions, which are named by path.
    """
    names = (_IMFILE_STATE.fullmatch(path.name) for path in registry.iterdir())
    states = [(name, _imfile_state(registry / name[0])) for name in names if name]
    if not any(state for _, state in states):
        raise ValueError(f"no state files of imfile: {registry}")
    for name, state in states:
        head, called = name[2] or "", "" if name[2] else str(state.get("filename", "/"))
        yield ImfileState(int(name[1]), head), Position(position=_imfile_position(state), name=called)


def _imfile_state(path: Path) -> dict[str, Any]:
    """Read a state file; empty where it is gone or makes no sense: it is written over in place."""
    with suppress(FileNotFoundError):
        state = or_none(read_text(path, MAX_STATE))
        return state if isinstance(state, dict) and "curr_offs" in state else {}
    return {}


def _imfile_position(state: dict[str, Any]) -> int | None:
    """Return the position; None while imfile has read lines, or a part of one, that it has not passed on."""
    if state.get("prev_line_segment") or state.get("prev_msg_segment"):
        return None
    return read_position(state.get("curr_offs"))
