"""A stream that is on disk and that the ledger does not know, or knows less of: it was lost, or is another one.

A ledger that was put back from a copy is older than the files. What shows that for certain: a file that began later
than it knows of: nobody else gives such names. What makes it likely: a newest file of another length than it says,
though nothing was about to be appended, or with another last line. That may be somebody else's writing, too; it is
an older ledger where the file's end is in a snapshot that it takes for not yet taken.

How far a stream that no ledger knows has come is shown by what its end and a snapshot share. In a short log without
times nothing proves that (see ``overlap``), but that its files hold, to the byte, the lines of one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.model.stream import StreamPart, StreamState
from ddslogd.scheduling.clock import EPOCH
from ddslogd.storage import paths
from ddslogd.storage.filesystem import disk
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_time import first_time, last_time
from ddslogd.storage.streams.overlap import READ, Continuation, Slice, continuation, end_of_lines, is_same
from ddslogd.storage.streams.stream_files import is_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddslogd.model.snapshot import Snapshot
    from ddslogd.model.stream import Piece
    from ddslogd.storage.streams.overlap import Window
    from ddslogd.storage.streams.stream_files import StreamFiles

log = structlog.get_logger()

_END = 256  # bytes at a file's end that are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What the ledger has to learn of a stream.

    Attributes:
        parts: Its closed files.
        taken: The keys of the snapshots that it must have taken.
    """

    state: StreamState
    parts: tuple[StreamPart, ...]
    taken: tuple[str, ...]


class Doubt(StrEnum):
    """Whether the ledger may be older than a stream's files."""

    NONE = "none"
    SOME = "some"
    """Unless others wrote to it: see ``is_continued``."""
    CERTAIN = "certain"


def look(files: StreamFiles, state: StreamState) -> Doubt:
    """Compare a stream's files with what the ledger says of it. Blocks.

    Raises:
        StorageError: The disk refuses.
    """
    directory, intent = files.directory, state.intent
    newest = directory / state.path
    with disk(newest):
        new = files.new_of(state.series)
        misfit = is_regular(newest) and _is_misfit(directory, newest, state)
    known = {state.path, intent.path if intent else ""}
    since = newest.name if paths.born_at(newest.name, log=state.log) else ""
    later = [file for file in new if file.name > since and file.relative_to(directory).as_posix() not in known]
    if later or (intent and not all(_is_there(directory, one) for one in (intent.lines, intent.unfinished))):
        return Doubt.CERTAIN
    return Doubt.SOME if misfit else Doubt.NONE


def is_continued(files: StreamFiles, series: str, waiting: Sequence[Snapshot]) -> bool:
    """Return whether the end of a stream's newest file is in one of the snapshots that wait. Blocks.

    Raises:
        StorageError: The disk refuses.
    """
    with disk(files.link(series)):
        there = list(filter(is_regular, files.of(series)))
    if not there:
        return False
    with log_window.end_of(there) as end:
        return any(_continues(files.directory / one.path, end) for one in reversed(waiting))


def _continues(path: Path, end: Window) -> bool:
    try:
        with log_window.lines(path) as export:
            found = continuation(end, export)
            return isinstance(found, Continuation) and not found.older and _is_whole_in(export, found, end)
    except StorageError as exc:  # reported where the stream is to take it
        if exc.passing:
            raise
        return False


def _is_whole_in(export: Window, found: Continuation, end: Window) -> bool:
    """Return whether an export has all of a file's end, but that its last line may have been ended early.

    The exporter ends a line that is being written wherever it is; the next export has it whole. What else is otherwise
    may be somebody else's.
    """
    if not 0 < found.changed <= READ:
        return not found.changed
    line = end.read(end.size - found.changed, found.changed)
    begun = line.rstrip(b"\r\n")
    if not begun or b"\n" in begun:
        return False
    return export.read(found.start, len(begun)) == begun


def _is_misfit(directory: Path, newest: Path, state: StreamState) -> bool:
    """Return whether the newest file has a length, or an end, that no ledger explains; an empty one was emptied.

    Of one that is closed it says nothing.
    """
    intent, size = state.intent, newest.stat().st_size
    if size == 0 or state.closed:
        return False
    if intent is None:
        with log_window.opened(newest) as file:
            whole = end_of_lines(file)  # what is appended ends with a line
        return whole != state.size or not _ends_alike(directory, newest, state)
    return size > (intent.base + intent.size if intent.path == state.path else state.size)


def _ends_alike(directory: Path, newest: Path, state: StreamState) -> bool:
    """Return whether the newest file ends with the last line of the reference that was delivered, as far as is seen."""
    reference = directory / state.reference
    if not state.reference or state.is_own_reference or not reference.is_file():
        return True
    try:
        with log_window.lines(reference) as other:
            if state.delivered > other.size:
                return False
            theirs = _last_line(other, state.delivered)
    except StorageError as exc:  # it is not to be judged; the stream itself is what the next snapshot is compared with
        if exc.passing:
            raise
        return True
    with log_window.opened(newest) as one:
        mine = _last_line(one, state.size)
    return mine.endswith(theirs) or theirs.endswith(mine)


def _last_line(file: Window, end: int) -> bytes:
    text = file.read(max(0, end - _END), min(end, _END))
    return text[text.rfind(b"\n", 0, -1) + 1 :]


