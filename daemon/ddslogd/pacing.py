"""Time as pure functions (ticks, back-off, poll delays), and the clocks that policy time is read from.

Policy time (when a tick is due, whether a link has expired, how long to back off) always comes from a ``Clock``, so
that tests pass one in. Guards against hangs use the event loop's own time-outs and are no policy.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import count, pairwise
from statistics import median
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim

from ddslogd.models import Cron, Every

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH = datetime.fromtimestamp(0, UTC)
INSTANT = timedelta(milliseconds=1)
"""Ticks lie on whole ones: the ledger keeps no finer time, and what it rounded must not lie before its tick."""
A_WEEK = timedelta(days=8)
LEAST_TICKS, MOST_TICKS = 13, 1000
LARGEST_SKEW = timedelta(days=36_500)
"""A server that says more is a century off: adding that to our time could leave the calendar."""


class Clock(Protocol):
    """Where policy time comes from."""

    def now(self) -> datetime:
        """Give the wall clock's time: aware, UTC. It may jump."""

    def monotonic(self) -> float:
        """Give seconds since some moment; they never go back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; at once where they are not positive."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Give the machine's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Give the machine's steady seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let the event loop turn for that many seconds."""
        await asyncio.sleep(max(0.0, seconds))


class Skew:
    """How far a server's clock is from ours, by the ``Date`` headers of its replies.

    The median of the last few replies, so that one odd reply (a cache's, a slow one) moves nothing.

    Attributes:
        offset: What to add to our time to have the server's; zero until a reply came.
    """

    def __init__(self, samples: int = 5) -> None:
        self._seconds: deque[float] = deque(maxlen=samples)
        self.offset = timedelta(0)

    def observe(self, date_header: str, now: datetime) -> None:
        """Take one reply's ``Date`` into account; one that cannot be read is passed over."""
        server = date_of(date_header)
        if server is None or abs(server - now) > LARGEST_SKEW:
            return
        self._seconds.append((server - now).total_seconds())
        seconds = median(self._seconds)
        # The header has whole seconds: a difference of one is no difference.
        self.offset = timedelta(seconds=seconds) if abs(seconds) > 1.0 else timedelta(0)


@lru_cache(maxsize=8)  # replies of one second have one header
def date_of(header: str) -> datetime | None:
    """Read a ``Date`` header: aware; None where it cannot be read."""
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):  # the last: a year or an offset of many digits
        return None
    # "-0000" means: UTC, and nothing is known of the zone. RFC 5322, 3.3
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def phase(key: str, interval: timedelta) -> timedelta:
    """Give a key's place within the interval: the same at every start, evenly spread over many keys."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    return interval * fraction // INSTANT * INSTANT


def next_tick(schedule: Every | Cron, *, after: datetime, key: str) -> datetime:
    """Give the first tick strictly after a moment: aware, UTC.

    ``Every`` ticks on a grid through the epoch, shifted by the key's phase: neither a restart nor the moment of
    asking moves it. ``Cron`` ticks when its expression says so in its time zone, without a phase.
    """
    match schedule:
        case Every(interval=interval):
            shift = phase(key, interval)
            steps = (after - EPOCH - shift) // interval + 1
            return EPOCH + shift + steps * interval
        case Cron(expression=expression, timezone=timezone):
            # UTC needs no time zone data on the host, as the configuration promises.
            local = after.astimezone(UTC if timezone == "UTC" else ZoneInfo(timezone))
            # In the hour that is there twice, cronsim first gives the tick of that hour's first time: it is over.
            ticks = (tick.astimezone(UTC) for tick in CronSim(expression, local))
            return next(tick for tick in ticks if tick > after)


def longest_gap(schedule: Cron, *, after: datetime) -> timedelta:
    """Give the longest time between two of the ticks after a moment: of a week and more, or of a year of rare ones."""
    ticks = [next_tick(schedule, after=after, key="")]
    while len(ticks) < LEAST_TICKS or (ticks[-1] - ticks[0] < A_WEEK and len(ticks) < MOST_TICKS):
        ticks.append(next_tick(schedule, after=ticks[-1], key=""))
    return max(later - tick for tick, later in pairwise(ticks))


def due(schedule: Every | Cron, *, last: datetime | None, now: datetime, key: str) -> datetime:
    """Give when the next cycle is to begin, after the last one's tick.

    What never ran, and what should have run while nobody did it, is due now, once. Where the wall clock went back
    behind the last tick, no tick is run twice for a small step; for one of more than a tick, the grid is followed from
    now on.
    """
    if last is None:
        return now
    if last > now and last >= next_tick(schedule, after=next_tick(schedule, after=now, key=key), key=key):
        last = now
    return max(now, next_tick(schedule, after=last, key=key))


def bucket(calls_per_minute: int) -> tuple[int, float]:
    """Share an account's calls a minute: so many at once, and a steady rate a minute beside them.

    A bucket that starts full lets its whole size through at once and the rate on top of it. So the two together make
    up what the account has, and no 60 seconds see more.
    """
    burst = max(1, calls_per_minute // 10)
    return burst, max(calls_per_minute - burst, calls_per_minute / 2)


def poll_delays(first: timedelta, longest: timedelta) -> Iterator[float]:
    """Give the seconds to wait before each poll: they grow by half from the first to the longest."""
    delay = first.total_seconds()
    while True:
        yield delay
        delay = min(delay * 1.5, longest.total_seconds())


def full_jitter(floor: float, ceiling: float) -> Iterator[float]:
    """Give the seconds to back off before each try: random up to a limit that doubles, never under the floor.

    "Full jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): it spreads many clients best.
    """
    for tries in count():
        limit = min(ceiling, floor * 2 ** min(tries + 1, 30))
        yield random.uniform(floor, limit)  # noqa: S311  # spreads calls, guards nothing
