"""A stream that is on disk and that the ledger does not know: it was lost, or is another one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ddslogd.pacing import EPOCH
from ddslogd.storage import layout, livefile, window
from ddslogd.storage.filesystem import disk
from ddslogd.storage.logtime import first_time, last_time
from ddslogd.storage.streambook import StreamPart, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddslogd.models import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What the ledger has to learn of a stream.

    Attributes:
        parts: Its rotated files.
        taken: The keys of the snapshots that it must have taken.
    """

    state: StreamState
    parts: tuple[StreamPart, ...]
    taken: tuple[str, ...]


def adoption(directory: Path, series: str, waiting: Sequence[Snapshot]) -> Adoption | None:
    """Look at what is on disk of a stream; None where nothing is. Blocks.

    A snapshot that is older than the last line of the stream has been taken. A newer one may have been too: it had
    nothing new then, and is compared with the stream itself.

    Args:
        directory: The storage directory.
        series: Of the snapshots; there is one at least.
        waiting: Those that are not known to be taken.

    Raises:
        StorageError: The disk refuses.
    """
    live = directory / layout.stream_path(series)
    with disk(live):
        rotated = livefile.rotated_files(live)
        files = [*rotated, *([live] if live.is_file() else [])]
        written = max((file.stat().st_mtime for file in files), default=None)
        if written is None:
            return None
        taken = [one.key for one in waiting if (directory / one.path).stat().st_mtime <= written]
    newest = _read(directory, files[-1], series)
    state = _state(series, waiting[0], newest, live=files[-1] == live)
    return Adoption(state=state, parts=tuple(_read(directory, file, series) for file in rotated), taken=tuple(taken))


def _read(directory: Path, file: Path, series: str) -> StreamPart:
    """Describe a file as if it had been rotated away."""
    with window.opened(file) as lines:
        return StreamPart(
            path=file.relative_to(directory).as_posix(),
            series=series,
            size=lines.size,
            first_at=first_time(lines, 0, lines.size),
            last_at=last_time(lines, 0, lines.size),
            rotated_at=datetime.fromtimestamp(file.stat().st_mtime, UTC),
        )


def _state(series: str, snapshot: Snapshot, newest: StreamPart, *, live: bool) -> StreamState:
    """Give the state of a stream whose newest file is this one."""
    return StreamState(
        series=series,
        instance=snapshot.file.instance,
        log=snapshot.file.log,
        node=snapshot.file.node,
        size=newest.size if live else 0,
        born_at=newest.first_at or newest.rotated_at,
        first_at=newest.first_at if live else None,
        last_at=newest.last_at if live else None,
        reference_at=EPOCH,
        delivered_at=newest.last_at,
    )