def _is_there(directory: Path, piece: Piece | None) -> bool:
    """Return whether a file has the bytes of a piece; one that is gone is not to be judged."""
    if piece is None or not piece.path:
        return True
    try:
        with log_window.lines(directory / piece.path) as file:
            return 0 <= piece.start <= piece.end <= file.size
    except StorageError as exc:
        if exc.passing:
            raise
        return True
    except ValueError:
        return True


def adoption(
    stream_files: StreamFiles, series: str, waiting: Sequence[Snapshot], *, latest: datetime
) -> Adoption | None:
    """Look at what is on disk of a stream; None where nothing is. Blocks.

    The newest snapshot that has something in common with the stream's end says how far the stream has come: those
    before it were taken, and so was it, unless there are lines behind the stream's end in it.

    Args:
        stream_files: Of the storage directory.
        series: Of the snapshots; there is one at least.
        waiting: Those that are not known to be taken, in order of their update time.
        latest: Later times of lines are not believed.

    Raises:
        StorageError: The disk refuses.
    """
    directory = stream_files.directory
    with disk(stream_files.link(series)):
        there = stream_files.of(series)
    found = _readable(directory, there, series, latest)
    if not found:
        return None
    *parts, newest = found
    files = [directory / part.path for part in found]
    with log_window.opened(files[-1]) as file:
        size = end_of_lines(file)  # half a line behind it is what a crash left: it is completed
    total = size + sum(part.size for part in parts)
    with log_window.end_of(files) as end:
        newest_taken, is_all = _newest_taken(directory, end, waiting), False
        if newest_taken is None and end.size == total and len(found) == len(there):
            newest_taken = _same_lines(directory, end, waiting)
            is_all = newest_taken is not None
        delivered_at = last_time(end, 0, end.size, until=latest)
    taken = waiting[: newest_taken[0] if newest_taken[1] else newest_taken[0] - 1] if newest_taken else ()
    newest = replace(newest, size=size)
    state = _state(series, waiting[0], newest, taken=taken)
    if files[-1] != there[-1]:  # one that cannot be read has begun since
        parts = [*found]
        state = replace(state, path=there[-1].relative_to(directory).as_posix(), size=0, closed=True)
    if is_all:
        state = replace(state, reference=taken[-1].path, delivered=total, complete=True)
    return Adoption(
        state=replace(state, delivered_at=delivered_at),
        parts=tuple(parts),
        taken=tuple(one.key for one in taken),
    )


def closed_parts(stream_files: StreamFiles, state: StreamState, *, latest: datetime) -> tuple[StreamPart, ...]:
    """Describe a stream's files but the newest, those that can be read. Blocks.

    Raises:
        StorageError: The disk refuses.
    """
    directory = stream_files.directory
    newest = directory / state.path
    with disk(newest):
        files = stream_files.of(state.series)
    return _readable(directory, [file for file in files if file != newest], state.series, latest)


def _readable(directory: Path, files: Sequence[Path], series: str, latest: datetime) -> tuple[StreamPart, ...]:
    """Describe files as if they were closed; one that cannot be read is skipped, and reported."""
    parts = []
    for file in files:
        try:
            parts.append(_read(directory, file, series, latest))
        except StorageError as exc:
            if exc.passing:
                raise
            todo = "see the file: ddslogd does not know it as a part of the stream, and never removes it"
            log.warning("stream.part_skipped", path=file.relative_to(directory).as_posix(), reason=str(exc), todo=todo)
    return tuple(parts)


def _newest_taken(directory: Path, end: Window, waiting: Sequence[Snapshot]) -> tuple[int, bool] | None:
    """Return which snapshot a stream with this end came to, counted from 1, and whether it has all of its lines."""
    for count in range(len(waiting), 0, -1):
        try:
            with log_window.lines(directory / waiting[count - 1].path) as export:
                found, whole = continuation(end, export), end_of_lines(export)
        except StorageError as exc:  # reported where the stream is to take it
            if exc.passing:
                raise
            continue
        if isinstance(found, Continuation):
            return count, found.start >= whole
    return None


def _same_lines(directory: Path, stream: Window, waiting: Sequence[Snapshot]) -> tuple[int, bool] | None:
    """Return the newest snapshot whose whole lines are the stream, to the byte; as ``_newest_taken`` does."""
    for count in range(len(waiting), 0, -1):
        try:
            with log_window.lines(directory / waiting[count - 1].path) as export:
                if is_same(stream, Slice(export, end_of_lines(export))):
                    return count, True
        except StorageError as exc:  # reported where the stream is to take it
            if exc.passing:
                raise
    return None


def _read(directory: Path, file: Path, series: str, latest: datetime) -> StreamPart:
    """Describe a file as if it were closed."""
    with log_window.opened(file) as lines, disk(file):
        return StreamPart(
            path=file.relative_to(directory).as_posix(),
            series=series,
            size=lines.size,
            first_at=first_time(lines, 0, lines.size, until=latest),
            last_at=last_time(lines, 0, lines.size, until=latest),
            rotated_at=datetime.fromtimestamp(file.stat().st_mtime, UTC),
        )


def _state(series: str, snapshot: Snapshot, newest: StreamPart, *, taken: Sequence[Snapshot]) -> StreamState:
    """Return the state of a stream whose newest file is this one."""
    return StreamState(
        series=series,
        instance=snapshot.file.instance,
        log=snapshot.file.log,
        node=snapshot.file.node,
        path=newest.path,
        size=newest.size,
        born_at=newest.first_at or newest.rotated_at,
        first_at=newest.first_at,
        last_at=newest.last_at,
        reference_at=taken[-1].file.updated_at if taken else EPOCH,  # older ones may still come back to the ledger
    )
