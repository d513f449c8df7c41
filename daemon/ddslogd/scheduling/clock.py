"""Time, as a parameter: the clock, and how far others' clocks differ from it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from statistics import median
from typing import Protocol

EPOCH = datetime.fromtimestamp(0, UTC)
INSTANT = timedelta(milliseconds=1)
"""Runs lie on whole ones: the ledger keeps no finer time, and what it rounded must not lie before its run."""
LARGEST_SKEW = timedelta(days=36_500)
"""A server that says more is a century off: adding that to our time could leave the calendar."""
LEAST_STEP_S = 2.0
"""What the wall clock may drift from the steady one between two replies: less was not set by anybody."""
SMALL_STEP = timedelta(hours=1)
"""By which a clock may be set back without a run's being run for a second time."""
LARGEST_LEAD = timedelta(minutes=5)
"""A time that lies further ahead of the best clock is not believed."""


class Clock(Protocol):
    """Where policy time comes from."""

    def now(self) -> datetime:
        """Return the wall clock's time: aware, UTC. It may jump."""

    def monotonic(self) -> float:
        """Return seconds since some moment; they never go back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; at once where they are not positive."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's steady seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let the event loop turn for that many seconds."""
        await asyncio.sleep(max(0.0, seconds))


class Skew:
    """How far one server's clock is from ours, by the ``Date`` headers of its own replies.

    The median of the last few replies, so that one odd reply moves nothing. What a cache sends (``Age``) says nothing
    of the server's clock and does not count. Where our wall clock is set meanwhile, the steady clock says by how much:
    the server's time stays known.

    Attributes:
        offset: What to add to our wall clock, as it was at the last reply, to have the server's; zero until one came.
    """

    def __init__(self, samples: int = 5, *, until_known: Skew | None = None) -> None:
        """Prepare.

        Args:
            samples: So many replies are remembered.
            until_known: Another server's of the same cloud, which is as good a guess until this one has replied.
        """
        self._seconds: deque[float] = deque(maxlen=samples)
        self._until_known = until_known
        self._set_at: float | None = None  # the wall clock's seconds minus the steady one's, at the last reply
        self.offset = timedelta(0)

    @property
    def known(self) -> bool:
        """Return whether this server has said what its time is."""
        return bool(self._seconds)

    def observe(
        self, date_header: str, now: datetime, *, age: str | None = None, steady_s: float | None = None
    ) -> None:
        """Take one reply into account.

        Args:
            date_header: Its ``Date``; one that cannot be read is skipped.
            now: Our wall clock's time.
            age: Its ``Age``, which only caches send. RFC 9111, 5.1
            steady_s: Our steady clock's seconds; None where nothing is known of them.
        """
        server = date_of(date_header)
        if age is not None or server is None or abs(server - now) > LARGEST_SKEW:
            return
        ahead = (server - now).total_seconds()
        set_at = None if steady_s is None else _set_at(now, steady_s)
        step = self._step(set_at)
        # A host that slept has a steady clock that stood still, and a wall clock that is right.
        if step and abs(ahead - median(self._seconds) + step) <= abs(ahead - median(self._seconds)):
            self._seconds = deque((seconds - step for seconds in self._seconds), maxlen=self._seconds.maxlen)
        self._set_at = set_at
        self._seconds.append(ahead)
        seconds = median(self._seconds)
        # The header has whole seconds: a difference of one is no difference.
        self.offset = timedelta(seconds=seconds) if abs(seconds) > 1.0 else timedelta(0)

    def ahead(self, clock: Clock) -> timedelta:
        """Return how far the server's clock is ahead of our wall clock now; less than zero where it is behind."""
        if not self.known and self._until_known is not None:
            return self._until_known.ahead(clock) if self._until_known.known else timedelta(0)
        return self.offset - timedelta(seconds=self._step(_set_at(clock.now(), clock.monotonic())))

    def now(self, clock: Clock) -> datetime:
        """Return the time by the server's clock."""
        return clock.now() + self.ahead(clock)

    def _step(self, set_at: float | None) -> float:
        """Return the seconds by which our wall clock was set since the last reply."""
        if set_at is None or self._set_at is None:
            return 0.0
        step = set_at - self._set_at
        return step if abs(step) > LEAST_STEP_S else 0.0


def _set_at(now: datetime, steady_s: float) -> float:
    return now.timestamp() - steady_s


def believed(moment: datetime | None, *, now: datetime) -> datetime | None:
    """Return a moment that came from another clock, or from the ledger; None where it lies ahead of the best clock.

    What lies ahead was never true when it was written down: the clock was wrong then, or is wrong now. It counts as
    unknown, not as now: else it would be news until the clock catches up with it.

    Args:
        moment: When something is said to have happened.
        now: By the best clock that is known: ours, corrected by the cloud's where the cloud has replied.
    """
    return None if moment is None or moment > now + LARGEST_LEAD else moment


@lru_cache(maxsize=8)  # replies of one second have one header
def date_of(header: str) -> datetime | None:
    """Read a ``Date`` header: aware; None where it cannot be read."""
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):  # the last: a year or an offset of many digits
        return None
    # "-0000" means: UTC, and nothing is known of the zone. RFC 5322, 3.3
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
