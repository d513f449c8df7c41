"""The vocabulary: what the parts of ddslogd say to each other.

A cycle of an ``Instance`` follows one export. Its reply (``ExportReply``) has a ``Row`` for each node's file; a row
that is ready becomes a ``Link`` to a ``LogFile``, and the log file on disk is a ``Snapshot``. What became of each file
is an outcome: ``Stored | Unchanged | Superseded | Failed``; what became of the cycle is a ``CycleReport``. What a
snapshot adds to the continuous log of its node is an ``Advance``; what is missing there is a ``Gap``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003  # pydantic reads the annotations, see monitoring/status_json.py
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile, Stored, Superseded, Unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from ddslogd.model.export import Habit
    from ddslogd.model.failure_kind import FailureKind
    from ddslogd.model.snapshot import Snapshot
    from ddslogd.model.stream import Advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The file is not on disk.

    Attributes:
        file_name: Empty where the cloud named no file.
        reason: A sentence that says who has to act.
    """

    log: LogKind = LogKind.ERROR
    node: str
    file_name: str
    reason: str
    kind: FailureKind
    fetched: int = 0


class NodeState(StrEnum):
    """How the exports of a node are, where they are not as they should be."""

    LEFT_OUT = "left out"
    """It had a file before, and the last export says nothing of it."""
    NO_LONGER_EXPORTED = "no longer exported"
    """The same for a day, and no list says whether the node is still there."""
    REMOVED = "removed"
    """The same, and the cloud lists no such node any more."""
    STALLED = "stalled at the source"
    """The cloud was asked for a new export, and gives the one of long ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStanding:
    """A node whose exports are not as they should be.

    Attributes:
        since: When a cycle first found it so; aware, UTC.
        made_at: Of a stalled one: when the cloud made its last export, by the cloud's clock; else None.
    """

    log: LogKind
    node: str
    state: NodeState
    since: datetime
    made_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A node that had a file before.

    Attributes:
        file_name: Of its newest snapshot; empty where none is known.
        at: Its update time, which the files on disk tell, too; aware, UTC. None where it is not known.
    """

    node: str
    file_name: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHistory:
    """What the ledger knows of the exports of one kind of an instance's logs.

    Attributes:
        delivered: The nodes that had a file before.
        known: Those whose exports were not as they should be after the last cycle.
        offered: Those that the last export had a row of.
        good_at: When the last good cycle of the instance ended, by the cloud's clock; None where there was none.
    """

    delivered: tuple[Delivered, ...] = ()
    known: tuple[NodeStanding, ...] = ()
    offered: frozenset[str] = frozenset()
    good_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """The export of a kind of log brought nothing, or not to its end.

    Attributes:
        reason: As of ``Failed``.
    """

    log: LogKind
    reason: str
    kind: FailureKind


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
    STALLED = "stalled"
    """All that the export has is on disk, and of some node it is one of long ago."""

    @property
    def good(self) -> bool:
        """Return whether the cloud was asked, and all that it has is on disk."""
        return self in {CycleOutcome.OK, CycleOutcome.NOTHING}


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """What one cycle of one instance brought.

    Attributes:
        outcomes: One a file.
        advances: One a snapshot that its stream has taken.
        failed_calls: One a kind of log whose export failed as a whole.
        error: What stopped the cycle as a whole; empty where nothing did.
        error_kind: Of what stopped it; None where nothing did.
        habits: What it learned; one a kind of log that was asked for.
        fresh_until: Until when the cloud serves the same files once more, by this host's clock; None where that is not
            known.
        judged: The kinds of log whose export was followed to its end.
        offered: The nodes that the exports of these had a row of.
        completed: Those of these whose files are all settled, and whose source was judged.
        cached: The kinds of log that were not asked for, since the cloud would serve the last export once more.
        nodes: Those of the judged kinds whose exports are not as they should be.
        stalled: What is to be said of those that are stalled; their files are on disk.
        selected: Whether only some files were asked for: then it says nothing of the instance as a whole.
        cloud: The instance's; empty where that does not matter.
        clock_ahead: How far the cloud's clock is ahead of this host's, whose times these are; None where that is not
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
    error_kind: FailureKind | None = None
    habits: Sequence[Habit] = ()
    fresh_until: datetime | None = None
    judged: Sequence[LogKind] = ()
    offered: Mapping[LogKind, Sequence[str]] = field(default_factory=dict)
    completed: Sequence[LogKind] = ()
    cached: Sequence[LogKind] = ()
    nodes: Sequence[NodeStanding] = ()
    stalled: Sequence[Failed] = ()
    cloud: str = ""
    clock_ahead: timedelta | None = None
    selected: bool = False

    @property
    def stored(self) -> int:
        """Count the files that are new on disk."""
        return sum(isinstance(outcome, Stored) for outcome in self.outcomes)

    @property
    def entries(self) -> tuple[Snapshot, ...]:
        """Return what is to be entered of files that were nothing new; those that are new were, as they came."""
        unchanged = (outcome for outcome in self.outcomes if isinstance(outcome, Unchanged))
        return tuple(outcome.entry for outcome in unchanged if outcome.entry is not None)

    @property
    def unchanged(self) -> int:
        """Count the files that were nothing new."""
        return sum(isinstance(outcome, Unchanged) for outcome in self.outcomes)

    @property
    def failures(self) -> tuple[Failed, ...]:
        """Return the files that are not on disk."""
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
        """Hear that ``size`` more bytes have come; those that are thrown away later, too."""

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Hear what became of the file."""

    def cycled(self, report: CycleReport) -> None:
        """Hear how a cycle ended."""


class Silent:
    """Nobody watches."""

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        """Report nothing."""

    def advanced(self, file: LogFile, size: int) -> None:
        """Report nothing."""

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Report nothing."""

    def cycled(self, report: CycleReport) -> None:
        """Report nothing."""
