"""The vocabulary: what the parts of ddslogd say to each other.

A cycle of an ``Instance`` follows one export. Its reply (``ExportReply``) has a ``Row`` for each node's file; a row
that is ready becomes a ``Link`` to a ``LogFile``, and the log file on disk is a ``Snapshot``. What became of each file
is an outcome: ``Stored | Unchanged | Superseded | Failed``; what became of the cycle is a ``CycleReport``. What a
snapshot adds to the continuous log of its node is an ``Advance``; what is missing there is a ``Gap``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """A schedule by interval: ticks lie on a grid through the epoch, shifted by a phase per instance."""

    interval: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A schedule by five cron fields, read in a time zone.

    Attributes:
        expression: As cronsim reads it; it fires at some time (the configuration has tried it).
        timezone: An IANA name.
    """

    expression: str
    timezone: str


class LogKind(StrEnum):
    """A kind of log that DDS exports; the value stands in the configuration."""

    ERROR = "error"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A mongod or mongos, as the cloud lists it.

    Attributes:
        id: 32 hex digits and ``no02``; stable, which the name may not be.
        group: The type of its group: shard, config, mongos, replica, single.
        role: Changes with a fail-over: Primary, Secondary, Hidden, master (a mongos); ``unknown`` when broken.
    """

    id: str
    name: str
    group: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInstance:
    """An instance as the cloud lists it.

    Attributes:
        mode: Sharding, ReplicaSet, Single.
        status: normal, abnormal, creating, frozen, data_disk_full …
    """

    id: str
    name: str
    mode: str
    status: str
    tags: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """One page of the list of instances.

    Attributes:
        total: How many there are in all, as the cloud says: a hint, its own example contradicts it.
    """

    instances: tuple[ListedInstance, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One DDS instance whose logs are collected.

    Attributes:
        id: 32 hex digits and ``in02``.
        name: What the operator calls it: unique, and the directory of its files.
        cloud: The name of its entry under ``clouds``.
        node_ids: Only these nodes; empty for all.
        logs: The kinds that are collected.
        schedule: When its cycles begin.
    """

    id: str
    name: str
    cloud: str
    node_ids: tuple[str, ...] = ()
    logs: tuple[LogKind, ...] = (LogKind.ERROR,)
    schedule: Every | Cron


