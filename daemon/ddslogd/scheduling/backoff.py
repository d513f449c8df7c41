"""How long to wait before the next try. Pure."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta


def bucket(calls_per_minute: int) -> tuple[int, float]:
    """Share an account's calls a minute: so many at once, and a steady rate a minute next to them.

    A bucket that starts full lets its whole size through at once and the rate on top of it. So the two together make
    up what the account has, and no 60 seconds see more.
    """
    burst = max(1, calls_per_minute // 10)
    return burst, max(calls_per_minute - burst, calls_per_minute / 2)


def poll_delays(first: timedelta, longest: timedelta) -> Iterator[float]:
    """Yield the seconds to wait before each poll: they grow by half from the first to the longest."""
    delay = first.total_seconds()
    while True:
        yield delay
        delay = min(delay * 1.5, longest.total_seconds())


def full_jitter(floor: float, ceiling: float) -> Iterator[float]:
    """Yield the seconds to back off before each try: random up to a limit that doubles, never under the floor.

    "Full jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): it spreads many clients best.
    """
    for tries in count():
        limit = min(ceiling, floor * 2 ** min(tries + 1, 30))
        yield random.uniform(floor, limit)  # noqa: S311  # spreads calls, guards nothing
