"""Vector's checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.storage.shippers.bounded_read import read_json, read_position
from ddslogd.storage.shippers.file_identity import InodeOnDevice, Mark, Position

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def vector_positions(registry: Path) -> Iterator[tuple[Mark, Position]]:
    """Read checkpoints. vectordotdev/vector, lib/file-source-common/src/checkpointer.rs.

    Passed over are files that are known by how they begin: two logs may begin alike.
    """
    path = registry / "checkpoints.json" if registry.is_dir() else registry
    state = read_json(path)
    if not isinstance(state, dict) or state.get("version") != "1" or not isinstance(state.get("checkpoints"), list):
        raise ValueError(f"no checkpoints of version 1: {path}")
    for checkpoint in state["checkpoints"]:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get("fingerprint"), dict):
            claim = Position(position=read_position(checkpoint.get("position")))
            for kind, value in checkpoint["fingerprint"].items():
                if mark := _vector_mark(kind, value):
                    yield mark, claim


def _vector_mark(kind: str, value: object) -> Mark | None:
    match kind, value:
        case "dev_inode", [int(device), int(inode)]:
            return InodeOnDevice(device, inode)
        case _:
            return None
