"""How many calls a minute the schedules need. Pure."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Final

from ddslogd.scheduling.triggers import shortest_interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddslogd.model.instance import Instance


CALLS_PER_CYCLE: Final = Fraction(11, 5)
"""One call starts an export, one finds it ready, and one cycle in five needs another; measured by bench_calls.

Less where exports of an instance take about the same time. The first cycle costs one more; renewals of links are rare.
"""
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE_US: Final = 60_000_000


def tenths(calls: Fraction) -> str:
    """Spell a number of calls, rounded up."""
    return f"{ceil(calls * 10) / 10:.1f}"


def calls_needed(cycles: Iterable[tuple[timedelta, int]]) -> Fraction:
    """Return the calls a minute for so many exports every so often."""
    counts: Counter[timedelta] = Counter()
    for gap, number in cycles:
        counts[gap] += number
    calls = (Fraction(number * CALLS_PER_CYCLE * _MINUTE_US, gap // _MICROSECOND) for gap, number in counts.items())
    return sum(calls, Fraction())


def calls_a_minute(instances: Iterable[Instance]) -> Fraction:
    """Return the calls a minute that the schedules of instances need, where their runs are closest."""
    cycles = Counter((one.schedule, len(one.logs)) for one in instances)
    return calls_needed((shortest_interval(when), kinds * number) for (when, kinds), number in cycles.items())
