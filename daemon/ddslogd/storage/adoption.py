"""A stream that is on disk and that the ledger does not know: it was lost, or is another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ddslogd.errors import StorageError
from ddslogd.pacing import EPOCH
from ddslogd.storage import layout, livefile, window
from ddslogd.storage.filesystem import disk
from ddslogd.storage.logtime import first_time, last_time
from ddslogd.storage.overlap import Slice, continuation, end_of_lines
from ddslogd.storage.streambook import StreamPart, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddslogd.models import Snapshot
    from ddslogd.storage.overlap import Window


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

    The newest snapshot that has something in common with the stream's end says how far the stream has come: those
    before it were taken, and so was it, unless there are lines behind the stream's end in it.

    Args:
        directory: The storage directory.
        series: Of the snapshots; there is one at least.
        waiting: Those that are not known to be taken, in order of their update time.

    Raises:
        StorageError: The disk refuses.
    """
    live = directory / layout.stream_path(series)
    with disk(live):
        rotated = livefile.rotated_files(live)
        files = [*rotated, *([live] if live.is_file() else [])]
    if not files:
        return None
    with window.opened(files[-1]) as end:
        size = end_of_lines(end)  # half a line behind it is what a crash left: it is completed, or put aside
        taken = _taken(directory, Slice(end, size), waiting)
    newest = replace(_read(directory, files[-1], series), size=size)
    return Adoption(
        state=_state(series, waiting[0], newest, live=files[-1] == live),
        parts=tuple(_read(directory, file, series) for file in rotated),
        taken=taken,
    )


def _taken(directory: Path, end: Window, waiting: Sequence[Snapshot]) -> tuple[str, ...]:
    """Give the keys of the snapshots that a stream with this end has taken."""
    for count in range(len(waiting), 0, -1):
        try:
            with window.opened(directory / waiting[count - 1].path) as export:
                found, whole = continuation(end, export), end_of_lines(export)
        except StorageError:  # told of where the stream is to take it
            continue
        if found is not None:
            return tuple(one.key for one in waiting[: count if found.start >= whole else count - 1])
    return ()


def _read(directory: Path, file: Path, series: str) -> StreamPart:
    """Describe a file as if it had been rotated away."""
    with window.opened(file) as lines, disk(file):
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
