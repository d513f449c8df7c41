"""A log that came compressed (gzip, RFC 1952), unpacked piece by piece: bounded in memory and in size.

What came is known by its first bytes, not by what a header says of it: so it is known after a restart, too, and where a
proxy says nothing, or too much. No text begins with these bytes: the second one is no UTF-8 there.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.model.errors import Corrupt, Unpublishable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddslogd.storage.streams.overlap import Window

MAGIC = b"\x1f\x8b\x08"  # RFC 1952, 2.3.1: the two bytes of every member, and deflate, the only method
PIECE = 256 * 1024  # bytes, packed and unpacked, at a time
MOST_RATIO = 1032  # times the packed size: deflate's own bound, to which a storm of one short line comes
ALWAYS = 1024 * 1024  # bytes that may come of however few
_GZIP = 31  # zlib's wbits: the largest window, with gzip's header and trailer


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What a packed file holds.

    Attributes:
        size: Bytes.
        md5: Lower-case hex.
    """

    size: int
    md5: str


def is_packed(content: Window) -> bool:
    """Return whether a file is compressed, by its first bytes. Blocks."""
    return content.read(0, len(MAGIC)) == MAGIC


def examined(content: Window, *, most: int) -> Unpacked:
    """Unpack a file to its end, and keep nothing of it. Blocks, for about 4 ms a MiB.

    Raises:
        Corrupt: It ends early, or its checksum is another.
        Unpublishable: It is larger than ``most``, or is packed once more.
    """
    size, md5, head = 0, hashlib.md5(usedforsecurity=False), b""
    for piece in pieces(content, most=most):
        head = head or piece[: len(MAGIC)]
        md5.update(piece)
        size += len(piece)
    if head == MAGIC:
        raise Unpublishable("the file is compressed (gzip) twice, and is unpacked once only")
    return Unpacked(size=size, md5=md5.hexdigest())


def pieces(content: Window, *, most: int | None = None) -> Iterator[bytes]:
    """Unpack a file piece by piece. Blocks.

    Without ``most`` a file may be ``MOST_RATIO`` times as large as it came: what was published was within its bound.

    Raises:
        Corrupt: As of ``examined``.
        Unpublishable: It is larger than it may be.
    """
    limit = max(ALWAYS, MOST_RATIO * content.size) if most is None else most
    size = 0
    for piece in _members(content):
        size += len(piece)
        if size > limit:
            bound = f"{MOST_RATIO} times its size" if most is None else "download.max_size"
            raise Unpublishable(f"the file is compressed (gzip), and larger than {bound} once it is unpacked")
        yield piece


def _members(content: Window) -> Iterator[bytes]:
    """Unpack the members of a file, one behind the other; zeroes may follow the last one, as gzip(1) has it."""
    unpacker, at, rest = zlib.decompressobj(_GZIP), 0, b""
    while rest or at < content.size:
        if not rest:
            rest = content.read(at, PIECE)
            at += len(rest)
            if not rest:
                break
        if unpacker.eof:
            rest = rest.lstrip(b"\0")
            if not rest:
                continue
            unpacker = zlib.decompressobj(_GZIP)
        try:
            piece = unpacker.decompress(rest, PIECE)
        except zlib.error as exc:
            raise Corrupt(f"the file is compressed (gzip), and damaged: {exc}") from None
        rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        if piece:
            yield piece
    if not unpacker.eof:
        raise Corrupt("the file is compressed (gzip), and ends before its end")
