"""Why a gap is there, by what happened since the last export that is on disk: pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.stream import GapCause
from ddslogd.scheduling.triggers import next_interval, next_tick

if TYPE_CHECKING:
    from datetime import datetime

    from ddslogd.model.instance import Cron, Every
    from ddslogd.storage.ledger.stream_records import Past

# A cycle may be late by an interval: it waits for the account's budget, and its export takes its time. And its run may
# have been put off until the cloud exports again, 15 minutes after the last export.
LEAST_LATE = timedelta(minutes=20)
MOST_LATE = timedelta(hours=1)


def cause_of_gap(past: Past, *, since: datetime, until: datetime, schedule: Every | Cron, key: str) -> GapCause:
    """Return why lines are missing.

    Args:
        past: What happened to the node's exports since the last one on disk.
        since: When the cloud made that one.
        until: When it made the next one.
        schedule: Of the instance.
        key: Its id, by which its runs are placed.
    """
    kinds, outcomes = {cycle.error_kind for cycle in past.cycles}, {cycle.outcome for cycle in past.cycles}
    if FailureKind.GONE in {past.failing, *kinds}:
        return GapCause.INSTANCE_GONE
    begins = [*(cycle.started_at for cycle in past.cycles), until]
    ends = [since if past.whole else begins[0], *(cycle.finished_at for cycle in past.cycles)]
    if any(_missed(schedule, end, begin, key=key) for end, begin in zip(ends, begins, strict=True)):
        return GapCause.DAEMON_DOWN
    if CycleOutcome.NO_ROOM in outcomes:
        return GapCause.DISK_FULL
    if past.failing or CycleOutcome.FAILED in outcomes:
        return GapCause.FAILED_EXPORTS
    return GapCause.WINDOW_OVERFLOW


def _missed(schedule: Every | Cron, end: datetime, begin: datetime, *, key: str) -> bool:
    """Return whether a run came between the end of a cycle and the begin of the next, and nobody was there for long."""
    due = next_tick(schedule, after=end, key=key)
    interval = next_interval(schedule, after=end, key=key)
    return begin - due > max(LEAST_LATE, min(interval, MOST_LATE))
