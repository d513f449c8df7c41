"""Whose an instance's directories are: a small hidden file in each, which outlives the ledger.

<directory>/streams/<instance>/.owner.json      and the same below snapshots

It holds cloud, id and name of the instance, and the names that its nodes were given for life.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.model.instance import NodeName
from ddslogd.storage import paths
from ddslogd.storage.filesystem import disk, new_file, no_follow, sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = structlog.get_logger()

VERSION: Final = 1
MOST_BYTES: Final = 4 * 1024 * 1024  # of one file; ten thousand nodes need less
_TOPS: Final = (paths.STREAMS, paths.SNAPSHOTS)  # in order of trust: what is in a stream cannot be fetched again
_NEW: Final = f"{paths.OWNER}.new"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOwner:
    """What an owner file says.

    Attributes:
        cloud: The name of its entry under ``clouds``.
        id: The instance's.
        name: The instance's, which names the directory.
        nodes: By what tells a node from others, see ``node_names``.
    """

    cloud: str
    id: str
    name: str
    nodes: Mapping[str, NodeName] = field(default_factory=dict)


def owner_of(directory: Path, segment: str) -> DirectoryOwner | None:
    """Return whose the directories of a name are; None where no file says it, or none that can be read. Blocks.

    Args:
        directory: The storage directory.
        segment: The name of the directories.
    """
    found = [owner for top in _TOPS if (owner := _read(directory / top / segment)) is not None]
    if not found:
        return None
    first, nodes = found[0], dict[str, NodeName]()
    for owner in reversed([one for one in found if (one.cloud, one.id) == (first.cloud, first.id)]):
        nodes |= owner.nodes
    if any((one.cloud, one.id) != (first.cloud, first.id) for one in found):
        todo = "the one below streams counts; move what is another instance's out of the directory"
        log.warning("owner.disputed", directory=segment, owners=[f"{one.cloud}/{one.id}" for one in found], todo=todo)
    return DirectoryOwner(cloud=first.cloud, id=first.id, name=first.name, nodes=nodes)


def names_on_disk(directory: Path) -> dict[tuple[str, str], str]:
    """Return the names of the instances whose directories say whose they are, by cloud and id. Blocks.

    Where several directories claim one instance, that which has the instance's own name has it, else the first.
    """
    claims: dict[tuple[str, str], list[str]] = {}
    for segment in sorted({segment for top in _TOPS for segment in _directories(directory / top)}):
        owner = owner_of(directory, segment)
        if owner is None:
            continue
        names = claims.setdefault((owner.cloud, owner.id), [])
        if paths.segment(owner.name) == segment:
            names.insert(0, owner.name)
        elif paths.segment(segment) == segment:  # it was renamed, or is a copy: what it is called now is a name, too
            names.append(segment)
        else:
            log.warning("owner.unusable", directory=segment, name=owner.name, todo="give the directory its name back")
    for (cloud, id_), names in claims.items():
        if len(names) > 1:
            todo = f"{names[0]} is used; remove the other directories, or their {paths.OWNER}"
            log.warning("owner.claimed_twice", cloud=cloud, id=id_, directories=names, todo=todo)
    return {key: names[0] for key, names in claims.items() if names}


def places(directory: Path, name: str) -> tuple[Path, ...]:
    """Return the directories that an instance has now, each of which needs an owner file. Blocks."""
    homes = (directory / top / paths.segment(name) for top in _TOPS)
    return tuple(home for home in homes if _is_directory(home))


def write(directory: Path, owner: DirectoryOwner) -> None:
    """Write the owner files of an instance's directories, durably, where they say anything else. Blocks.

    Raises:
        StorageError: The disk refuses.
    """
    content = {
        "version": VERSION,
        "cloud": owner.cloud,
        "instance": owner.id,
        "name": owner.name,
        "nodes": {identity: [node.name, node.called] for identity, node in sorted(owner.nodes.items())},
    }
    text = json.dumps(content, indent=1).encode()
    for home in places(directory, owner.name):
        if not _says(home, text):
            _write(home, text)


def _write(home: Path, text: bytes) -> None:
    path, new = home / paths.OWNER, home / _NEW
    with disk(path):
        fd = new_file(new)
        try:
            os.write(fd, text)
            os.fsync(fd)
        finally:
            os.close(fd)
        new.rename(path)
        sync_directory(home)


def _says(home: Path, text: bytes) -> bool:
    try:
        return _bytes(home / paths.OWNER) == text
    except (OSError, ValueError):
        return False


def _read(home: Path) -> DirectoryOwner | None:
    """Return what a directory's file says; what is there and is none of ours is reported."""
    path = home / paths.OWNER
    try:
        with disk(path):
            text = _bytes(path)
        return None if text is None else _owner(json.loads(text))
    except (StorageError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        reason = str(exc) if isinstance(exc, StorageError) else f"it is no owner file of version {VERSION}"
        todo = "nothing where the ledger is whole: it is written again; else see that the directory's name is right"
        log.warning("owner.unreadable", path=str(path).encode(errors="replace").decode(), reason=reason, todo=todo)
        return None


def _bytes(path: Path) -> bytes | None:
    try:
        fd = no_follow(str(path), os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise ValueError
        return file.read(MOST_BYTES)


def _owner(found: dict[str, Any]) -> DirectoryOwner:
    """Read the file's content; whatever it lacks, or has of another type, raises one of the errors of that."""
    if found["version"] != VERSION:
        raise ValueError
    nodes = {
        _text(identity): NodeName(name=_text(node[0]), called=_text(node[1], empty=True))
        for identity, node in found["nodes"].items()
    }
    return DirectoryOwner(
        cloud=_text(found["cloud"]), id=_text(found["instance"]), name=_text(found["name"]), nodes=nodes
    )


def _text(value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise ValueError
    value.encode()  # half a surrogate pair raises, too: neither ledger nor disk would take it
    return value


def _directories(top: Path) -> list[str]:
    try:
        with os.scandir(top) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
