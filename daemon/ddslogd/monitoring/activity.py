"""What the daemon is doing: transfers as they run, what each instance's cycles brought, and how late the loop is."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from ddslogd.monitoring.status import Transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from ddslogd.huaweicloud.call_stats import CallStats
    from ddslogd.model.cycle import CycleReport, Outcome, Progress
    from ddslogd.model.failure_kind import FailureKind
    from ddslogd.model.snapshot import LogFile
    from ddslogd.scheduling.clock import Clock

PROBE_EVERY_S = 1.0
PROBES = 15  # of which the latest counts


@dataclass(slots=True, kw_only=True)
class Yield:
    """What an instance's cycles brought since the start.

    Attributes:
        snapshots: Files that were stored.
        stored_bytes: Their sizes.
        fetched_bytes: What crossed the wire.
        new_bytes: In streams.
        gaps: That were found.
        failures: By kind of error, of files and of exports.
        cycles: By outcome.
    """

    snapshots: int = 0
    stored_bytes: int = 0
    fetched_bytes: int = 0
    new_bytes: int = 0
    gaps: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    cycles: Counter[str] = field(default_factory=Counter)

    def add(self, report: CycleReport) -> None:
        """Take a cycle into account."""
        self.snapshots += report.stored
        self.stored_bytes += report.stored_bytes
        self.fetched_bytes += report.fetched_bytes
        self.new_bytes += report.new_bytes
        self.gaps += report.gaps
        self.cycles[report.outcome.value] += 1
        self.failures.update(failed.kind for failed in report.failures)
        self.failures.update(call.kind for call in report.failed_calls)
        self.failures.update(stalled.kind for stalled in report.stalled)
        if report.error_kind is not None and not report.failed_calls:
            self.failures[report.error_kind] += 1


@dataclass(slots=True, kw_only=True)
class _Running:
    began_at: datetime
    began: float  # by the steady clock
    total: int | None
    done: int
    came: int = 0  # bytes
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What has been counted since the start.

    Attributes:
        yields: By instance.
        call_stats: By cloud.
        resumed: Transfers that went on with what an earlier request had left.
        received: Bytes that transfers received.
    """

    yields: Mapping[str, Yield]
    call_stats: Mapping[str, CallStats]
    resumed: int
    received: int


class Activity:
    """Watches transfers and cycles, and passes on what it hears.

    Attributes:
        yields: By instance.
        resumed: Transfers that went on with what an earlier request had left.
        received: Bytes that transfers received.
    """

    def __init__(self, clock: Clock, progress: Progress) -> None:
        """Prepare.

        Args:
            clock: For times and rates.
            progress: Hears everything too.
        """
        self.yields: dict[str, Yield] = {}
        self.resumed = 0
        self.received = 0
        self._clock = clock
        self._progress = progress
        self._running: dict[LogFile, _Running] = {}

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        """Record a transfer, or a further request of it."""
        running = self._running.get(file)
        if running is None:
            began = self._clock.monotonic()
            running = _Running(began_at=self._clock.now(), began=began, total=total, done=at)
            self._running[file] = running
        running.total, running.done = total, at
        running.resumed = running.resumed or resumed
        self.resumed += resumed
        self._progress.began(file, total, at, resumed=resumed)

    def advanced(self, file: LogFile, size: int) -> None:
        """Count bytes."""
        self.received += size
        running = self._running.get(file)
        if running is not None:
            running.done += size
            running.came += size
        self._progress.advanced(file, size)

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Forget the transfer."""
        self._running.pop(file, None)
        self._progress.ended(file, outcome)

    def cycled(self, report: CycleReport) -> None:
        """Add up what the cycle brought."""
        self.yields.setdefault(report.instance, Yield()).add(report)
        self._progress.cycled(report)

    def over(self, instance: str) -> None:
        """Forget what still seems to run of an instance whose cycle is over: it was broken off."""
        for file in [file for file in self._running if file.instance == instance]:
            del self._running[file]

    def transfers(self) -> tuple[Transfer, ...]:
        """Return those that run, the oldest first."""
        now = self._clock.monotonic()
        return tuple(
            Transfer(
                instance=file.instance,
                node=file.node,
                log=file.log.value,
                file=file.file_name,
                done=running.done,
                total=running.total,
                began_at=running.began_at,
                resumed=running.resumed,
                bytes_per_second=round(running.came / max(now - running.began, 0.001), 1),
            )
            for file, running in self._running.items()
        )


class LoopLag:
    """Measures how late the loop is: what is due waits that long for its turn."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        """Prepare; not with policy time, which may be made: it is the real loop that is measured."""
        self._sleep = sleep
        self._steady = steady
        self._late: deque[float] = deque(maxlen=PROBES)

    @property
    def seconds(self) -> float | None:
        """Return the worst of the last probes; None before the first."""
        return max(self._late, default=None)

    async def probe(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._steady() + PROBE_EVERY_S
            await self._sleep(PROBE_EVERY_S)
            self._late.append(max(0.0, self._steady() - due))