class RowState(StrEnum):
    """What one row of an export is doing."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node's file in a reply, as the cloud describes it.

    Attributes:
        url: Secret, see ``Link``; None unless the state is READY.
        updated_at: Aware, UTC; None where the cloud did not say.
    """

    node: str
    file_name: str
    state: RowState
    url: str | None = field(default=None, repr=False)
    updated_at: datetime | None = None

    def __post_init__(self) -> None:
        if (self.state is RowState.READY) != (self.url is not None):
            msg = "a row is ready exactly when it has a link"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReply:
    """The cloud's answer to one errorlog-download call.

    Attributes:
        rows: One a file; may be empty while the export is created.
        creating: True where the cloud says in so many words that more is to come.
        failed: True where the cloud says that at least one file failed.
        unknown_words: Status words that no document lists; their rows count as pending.
        request_id: For the vendor's support.
    """

    rows: tuple[Row, ...]
    creating: bool
    failed: bool = False
    unknown_words: tuple[str, ...] = ()
    request_id: str = ""

    @property
    def settled(self) -> bool:
        """Tell whether nothing more is to come: judged by the rows, the top-level word can only delay it."""
        return not self.creating and all(row.state is not RowState.PENDING for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LogFile:
    """The identity of one exported file.

    A file name alone does not identify it: a later export may use it again with other bytes.

    Attributes:
        instance: The instance's name, see ``Instance``.
        log: Which of its logs.
        node: As the cloud names it; hostile until it has become a path segment.
        file_name: As for the node.
        updated_at: When the cloud finished it; aware, UTC, whole milliseconds.
    """

    instance: str
    log: LogKind = LogKind.ERROR
    node: str
    file_name: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A signed link to one prepared file.

    Attributes:
        url: Secret: whoever holds it can read the log. Kept byte for byte; the signature covers it.
        expires_at: Aware, UTC, by the object store's clock; when it is no longer to be used.
        request_id: Of the reply it came with.
    """

    file: LogFile
    url: str = field(repr=False)
    expires_at: datetime
    request_id: str = ""

    def expires_within(self, margin: timedelta, *, now: datetime) -> bool:
        """Tell whether less than the margin is left of its life at ``now``."""
        return now + margin >= self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What proves that two replies of the object store speak of the same bytes.

    Attributes:
        etag: As sent, quotes included; empty where none came.
        total: Bytes of the whole object; None where no length came.
        last_modified: As sent; empty where none came.
        md5: What the bytes' MD5 must be, lower-case hex; empty where the ETag is no MD5. No part of the identity.
    """

    etag: str = ""
    total: int | None = None
    last_modified: str = ""
    md5: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One published file on disk: whole and final.

    Attributes:
        key: The path that belongs to the file's identity, relative to the storage directory.
        path: Where the bytes are: the key, or that of an older file whose bytes are the same.
        size: Bytes.
        md5: Lower-case hex, of the bytes on disk.
        sha256: The same; empty where the configuration does not ask for it.
        etag: As the object store sent it; empty where none is known.
        verified: True where length or ETag proved it whole; False is ``unverified``.
        began_at: When its transfer began; aware, UTC, as ``stored_at``.
        attempts: Requests to the object store.
        request_ids: Of the reply that held its link, and of the object store's.
        first_at: The first time that its lines tell; aware, UTC, as ``last_at``; None where none of them does.
        delta: Whether only what the node's last file did not hold was fetched.
        fetched: Bytes that crossed the wire for it; None where that is not known.
    """

    file: LogFile
    key: str
    path: str
    size: int
    md5: str
    sha256: str = ""
    etag: str
    verified: bool
    began_at: datetime
    stored_at: datetime
    attempts: int = 1
    request_ids: tuple[str, ...] = ()
    first_at: datetime | None = None
    last_at: datetime | None = None
    delta: bool = False
    fetched: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A published file, as what the next one of its node may begin with the end of.

    Attributes:
        path: On disk; it may be gone meanwhile.
        size: Bytes, as the ledger has it, as all that follows.
        md5: Lower-case hex; empty where it is not known, as the next.
        sha256: The same.
    """

    path: Path
    size: int
    md5: str
    sha256: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Lines of a node that are not, or no longer, in its stream.

    Attributes:
        after: The last time in the log before it; aware, UTC, as all times; None where none is known.
        until: The first time after it; None where none is known, or nothing came after it.
        noted_at: When it was noticed.
        cut: Whether what follows begins within a line, which stands in the stream as far as it is known.
        path: The file in which the log goes on, or that was evicted; relative to the storage directory. Empty while the
            instance is gone.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The file is on disk, new."""

    snapshot: Snapshot
    fetched: int
    """Bytes that crossed the wire for it in this cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The file is nothing new: the ledger had it, or its bytes are those of the node's last one, or it is empty."""

    file: LogFile
    fetched: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """The cloud made a newer file of the same node meanwhile, which is fetched in its place."""

    file: LogFile
    fetched: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The file is not on disk.

    Attributes:
        file_name: Empty where the cloud named no file.
        reason: A sentence that says whose turn it is.
        kind: The error's class name, for counting.
    """

    log: LogKind = LogKind.ERROR
    node: str
    file_name: str
    reason: str
    kind: str
    fetched: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """The export of a kind of log brought nothing, or not to its end.

    Attributes:
        reason: As of ``Failed``, as ``kind``.
    """

    log: LogKind
    reason: str
    kind: str


Outcome = Stored | Unchanged | Superseded | Failed


class CycleOutcome(StrEnum):
    """How a cycle ended, in one word."""

    OK = "ok"
    """Every file the export has is on disk."""
    NOTHING = "nothing"
    """The cloud has no file for this instance."""
    PARTIAL = "partial"
    """Some files are on disk, some failed."""
    FAILED = "failed"
    """No file came: the call failed, or all files did."""
    NO_ROOM = "no_room"
    """Nothing was asked for, since the disk is below ``keep_free``."""
    CACHED = "cached"
    """Nothing was asked for, since the cloud would serve the last export once more, which is on disk."""

    @property
    def good(self) -> bool:
        """Tell whether the cloud was asked, and all that it has is on disk."""
        return self in {CycleOutcome.OK, CycleOutcome.NOTHING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What is known of an instance's exports of one kind of log, for the sake of the next one.

    Attributes:
        asked: Instance and nodes that were asked for: of anything else it says nothing.
        takes: Seconds that the last exports took, oldest first.
        fresh_until: Until when the cloud serves the last one once more; aware, UTC, by the cloud's clock. None where
            it is to be asked all the same: something failed, or the cloud did not say.
    """

    log: LogKind
    asked: str
    takes: tuple[float, ...] = ()
    fresh_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """What one cycle of one instance brought.

    Attributes:
        outcomes: One a file.
        advances: One a snapshot that its stream has taken.
        failed_calls: One a kind of log whose export failed as a whole.
        error: What stopped the cycle as a whole; empty where nothing did.
        habits: What it learned; one a kind of log that was asked for.
        fresh_until: Until when the cloud serves the same files once more, by this host's clock; None where that is not
            known.
    """

    instance: str
    started_at: datetime
    finished_at: datetime
    outcome: CycleOutcome
    outcomes: Sequence[Outcome] = ()
    advances: Sequence[Advance] = ()
    failed_calls: Sequence[FailedCall] = ()
    error: str = ""
    error_kind: str = ""
    habits: Sequence[Habit] = ()
    fresh_until: datetime | None = None

    @property
    def stored(self) -> int:
        """Count the files that are new on disk."""
        return sum(isinstance(outcome, Stored) for outcome in self.outcomes)

    @property
    def unchanged(self) -> int:
        """Count the files that were nothing new."""
        return sum(isinstance(outcome, Unchanged) for outcome in self.outcomes)

    @property
    def failures(self) -> tuple[Failed, ...]:
        """Give the files that are not on disk."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failed))

    @property
    def stored_bytes(self) -> int:
        """Sum the sizes of the new files."""
        return sum(outcome.snapshot.size for outcome in self.outcomes if isinstance(outcome, Stored))

    @property
    def new_bytes(self) -> int:
        """Sum what is new in streams."""
        return sum(advance.new for advance in self.advances)

    @property
    def gaps(self) -> int:
        """Count the gaps that were found."""
        return sum(advance.gap is not None for advance in self.advances)

    @property
    def fetched_bytes(self) -> int:
        """Sum what crossed the wire."""
        return sum(outcome.fetched for outcome in self.outcomes)


class Progress(Protocol):
    """Who watches transfers as they run: a progress bar, or nobody."""

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        """Hear that a transfer of ``file`` begins at byte ``at`` of ``total`` (None: not known).

        ``resumed``: it goes on with what an earlier request had left, not only with what an older file held.
        """

    def advanced(self, file: LogFile, size: int) -> None:
        """Hear that ``size`` more bytes are on disk."""

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Hear what became of the file."""

    def cycled(self, report: CycleReport) -> None:
        """Hear how a cycle ended."""
