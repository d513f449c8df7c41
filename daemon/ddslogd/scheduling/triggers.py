"""When a schedule fires: the next run, what is due, and how far apart its runs lie. Pure.

Policy time (when a run is due, whether a link has expired, how long to back off) always comes from a ``Clock``, so
that tests pass one in. Guards against hangs use the event loop's own time-outs and are no policy.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from ddslogd.model.instance import Cron, Every
from ddslogd.scheduling.clock import EPOCH, INSTANT, SMALL_STEP

A_WEEK = timedelta(days=8)
LEAST_TICKS, MOST_TICKS = 13, 1000
FIRST_DAY: Final = datetime(2024, 1, 1, tzinfo=UTC)
_TICKS: Final = 100
"""A day of runs 15 minutes apart, and a little more."""
_LAST_DAY: Final = FIRST_DAY + timedelta(days=9)
"""Each day of the week, and the night after it."""


def timezone_of(name: str) -> tzinfo:
    """Return the time zone of an IANA name; UTC needs no time zone data on the host, as the configuration promises."""
    return UTC if name == "UTC" else ZoneInfo(name)


def phase(key: str, interval: timedelta) -> timedelta:
    """Return a key's place within the interval: the same at every start, evenly spread over many keys."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return interval * fraction // INSTANT * INSTANT


def next_tick(schedule: Every | Cron, *, after: datetime, key: str) -> datetime:
    """Return the first run strictly after a moment: aware, UTC.

    ``Every`` runs on a grid through the epoch, shifted by the key's phase: neither a restart nor the moment of
    asking moves it. ``Cron`` runs when its expression says so in its time zone, without a phase.
    """
    match schedule:
        case Every(interval=interval):
            shift = phase(key, interval)
            steps = (after - EPOCH - shift) // interval + 1
            return EPOCH + shift + steps * interval
        case Cron(expression=expression, timezone=timezone):
            local = after.astimezone(timezone_of(timezone))
            # In the hour that is there twice, cronsim first gives the run of that hour's first time: it is over.
            ticks = (tick.astimezone(UTC) for tick in CronSim(expression, local))
            return next(tick for tick in ticks if tick > after)


def next_interval(schedule: Every | Cron, *, after: datetime, key: str) -> timedelta:
    """Return the time between the next two runs after a moment."""
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron():
            first = next_tick(schedule, after=after, key=key)
            return next_tick(schedule, after=first, key=key) - first


def longest_interval(schedule: Every | Cron, *, now: datetime) -> timedelta:
    """Return the longest time between two of the next runs: of a week and more, or of a year of rare ones."""
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron():
            return _longest(schedule, now.date().toordinal())


@lru_cache(maxsize=4096)
def _longest(schedule: Cron, day: int) -> timedelta:
    """Reckon once a day: the runs of a week and more have to be looked at."""
    ticks = [next_tick(schedule, after=datetime.fromordinal(day).replace(tzinfo=UTC), key="")]
    while len(ticks) < LEAST_TICKS or (ticks[-1] - ticks[0] < A_WEEK and len(ticks) < MOST_TICKS):
        ticks.append(next_tick(schedule, after=ticks[-1], key=""))
    return max(later - tick for tick, later in pairwise(ticks))


def shortest_interval(schedule: Every | Cron) -> timedelta:
    """Return the shortest time between two runs, as far as a week of them shows it, whatever the time is now."""
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron():
            return _shortest(schedule)


@lru_cache(maxsize=4096)
def _shortest(schedule: Cron) -> timedelta:
    ticks = islice(CronSim(schedule.expression, FIRST_DAY.astimezone(timezone_of(schedule.timezone))), _TICKS)
    moments = [tick.astimezone(UTC) for tick in takewhile(lambda tick: tick < _LAST_DAY, ticks)]
    return min((later - sooner for sooner, later in pairwise(moments)), default=timedelta.max)


def due(schedule: Every | Cron, *, last: datetime | None, now: datetime, key: str) -> datetime:
    """Return when the next cycle is to begin, after the last one's run.

    What never ran, and what should have run while nobody did it, is due now, once. Where the wall clock went back
    behind the last run, no run is run twice for a small step; for one of more than a
    run or an hour, the grid is followed from now on: of a run a day, one would be skipped.
    """
    if last is None:
        return now
    if last > now + SMALL_STEP or last >= next_tick(schedule, after=next_tick(schedule, after=now, key=key), key=key):
        last = now
    return max(now, next_tick(schedule, after=last, key=key))
