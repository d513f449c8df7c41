"""How soon an instance needs its next cycle: before its nodes write more than an export holds.

And no sooner than the cloud exports again: a run that comes before that is put off until then, and not skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.instance import Cron, LogKind
from ddslogd.model.snapshot import Unchanged
from ddslogd.scheduling.backoff import bucket
from ddslogd.scheduling.call_rate import CALLS_PER_CYCLE
from ddslogd.scheduling.clock import INSTANT
from ddslogd.scheduling.triggers import next_interval, next_tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.instance import Instance
    from ddslogd.model.snapshot import LogFile
    from ddslogd.model.stream import Advance

log = structlog.get_logger()

MINUTE = timedelta(minutes=1)
MARGIN = timedelta(seconds=5)  # the cloud may count from a moment after the time that its files bear
NO_BUDGET = "raise calls_per_minute, or give other instances longer schedules"
Source = tuple[LogKind, str]
"""A kind of log and a node."""


@dataclass(slots=True)
class _Pace:
    """How an instance is doing.

    Attributes:
        wanted: By source: the time between two exports in which it writes half of one; only where that is too short.
        interval: Between runs, in place of the schedule's; None where the schedule will do.
        ready_at: When the cloud exports again for certain.
        usual: Between two runs of the schedule.
        told: What was said of the interval last.
    """

    wanted: dict[Source, timedelta]
    interval: timedelta | None
    ready_at: datetime
    usual: timedelta
    told: tuple[str, bool] = ("nothing", True)


def wanted_interval(advance: Advance) -> timedelta | None:
    """Return the time in which a node writes half of what an export holds; None where that cannot be told.

    It can be told once an export is full, so that older lines are cut off. Where lines were lost, the node wrote at
    least a whole export's worth.
    """
    if not advance.full or not advance.took or advance.took <= timedelta() or not advance.new:
        return None
    return advance.took * advance.window / (2 * advance.new)


class AdaptiveSchedule:
    """Moves runs: forward for instances that write more than half an export between two, back to the next export."""

    def __init__(self, *, settings: LiveSettings, fleet: Callable[[], Iterable[Instance]]) -> None:
        """Prepare.

        Args:
            settings: Of the whole daemon, from the next cycle on.
            fleet: Gives all instances, whose calls share a budget.
        """
        self._settings = settings
        self._fleet = fleet
        self._paces: dict[str, _Pace] = {}  # by instance; of those alone that need it
        self._put_off: dict[str, datetime] = {}  # by instance whose next run on schedule comes too early: until when

    def next(self, instance: Instance, last: datetime) -> datetime | None:
        """Return when the next cycle is to begin, after the run of the last one; None: on schedule."""
        put_off = self._put_off.get(instance.name, last)
        # It may be over, where a cycle was cut short and told nothing; or be of a clock that was set back since.
        if last < put_off <= last + 2 * self._settings.current.export.fresh_for:
            return put_off
        pace = self._paces.get(instance.name)
        if pace is None or pace.interval is None:
            return None
        # What lies further off than the schedule's own interval is of a clock that was set back since.
        ready_at = pace.ready_at if pace.ready_at - last <= pace.usual else last
        tick = max(last + pace.interval, ready_at)
        if isinstance(instance.schedule, Cron):  # its runs may lie close together
            tick = min(tick, next_tick(instance.schedule, after=max(last, ready_at - INSTANT), key=instance.id))
        return tick

    def heard(self, instance: Instance, report: CycleReport, *, tick: datetime) -> None:
        """Learn from a cycle how fast the instance writes; one that asked for nothing tells when to come again."""
        self._await_export(instance, report, tick)
        if report.outcome is CycleOutcome.CACHED:
            return
        pace = self._paces.setdefault(instance.name, _Pace({}, None, report.finished_at, timedelta()))
        pace.usual = next_interval(instance.schedule, after=tick, key=instance.id)
        pace.ready_at = MARGIN + (report.fresh_until or _made_at(report) + self._settings.current.export.fresh_for)
        was_calm = not pace.wanted
        for file in _standing_still(report):
            pace.wanted.pop((file.log, file.node), None)
        for advance in report.advances:
            self._learn(instance, pace, advance)
        if pace.wanted:
            self._adapt(instance, pace)
            return
        del self._paces[instance.name]
        if not was_calm:
            log.info("window.calm", instance=instance.name)

    def _await_export(self, instance: Instance, report: CycleReport, tick: datetime) -> None:
        """Put the next run off where the cloud would only serve this export once more; of several logs, the last.

        After a failure nothing is put off: what failed is asked for.
        """
        self._put_off.pop(instance.name, None)
        cached = report.outcome is CycleOutcome.CACHED
        if report.fresh_until is None or not (cached or report.outcome.good):
            return
        until = report.fresh_until + MARGIN
        if cached or next_tick(instance.schedule, after=tick, key=instance.id) < until:
            self._put_off[instance.name] = until

    def _learn(self, instance: Instance, pace: _Pace, advance: Advance) -> None:
        source, wanted = (advance.file.log, advance.file.node), wanted_interval(advance)
        if wanted is None or wanted >= pace.usual:
            pace.wanted.pop(source, None)
            return
        if source not in pace.wanted:
            _warn(instance, advance)
        pace.wanted[source] = wanted

    def _adapt(self, instance: Instance, pace: _Pace) -> None:
        """Choose the interval: as short as is needed, makes sense, and the account's budget has calls for."""
        if not self._settings.current.schedule.adapt:
            return
        usual = pace.usual
        pace.interval = None
        shortest = max(min(pace.wanted.values()), self._settings.current.export.fresh_for)
        calls, spare = _calls(instance), max(0.0, self._spare(instance))
        affordable = MINUTE * calls / (calls * (MINUTE / usual) + spare)
        interval = max(shortest, affordable)
        pace.interval = interval if interval < usual else None
        if pace.interval is not None:  # then its runs are not the schedule's, and no sooner than the next export
            self._put_off.pop(instance.name, None)
        todo = "nothing" if pace.interval or shortest >= usual else NO_BUDGET
        if (todo, pace.interval is None) != pace.told:
            pace.told = (todo, pace.interval is None)
            every_s = round((pace.interval or usual).total_seconds())
            log.info("schedule.adapted", instance=instance.name, every_s=every_s, todo=todo)

    def _spare(self, instance: Instance) -> float:
        """Return the calls a minute that the account has next to all schedules, and next to what others were given."""
        budget = bucket(self._settings.current.clouds[instance.cloud].calls_per_minute)[1]
        now = self._paces[instance.name].ready_at
        fleet = (one for one in self._fleet() if one.cloud == instance.cloud)
        return budget - sum(_calls(one) * (MINUTE / self._interval(one, now)) for one in fleet)

    def _interval(self, instance: Instance, now: datetime) -> timedelta:
        """Return the time between two runs of an instance: the one that it was given, or the schedule's."""
        pace = self._paces.get(instance.name)
        given = pace.interval if pace else None
        return given or next_interval(instance.schedule, after=now, key=instance.id)


def _warn(instance: Instance, advance: Advance) -> None:
    log.warning(
        "window.filling",
        instance=instance.name,
        node=advance.file.node,
        log=advance.file.log.value,
        new_bytes=advance.new,
        window_bytes=advance.window,
        took_s=round(advance.took.total_seconds()) if advance.took else None,
        todo="see why the node logs so much; what an export cannot hold is lost",
    )


def _made_at(report: CycleReport) -> datetime:
    """Return when the cloud made the cycle's files, by its clock; it may be wrong, but not about what is over."""
    times = [advance.file.updated_at for advance in report.advances]
    return min([report.finished_at, max(times, default=report.finished_at)])


def _standing_still(report: CycleReport) -> list[LogFile]:
    """Return the files that were fetched and had nothing new; not those that the cloud only served once more."""
    unchanged = (outcome for outcome in report.outcomes if isinstance(outcome, Unchanged))
    return [outcome.file for outcome in unchanged if outcome.fetched]


def _calls(instance: Instance) -> float:
    """Return the calls of one cycle, on average."""
    return float(CALLS_PER_CYCLE) * len(instance.logs)
