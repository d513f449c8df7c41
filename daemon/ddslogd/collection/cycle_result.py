"""What one cycle brings: it grows while the cycle runs, and ends as its report."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed, FailedCall
from ddslogd.model.errors import CloudError, StorageError
from ddslogd.model.export import Habit
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.line_quota import some
from ddslogd.model.snapshot import Stored, Superseded, Unchanged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ddslogd.collection.context import CycleContext
    from ddslogd.collection.node_standings import NodeStandings
    from ddslogd.huaweicloud.export import RunningExport
    from ddslogd.model.cycle import Outcome
    from ddslogd.model.errors import DdslogdError
    from ddslogd.model.instance import LogKind
    from ddslogd.model.stream import Advance

log = structlog.get_logger()

MOST_REASONS = 5  # in the one error of a cycle; what fails by itself has its own
OPERATORS_TURN = {
    FailureKind.GONE,
    FailureKind.NOT_ALLOWED,
    FailureKind.UNSUPPORTED,
    FailureKind.CREDENTIALS_REFUSED,
    FailureKind.MISDIRECTED,
}


class CycleResult:
    """What a cycle has brought so far.

    Attributes:
        advances: Of the streams.
        exports: Of each kind of log that was asked for, with what was asked for.
        cached: Kinds that were not asked for, since there is nothing new of them yet.
        failed_calls: What ended an export.
        failed_streams: What kept a stream from its snapshots.
        failed_names: What kept nodes from their names: without them nothing can be stored.
    """

    def __init__(self, context: CycleContext) -> None:
        self._context = context
        self._began_s = context.clock.monotonic()
        self._outcomes: list[Outcome] = []
        self._served: list[datetime] = []  # until when there is nothing new
        self._error = ""
        self._error_kind: FailureKind | None = None
        self.advances: list[Advance] = []
        self.exports: list[tuple[LogKind, str, RunningExport]] = []
        self.cached: list[LogKind] = []
        self.failed_calls: list[FailedCall] = []
        self.failed_streams: list[DdslogdError] = []
        self.failed_names: list[StorageError] = []

    def note(self, outcome: Outcome) -> None:
        """Record what became of a file, and log it."""
        self._outcomes.append(outcome)
        instance = self._context.instance.name
        match outcome:
            case Stored(snapshot=snapshot):
                log.info("file.stored", instance=instance, path=snapshot.path, size=snapshot.size)
            case Failed():
                log.warning(
                    "file.failed",
                    instance=instance,
                    node=outcome.node,
                    log=outcome.log.value,
                    file=outcome.file_name,
                    reason=outcome.reason,
                )
            case Unchanged(file=file) | Superseded(file=file):
                log.debug("file.skipped", instance=instance, node=file.node, file=file.file_name)

    @property
    def has_stored(self) -> bool:
        """Return whether any file is new."""
        return any(isinstance(outcome, Stored) for outcome in self._outcomes)

    def note_cached(self, kind: LogKind, until: datetime) -> None:
        """Record that a kind of log is not asked for: there is nothing new of it until then."""
        self._served.append(until)
        self.cached.append(kind)

    @contextmanager
    def failures_of(self, kind: LogKind) -> Iterator[None]:
        """Record what ends the export of a kind of log."""
        try:
            yield
        except CloudError as exc:
            self.failed_calls.append(FailedCall(log=kind, reason=str(exc), kind=exc.kind))
        except StorageError as exc:
            self.failed_names.append(exc)

    def fail(self, reason: str, kind: FailureKind) -> None:
        """Record what ended the cycle, or what its one error is."""
        self._error, self._error_kind = reason, kind

    def sum_up_failures(self) -> None:
        """Make one error of all that failed next to files."""
        failed = [(call.kind, call.reason) for call in self.failed_calls]
        failed += [(exc.kind, str(exc)) for exc in (*self.failed_streams, *self.failed_names)]
        if failed:
            reason = some(list(dict.fromkeys(reason for _, reason in failed)), between="; ", most=MOST_REASONS)
            kinds = [kind for kind, _ in failed]
            # What may pass is worth more words than what waits for the operator.
            self.fail(reason, next((kind for kind in kinds if kind not in OPERATORS_TURN), kinds[0]))

    def _outcome(self, standings: NodeStandings) -> CycleOutcome:
        good = bool(self._served) or any(isinstance(outcome, Stored | Unchanged) for outcome in self._outcomes)
        failed = [outcome for outcome in self._outcomes if isinstance(outcome, Failed)]
        bad = bool(self._error) or bool(failed)
        counts = standings.unproven or self._context.settings.health.source_stalled == "stale"
        if not bad and standings.stalled and counts:
            return CycleOutcome.STALLED
        if failed and not self._error and all(one.kind is FailureKind.LEFT_OUT for one in failed):
            return CycleOutcome.PARTIAL  # the cloud has answered, and said less than is wrong
        match good, bad:
            case True, True:
                return CycleOutcome.PARTIAL
            case True, False:
                return CycleOutcome.OK if self.exports else CycleOutcome.CACHED
            case False, True:
                return CycleOutcome.FAILED
            case _:
                return CycleOutcome.NOTHING

    def _habit(self, kind: LogKind, question: str, export: RunningExport, standings: NodeStandings) -> Habit:
        failed = bool(self._error) or any(isinstance(one, Failed) and one.log is kind for one in self._outcomes)
        # What is stalled is asked for again: else another kind of log would make the next cycle good.
        stalled = any(one.log is kind for one in standings.stalled)
        until = None if failed or stalled else export.fresh_until
        return Habit(log=kind, asked=question, takes=export.takes, fresh_until=until, arrivals=export.arrivals)

    def report(self, standings: NodeStandings, *, outcome: CycleOutcome | None = None) -> CycleReport:
        """Return the cycle's report.

        Args:
            standings: Of the instance's nodes.
            outcome: How it ended; None for what follows from what it has brought.
        """
        context = self._context
        clock, skew, selected = context.clock, context.account.skew, context.selected is not None
        habits = [] if selected else [self._habit(*export, standings) for export in self.exports]
        now, took = clock.now(), timedelta(seconds=clock.monotonic() - self._began_s)
        times = [*self._served, *(habit.fresh_until for habit in habits if habit.fresh_until is not None)]
        return CycleReport(
            instance=context.instance.name,
            started_at=now - took,  # the wall clock may have been set meanwhile
            finished_at=now,
            outcome=outcome or self._outcome(standings),
            outcomes=tuple(self._outcomes),
            advances=tuple(self.advances),
            failed_calls=tuple(self.failed_calls),
            error=self._error,
            error_kind=self._error_kind,
            habits=habits,
            fresh_until=max(times) - skew.ahead(clock) if times else None,
            cloud=context.instance.cloud,
            clock_ahead=skew.ahead(clock) if skew.known else None,
            judged=tuple(standings.judged),
            offered=standings.offered,
            completed=tuple(standings.completed),
            cached=tuple(self.cached),
            nodes=tuple(standings.nodes),
            stalled=tuple(standings.stalled),
            selected=selected,
        )
