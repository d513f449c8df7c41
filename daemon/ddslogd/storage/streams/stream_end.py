"""What was delivered of a log: the end of its stream, or the snapshot whose lines that is.

Everything here blocks.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ddslogd.model.errors import StorageError
from ddslogd.model.stream import Piece
from ddslogd.storage.filesystem import disk, exists
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_time import first_time
from ddslogd.storage.streams.overlap import Behind, Continuation, Slice, continuation, end_of_lines, is_same
from ddslogd.storage.streams.stream_files import is_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ddslogd.model.stream import StreamState
    from ddslogd.storage.disk_space import Reserve
    from ddslogd.storage.streams.overlap import Window
    from ddslogd.storage.streams.stream_files import StreamFiles

HEAD = 4096  # bytes of lines that a stream begins with: more than one line, mostly
MOST_FILES = 64  # of a stream that are open at the same time
MOST_TAIL = 64 * 1024  # bytes behind the last line end of a snapshot that the ledger keeps in its place


class StreamEnds:
    """What the streams of one storage directory end with."""

    def __init__(self, files: StreamFiles, reserve: Reserve) -> None:
        self._files = files
        self._reserve = reserve

    def lines(self, path: str) -> AbstractContextManager[Window]:
        """Open a snapshot for its lines, by its path; raises as ``log_window.lines`` does."""
        return log_window.lines(self._files.directory / path, reserve=self._reserve)

    @contextmanager
    def last(self, state: StreamState, *, is_new: bool) -> Iterator[tuple[Window | None, bool]]:
        """Return the end of what was delivered: of the last snapshot, or of the stream itself where that is gone.

        And whether that is all that was ever delivered.
        """
        with ExitStack() as stack:
            delivered = stack.enter_context(self.delivered(state)) if state.is_own_reference else None
            if is_new:
                yield None, False
            elif delivered is not None:
                yield delivered, state.complete
            elif self._has_reference(state):
                last = stack.enter_context(self.lines(state.reference))
                yield Slice(last, min(state.delivered, last.size)), state.complete
            else:
                end, is_all = stack.enter_context(self._end(state))
                yield end, state.complete and is_all

    @contextmanager
    def delivered(self, state: StreamState) -> Iterator[Window | None]:
        """Return the bytes of its reference that a stream ends with; None where they are not as the ledger says."""
        with ExitStack() as stack:
            held = None
            try:
                files = self.locate(state, state.delivered)
                held = stack.enter_context(log_window.joined(files, exact=state.intent is None))
            except StorageError as exc:
                if exc.passing:
                    raise
            is_whole = held is not None and held.size >= state.delivered
            yield Behind(held, held.size - state.delivered) if held is not None and is_whole else None

    def locate(self, state: StreamState, size: int) -> list[tuple[Path, int]]:
        """Return the files that hold the last bytes of a stream, as many at least, with their sizes; blocks.

        Raises:
            StorageError: They are not as the ledger has them, or the disk refuses.
        """
        newest = self._files.directory / state.path
        with disk(newest):
            files = self._files.new_of(state.series)
            if newest not in files:
                raise StorageError(f"it is gone: {newest}")
            found: list[tuple[Path, int]] = []
            for file in reversed(files[: files.index(newest) + 1]):
                is_live = file == newest and not state.closed
                found.append((file, state.size if is_live else file.lstat().st_size))
                if sum(held for _, held in found) >= size:
                    break
                if len(found) == MOST_FILES:
                    raise StorageError(
                        f"the last export is in more than {MOST_FILES} files of the stream: {newest.parent}"
                    )
        return found[::-1]

    def unfinished(self, state: StreamState) -> Piece | None:
        """Return what waits for its end: a line that no line end was delivered of; None for nothing.

        Raises:
            StorageError: The snapshot that has it cannot be read.
        """
        if state.is_own_reference:
            return Piece(path="", start=0, end=len(state.tail)) if state.tail else None
        if not self._has_reference(state):
            return None
        with self.lines(state.reference) as last:
            size = last.size
        return Piece(path=state.reference, start=state.delivered, end=size) if size > state.delivered else None

    def copied_tail(self, state: StreamState) -> bytes | None:
        """Return what a snapshot has behind the bytes that the stream ends with; None where those differ. Blocks."""
        if not self._has_reference(state):
            return None
        try:
            with self.lines(state.reference) as last, self.delivered(state) as delivered:
                if delivered is None or last.size - state.delivered > MOST_TAIL:
                    return None
                is_copy = is_same(Slice(last, min(state.delivered, last.size)), delivered)
                return last.read(state.delivered, MOST_TAIL) if is_copy else None
        except StorageError as exc:  # then the snapshot stays
            if exc.passing:
                raise
            return None

    def is_continued(self, state: StreamState, held: int, new: Window) -> bool:
        """Return whether a file that begins with as many of a stream's last bytes continues it right behind them."""
        with self.delivered(state) as delivered:
            if delivered is None or held > delivered.size:
                return False
            export = log_window.Joined([Behind(delivered, delivered.size - held), new])
            found = continuation(delivered, export, complete=state.complete)
        return isinstance(found, Continuation) and (found.start, found.changed, found.older) == (held, 0, False)

    def reaches_back(self, series: str, oldest: str) -> bool:
        """Return whether a snapshot, by its path, reaches back to the first line of a stream, if that can be read.

        Raises:
            StorageError: The snapshot cannot be read, or the disk refuses for a moment.
        """
        with disk(self._files.link(series)):
            files = list(filter(is_regular, self._files.of(series)))
        if not files:
            return True
        with ExitStack() as stack:
            export = stack.enter_context(self.lines(oldest))
            try:
                stream = stack.enter_context(log_window.opened(files[0]))
            except StorageError as exc:
                if exc.passing:
                    raise
                return True
            export_at, stream_at = (first_time(window, 0, window.size) for window in (export, stream))
            if export_at is not None and stream_at is not None and export_at < stream_at:
                return True
            most = min(HEAD, stream.size, end_of_lines(export))
            head = stream.read(0, end_of_lines(Slice(stream, most)) or most)
            at = export.find(head, 0, export.size)
            return at == 0 or (at > 0 and export.read(at - 1, 1) == b"\n")

    @contextmanager
    def _end(self, state: StreamState) -> Iterator[tuple[Window | None, bool]]:
        """Return the last lines of a stream, and whether they are all in one file; None where it has no file."""
        newest = self._files.directory / state.path
        with disk(newest):
            files = list(filter(is_regular, self._files.of(state.series)))
        if state.intent is not None and state.intent.path != state.path:  # it may be begun, and does not count yet
            files = [file for file in files if file != self._files.directory / state.intent.path]
        if not files:
            yield None, False
            return
        size = state.size if files[-1] == newest and not state.closed else None
        with log_window.end_of(files, size=size) as last:
            yield last, len(files) == 1

    def _has_reference(self, state: StreamState) -> bool:
        """Return whether the snapshot is there that the next one is compared with; blocks."""
        return bool(state.reference) and not state.is_own_reference and exists(self._files.directory / state.reference)
