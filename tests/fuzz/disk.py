"""What the daemon has put on disk: streams, file by file and as a whole, and snapshots."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TOKEN = re.compile(rb"#([a-z]\d+)\.(\d{6})#")
_NAMED = re.compile(r"\d{8}T\d{6}\.\d{3}Z(?P<ending>(\.slow)?\.log)")


class Tail:
    """The newest event of each node that is on disk. Each byte is read once."""

    def __init__(self, logs: Path) -> None:
        self._streams = logs / "streams"
        self._read: dict[int, int] = {}  # by inode: up to where
        self.newest: dict[str, int] = {}  # by the node's tag

    def look(self) -> None:
        """Read what has come since the last time."""
        for path in self._streams.glob("*/*/*.log"):
            try:
                with path.open("rb") as file:
                    inode = path.stat().st_ino
                    start = self._read.get(inode, 0)
                    file.seek(start)
                    data = file.read()
            except FileNotFoundError:  # removed meanwhile
                continue
            end = data.rfind(b"\n") + 1
            self._read[inode] = start + end
            for tag, event in _TOKEN.findall(data[:end]):
                self.newest[tag.decode()] = max(self.newest.get(tag.decode(), -1), int(event))


def streams(logs: Path) -> dict[str, bytes]:
    """Return all streams by the path of their link below ``streams``: the files in the order they were written."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    root = logs / "streams"
    for path in root.glob("*/*/*.log"):
        found = _NAMED.fullmatch(path.name)
        if found:
            files[f"{path.parent.parent.name}/{path.parent.name}{found['ending']}"].append(path)
    return {name: b"".join(path.read_bytes() for path in sorted(paths)) for name, paths in files.items()}


def age(path: Path) -> int:
    """Return what the snapshots of a node are sorted by; the names are by a clock that jumps."""
    return path.stat().st_mtime_ns


def tags(stream: bytes) -> Counter[str]:
    """Return whose lines are in a stream, and how many."""
    return Counter(tag.decode() for tag, _ in _TOKEN.findall(stream))


def joined(parts: Iterable[bytes]) -> bytes:
    """Return several streams of one node as one, by the events that they begin with."""
    begun = sorted((_first_event(part), part) for part in parts)
    return b"".join(part for _, part in begun)


def _first_event(stream: bytes) -> int:
    found = _TOKEN.search(stream)
    return int(found[2]) if found else -1


def snapshots(logs: Path) -> dict[str, str]:
    """Return the MD5 of each visible file below ``snapshots``, by its path there."""
    root = logs / "snapshots"
    files = [path for path in root.rglob("[!.]*.log") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in files
    }
