"""One continuous log for each node: what was appended, and which lines may be missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations, see ledger/stream_records.py
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ddslogd.model.instance import LogKind  # noqa: TC001  # the same

if TYPE_CHECKING:
    from datetime import timedelta

    from ddslogd.model.snapshot import LogFile


STREAMS = "streams/"
"""What paths of streams' files begin with, relative to the storage directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a file, or of what is in memory.

    Attributes:
        path: Relative to the storage directory; empty where no file has them: they are gone with the process.
    """

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Count the bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is about to be appended to a stream. Whoever finds it carries it out, as often as that is begun.

    Attributes:
        snapshot: The key of the snapshot whose lines these are.
        lines: Those of it that are new; may be empty. Where no file has them, whoever finds them missing has the next
            snapshot instead, and goes on with the file that they were to be in.
        unfinished: Where a gap follows: the line that waited for its end, which is appended with a line end of its own;
            where no file has it, it is the state's ``tail``.
        path: The file that they are appended to, relative to the storage directory.
        base: Bytes of that file before; 0 where it begins with them.
        delivered: Bytes of the snapshot up to its last line end.
        updated_at: Of the snapshot.
        first_at: The first time that the new lines tell.
        last_at: The last one.
        older: Whether all of the snapshot was in the stream, and more: the next export is not compared with it.
        complete: As of ``StreamState``, once it is carried out.
        md5: Of the lines where no file has them, lower-case hex: whether they are all in the stream's file shows that.
    """

    snapshot: str
    lines: Piece
    unfinished: Piece | None = None
    path: str
    base: int
    delivered: int
    updated_at: datetime
    first_at: datetime | None = None
    last_at: datetime | None = None
    older: bool = False
    complete: bool = False
    md5: str = ""
    gap: Gap | None = None

    @property
    def is_held(self) -> bool:
        """Return whether no file has the lines."""
        return not self.lines.path

    @property
    def size(self) -> int:
        """Count the bytes that are appended."""
        return self.lines.size + (self.unfinished.size + 1 if self.unfinished else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """How far a stream has come.

    Attributes:
        series: What snapshots it is made of, see ``paths.series``.
        path: Its newest file, relative to the storage directory; that of its link where it has none yet, or one of the
            old layout.
        size: Bytes of that file; 0 where it is closed.
        born_at: When that file got its first line.
        first_at: The first time that its lines tell.
        last_at: The last one.
        reference: The path of the snapshot that the next one is compared with; that of a file of the stream, where the
            stream stands for it: it ends with the same ``delivered`` bytes; empty for none.
        reference_at: When the cloud made the last export that brought nothing the stream has not: the reference, or a
            later one with the same bytes.
        delivered: Bytes of it that are in the stream.
        delivered_at: The last time that the stream's lines tell.
        complete: Whether the first ``delivered`` bytes of the reference are all that the stream ever had.
        tail: Where the stream stands for the reference: what that has behind ``delivered``, a line without its end.
        closed: Whether the newest file is complete, so that the next line goes to a new one.
    """

    series: str
    instance: str
    log: LogKind
    node: str
    path: str
    size: int
    born_at: datetime
    first_at: datetime | None = None
    last_at: datetime | None = None
    reference: str = ""
    reference_at: datetime
    delivered: int = 0
    delivered_at: datetime | None = None
    complete: bool = False
    closed: bool = False
    tail: bytes = b""
    intent: Intent | None = None

    @property
    def is_own_reference(self) -> bool:
        """Return whether the stream's own end is what the next snapshot is compared with."""
        return self.reference.startswith(STREAMS)

    def after(self, intent: Intent, *, now: datetime, tail: bytes = b"") -> StreamState:
        """Return the state once the intent is carried out.

        Args:
            intent: What is appended.
            now: When that is.
            tail: What is behind the lines, where no file has them.
        """
        began = intent.base == 0 and intent.size > 0
        compared: dict[str, Any] = {}  # what the next one is compared with
        if not intent.older:
            compared = {
                "reference": intent.lines.path or intent.path,
                "tail": tail,
                "reference_at": intent.updated_at,
                "delivered": intent.delivered,
                "complete": intent.complete,
            }
        return replace(
            self,
            path=intent.path if intent.size else self.path,
            size=intent.base + intent.size if intent.size else self.size,
            closed=self.closed and not intent.size,
            born_at=now if began else self.born_at,
            first_at=intent.first_at if began else self.first_at or intent.first_at,
            last_at=intent.last_at if began else intent.last_at or self.last_at,
            delivered_at=intent.last_at or self.delivered_at,
            intent=None,
            **compared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPart:
    """A file of a stream that is closed: its lines are all there.

    Attributes:
        path: Relative to the storage directory.
        size: Bytes.
        rotated_at: When it was closed.
    """

    path: str
    series: str
    size: int
    first_at: datetime | None
    last_at: datetime | None
    rotated_at: datetime


class GapCause(StrEnum):
    """Why lines are missing from a stream."""

    WINDOW_OVERFLOW = "window overflow"
    """More was written between two exports than one of them holds."""
    FAILED_EXPORTS = "failed exports"
    """The cloud or the way to it failed for too long."""
    DAEMON_DOWN = "daemon down"
    """Nobody asked for too long."""
    DISK_FULL = "disk full"
    """Nothing was asked for, since the disk was below ``keep_free``."""
    INSTANCE_GONE = "instance gone"
    """The cloud had no such instance."""
    EVICTED_UNSHIPPED = "evicted unshipped"
    """The lines were on disk, and had to make room before a shipper had read them."""
    UNPROVED = "unproved"
    """Perhaps none is missing: only lines that repeat themselves show that the log goes on here, and prove nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Lines of a node that are not, or no longer, in its stream.

    Attributes:
        after: The last time in the log before it; aware, UTC, as all times; None where none is known.
        until: The first time after it; None where none is known, or nothing came after it.
        noted_at: When it was noticed.
        cut: Whether what follows begins within a line, which is in the stream as far as it is known.
        path: The file in which the log goes on, or that was evicted; relative to the storage directory. Empty while the
            instance is gone. ``*`` where it stands for several.
        number: Of gaps that it stands for: the oldest ones of a node and cause are merged where there are very many.
        first_noted_at: Of several: when the first was noticed; ``noted_at`` is the last.
    """

    instance: str
    log: LogKind
    node: str
    after: datetime | None
    until: datetime | None
    cause: GapCause
    noted_at: datetime
    cut: bool
    path: str
    number: int = 1
    first_noted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What one snapshot brought to its stream.

    Attributes:
        new: Bytes that were not there before.
        window: Bytes of the snapshot.
        full: Whether the snapshot begins later than the last one did: an export is full, older lines are cut off.
        took: Between the two exports; None where this is the first.
    """

    file: LogFile
    new: int
    window: int
    full: bool
    took: timedelta | None
    gap: Gap | None = None
