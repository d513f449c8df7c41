"""What one export of a node holds: a window of its log, cut anywhere, whose end the exporter may have changed."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from fuzz.node_log import NodeLog

MOST_CUT = 400  # bytes behind which the newest lines may be cut off
_LEAST = 8  # bytes of a line that are left of it


class Ending(StrEnum):
    """What the exporter makes of the end of its window."""

    CUT = "cut"
    """It ends anywhere."""
    WHOLE = "whole"
    """It ends with a line."""
    CLOSED = "closed"
    """Within a line, which gets a line end."""
    TRUNCATED = "truncated"
    """Within a line, which gets a mark and a line end."""
    MARKED = "marked"
    """The same without a line end."""
    TRAILER = "trailer"
    """A line of the exporter's own behind the last one."""
    REWRITTEN = "rewritten"
    """The last line has other words at its end."""


CHANGED = (Ending.CLOSED, Ending.TRUNCATED, Ending.MARKED, Ending.TRAILER, Ending.REWRITTEN)


@dataclass(frozen=True)
class Exported:
    """An object as the store holds it.

    Attributes:
        data: Its bytes.
        first: The number of the first line that is whole in it.
        reaches: How many lines of the log are whole in it or before it.
        changed: The line at its end that the exporter made, with the number of the one in whose place it is.
        head: The end of a line that it begins with; empty where it begins with a line.
        tail: The beginning of a line that it ends with; empty where it ends with a line.
    """

    data: bytes
    first: int
    reaches: int
    changed: tuple[bytes, int] | None
    head: bytes
    tail: bytes

    @cached_property
    def gzipped(self) -> bytes:
        """Return the bytes as they are where the store holds them compressed."""
        return gzip.compress(self.data, mtime=0)

    @cached_property
    def md5s(self) -> frozenset[str]:
        """Return the MD5s, in hex, of what a file of it may hold: its bytes, or these compressed."""
        return frozenset({md5(self.data), md5(self.gzipped)})


def md5(data: bytes) -> str:
    """Return the MD5 in hex."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def exported(log: NodeLog, *, window: int, end: int, ending: Ending, random: Random) -> Exported:
    """Return the object that an export makes of the log up to a byte.

    Args:
        log: Of the node.
        window: Bytes of the log that it holds at the most.
        end: Where the log is cut.
        ending: What becomes of the cut.
        random: Decides where within a line it is cut.
    """
    line = log.line_at(end)  # the first that is not whole
    if line == len(log.lines) and ending in {Ending.CLOSED, Ending.TRUNCATED, Ending.MARKED}:
        ending = Ending.WHOLE  # nothing is cut
    if ending in {Ending.WHOLE, Ending.TRAILER, Ending.REWRITTEN}:
        end = log.end_of(line - 1)
    elif ending is not Ending.CUT:
        text = log.lines[line].text
        end = log.end_of(line - 1) + random.randint(min(_LEAST, len(text) - 1), len(text) - 1)
    start = max(0, end - window)
    data, changed, tail = _closed(log, bytes(log.content[start:end]), line, ending, at=end)
    first = log.line_at(start)
    head = b"" if start == log.end_of(first - 1) else bytes(log.content[start : log.end_of(first)])
    reaches = line - 1 if ending is Ending.REWRITTEN else line
    whole = first + bool(head)
    return Exported(data=data, first=whole, reaches=max(0, reaches), changed=changed, head=head, tail=tail)


def _closed(
    log: NodeLog, data: bytes, line: int, ending: Ending, *, at: int
) -> tuple[bytes, tuple[bytes, int] | None, bytes]:
    """Return the bytes with their end changed, the line that this made and for which one, and half a line behind it."""
    piece = bytes(log.content[log.end_of(line - 1) : at])
    match ending:
        case Ending.CUT | Ending.WHOLE:
            return data, None, piece
        case Ending.CLOSED:
            return data + b"\n", (piece + b"\n", line), b""
        case Ending.TRUNCATED:
            return data + b"[truncated]\n", (piece + b"[truncated]\n", line), b""
        case Ending.MARKED:
            return data + b"[truncated]", None, piece + b"[truncated]"
        case Ending.TRAILER:
            trailer = f"--- end of export: {line} lines ---\n".encode()
            return data + trailer, (trailer, line), b""
        case Ending.REWRITTEN:
            if not line:
                return data, None, b""
            last = log.lines[line - 1].text
            other = last[: -min(10, len(last))] + b" (changed)\n"
            return data.removesuffix(last) + other, (other, line - 1), b""
