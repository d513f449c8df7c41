"""What is logged of the cycles that end: one event each, and once what lasts or is shared by many."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.collection.cycle_result import OPERATORS_TURN
from ddslogd.collection.shared_causes import SharedCauses
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.line_quota import some

if TYPE_CHECKING:
    from datetime import datetime

    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.failure_kind import FailureKind
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()

WARN_EVERY = timedelta(days=1)
LARGE_SKEW = timedelta(seconds=60)
_UNASKED = {CycleOutcome.NO_ROOM, CycleOutcome.CACHED}


class CycleLog:
    """Logs how cycles end, and knows what was logged before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # By instance: what was warned of last, and when: steady seconds.
        self._warned: dict[str, tuple[FailureKind | None, float]] = {}
        self._causes = SharedCauses()
        self._skewed: set[str] = set()

    def ended(self, report: CycleReport, *, since: datetime | None, took_s: float, skew: timedelta) -> None:
        """Log how a cycle ended.

        Args:
            report: Its report.
            since: When what fails began to; None where nothing does.
            took_s: How long it took.
            skew: How far the cloud's clock is ahead of the host's.
        """
        failing: dict[str, object] = {"error": report.error} if report.error else {}
        if since is not None:
            failing["failing_since"] = since.isoformat(timespec="seconds")
        if report.selected:
            failing["selected"] = True
        if report.stalled:
            failing["stalled"] = some([one.node for one in report.stalled])
        if report.outcome is CycleOutcome.CACHED and report.fresh_until is not None:
            failing["fresh_until"] = report.fresh_until.isoformat(timespec="seconds")
        log.log(
            self._level(report),
            "cycle.done",
            instance=report.instance,
            outcome=report.outcome.value,
            stored=report.stored,
            unchanged=report.unchanged,
            failed=len(report.failures),
            stored_bytes=report.stored_bytes,
            fetched_bytes=report.fetched_bytes,
            new_bytes=report.new_bytes,
            gaps=report.gaps,
            took_s=round(took_s, 1),
            **failing,
        )
        self._report_skew(report.cloud, skew)

    def _level(self, report: CycleReport) -> int:
        """Choose the event's level: what only the operator can fix is a warning once a day, not at every run."""
        if not report.error or report.failures:
            self._causes.ended(report.instance)
        if report.outcome.good:
            self._warned.pop(report.instance, None)
            return logging.INFO
        if report.outcome in _UNASKED:  # a full disk is warned of once, for all
            return logging.INFO
        if report.error_kind is not None and not report.failures:
            is_shared = self._causes.failed(
                report.instance, cloud=report.cloud, kind=report.error_kind, reason=report.error
            )
            if is_shared:
                return logging.INFO  # they are reported together
        if report.error_kind not in OPERATORS_TURN or report.failures:
            return logging.WARNING
        kind, warned_s = self._warned.get(report.instance, (None, 0.0))
        if kind == report.error_kind and self._clock.monotonic() - warned_s < WARN_EVERY.total_seconds():
            return logging.INFO
        self._warned[report.instance] = (report.error_kind, self._clock.monotonic())
        return logging.WARNING

    async def report_shared_causes(self) -> None:
        """Log what fails the cycles of several instances, once for all of them, and that it is over."""
        for cause in self._causes.news():
            number = len(cause.instances)
            if number:
                log.warning(
                    "cycles.failing", cloud=cause.cloud, instances=number, reason=cause.reason, kind=cause.kind.value
                )
            else:
                log.info("cycles.good_again", cloud=cause.cloud, kind=cause.kind.value)

    def _report_skew(self, cloud: str, skew: timedelta) -> None:
        """Log once that the clocks differ by much, and once that they agree again."""
        if (abs(skew) > LARGE_SKEW) == (cloud in self._skewed):
            return
        if cloud in self._skewed:
            self._skewed.remove(cloud)
            log.info("clock.agrees_again", cloud=cloud)
        else:
            self._skewed.add(cloud)
            todo = "set this host's clock (NTP); until then the cloud's is used to judge links and tokens"
            log.warning("clock.skewed", cloud=cloud, cloud_is_ahead_s=round(skew.total_seconds()), todo=todo)
