"""How much room a file system has left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A file system's.

    Attributes:
        free: Bytes, for whoever is not root.
        inodes_free: None where the file system makes them as it needs them.
    """

    free: int
    total: int
    inodes_free: int | None
    inodes: int


def room_at(place: Path | int) -> Room:
    """Look how much room there is, by a path or an open file; blocks.

    Raises:
        OSError: The file system does not say.
    """
    found = os.statvfs(place)
    return Room(
        free=found.f_bavail * found.f_frsize,
        total=found.f_blocks * found.f_frsize,
        inodes_free=found.f_favail if found.f_files else None,
        inodes=found.f_files,
    )
