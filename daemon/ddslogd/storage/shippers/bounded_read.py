"""Files of other programs, read within bounds."""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MAX_TEXT: Final = 64 * 1024 * 1024  # bytes; some 200,000 files; as values it takes five times as much memory


# --- reading what others write ----------------------------------------------------------------------------------------


def read_position(value: object) -> int | None:
    """Return a position; None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    return None


@contextmanager
def opened_registry(path: Path, limit: int) -> Iterator[tuple[int, os.stat_result]]:
    """Open one file of a registry; ValueError where it is no file, or larger than the limit."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"no file: {path}")
        if status.st_size > limit:
            raise ValueError(f"larger than {limit // 1024 // 1024} MiB: {path}")
        yield fd, status
    finally:
        os.close(fd)


def read_bytes(path: Path, limit: int = MAX_TEXT) -> tuple[bytes, os.stat_result]:
    """Read the first bytes of a registry, and its status."""
    with opened_registry(path, limit) as (fd, status), open(fd, "rb", closefd=False) as file:
        return file.read(limit), status


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Read a file. Bytes that are no UTF-8 become what they are in the names of files."""
    return read_bytes(path, limit)[0].decode("utf-8", "surrogateescape")


def read_json(path: Path) -> Any:
    """Read a registry that is JSON."""
    text = read_text(path)
    try:
        return json.loads(text, parse_int=read_int)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"no JSON: {path}") from exc


def or_none(text: str) -> Any:
    """Read JSON, or None where it is none."""
    with suppress(ValueError, RecursionError):
        return json.loads(text, parse_int=read_int)
    return None


def read_int(text: str) -> int:
    """Read an integer; -1 for one that is longer than any position: Python refuses the longest."""
    return int(text) if len(text) <= 20 else -1  # noqa: PLR2004  # digits of 2**64
