"""When to ask how an export goes, from how long the last ones took: pure. All numbers are seconds.

Calls are scarcer than seconds. So the first poll waits until nearly every export of the instance would be ready: where
they take about the same time that is a moment after it, where they scatter it is the longest that was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from ddslogd.model.export import RowState
from ddslogd.scheduling.backoff import poll_delays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from ddslogd.model.export import ExportReply

KEPT = 8  # durations that are remembered: with more, one that took long would be waited for longer
MARGIN = 0.04  # of the longest that was seen
FIRST_MARGIN = 0.1  # the same where only one was seen: it says nothing of how they scatter
FIRST_SPREAD = 0.5  # of the only one: what is taken for their spread once it proved too short
STEP = 0.5  # of the spread: from the first poll to the second; each one after that waits twice as long
LEAST_STEP = 0.05  # of the first wait
FLOOR = 0.05  # no wait is shorter
SLACK = 2.0  # that a cloud's clock may be off, known from headers of whole seconds: beyond that its times are nonsense
UNTOLD = 0.9  # of the time when a file was found ready, where nobody says when it was: so that the waits come down


def waits(takes: Sequence[float], *, first: timedelta, longest: timedelta) -> Iterator[float]:
    """Yield the waits before each poll: up to the time when the export should be ready, then closing in.

    Args:
        takes: How long the last exports took; where there are none, the waits grow from ``first``.
        first: The first wait where nothing is known.
        longest: No wait is longer.
    """
    if not takes:
        yield from poll_delays(first, longest)
        return
    most = longest.total_seconds()
    wait, step = _plan(takes)
    parts = ceil(wait / most)
    for _ in range(parts):
        yield max(FLOOR, wait / parts)
    while True:
        yield min(step, most)
        step = min(step * 2, most)


def _plan(takes: Sequence[float]) -> tuple[float, float]:
    """Return the first wait and the first step after it.

    The fewer were seen, the further beyond the longest of them the next may lie.
    """
    longest, spread, number = max(takes), max(takes) - min(takes), len(takes)
    if number == 1:
        wait, spread = longest * (1 + FIRST_MARGIN), longest * FIRST_SPREAD
    else:
        wait = longest + max(longest * MARGIN, spread * (2 / number - 2 / KEPT))
    return wait, max(spread * STEP, wait * LEAST_STEP, FLOOR)  # from zero no step would ever grow


def remembered(takes: Sequence[float], new: float) -> tuple[float, ...]:
    """Return the durations to remember, with a new one."""
    return (*takes, round(new, 3))[-KEPT:]


def taken(told: float | None, *, at_least: float, at_most: float) -> float:
    """Return how long an export took, from what the cloud tells and from when it was asked.

    Args:
        told: By the cloud's times; None where it tells none.
        at_least: When a call was made that found it under way.
        at_most: When a reply came that found it ready.
    """
    if told is None or not at_least - SLACK <= told <= at_most + SLACK:
        told = at_most * UNTOLD
    return min(max(told, at_least), at_most)


@dataclass(slots=True, kw_only=True)
class Watch:
    """One export, from the first reply that showed it under way to the one that finds it ready.

    Attributes:
        began: When that reply came, by the steady clock.
        began_at: The same by the cloud's clock.
        whole: Whether it began with the call; of one that was under way before, nobody knows how long it takes.
        pending: When the last call was made that found it under way, by the steady clock.
    """

    began: float
    began_at: datetime
    whole: bool
    pending: float

    def took(self, reply: ExportReply, *, at: float) -> float | None:
        """Return how long it took, by the reply that found it ready, and the steady clock; None: not known."""
        ready = [row.updated_at for row in reply.rows if row.state is RowState.READY]
        if not self.whole or not ready:
            return None
        known = [moment for moment in ready if moment is not None]
        told = (max(known) - self.began_at).total_seconds() if len(known) == len(ready) else None
        return taken(told, at_least=max(0.0, self.pending - self.began), at_most=at - self.began)


def watch(reply: ExportReply, *, at: float, now: datetime) -> Watch:
    """Begin to watch an export that a reply shows under way; rows that are ready already are of an older call."""
    whole = not any(row.state is RowState.READY for row in reply.rows)
    return Watch(began=at, began_at=now, whole=whole, pending=at)
