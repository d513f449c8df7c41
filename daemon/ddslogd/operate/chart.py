"""The spark line of an instance's cycles: one SVG path, and the same in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ddslogd.operate import words

CYCLES = 24  # places; fewer cycles stand at the right
STEP = 4  # units from bar to bar, of which the last is left blank
HEIGHT = 20
_LEAST = 1  # so that a cycle without a new line is seen as one


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    """New bytes a cycle.

    Attributes:
        bars: An SVG path of bars that stand on the lower edge; empty where there was no cycle.
        words: What it shows.
    """

    bars: str
    words: str
    width: int = CYCLES * STEP
    height: int = HEIGHT


def spark(counts: tuple[int, ...]) -> Spark:
    """Draw the newest cycles, oldest first; the highest bar is the most of them."""
    counts = counts[-CYCLES:]
    if not counts:
        return Spark(bars="", words="no cycle yet")
    most = max(counts)
    left = (CYCLES - len(counts)) * STEP
    bars = "".join(_bar(left + place * STEP, count, most) for place, count in enumerate(counts))
    return Spark(bars=bars, words=_told(counts))


def _bar(left: int, count: int, most: int) -> str:
    height = max(_LEAST, round(HEIGHT * count / most)) if count else _LEAST
    return f"M{left} {HEIGHT}v-{height}h{STEP - 1}v{height}z"


def _told(counts: tuple[int, ...]) -> str:
    cycles = "the last cycle" if len(counts) == 1 else f"the last {len(counts)} cycles"
    if not any(counts):
        return f"no new bytes in {cycles}"
    return f"new bytes in {cycles}: {words.size(sum(counts))}, at most {words.size(max(counts))} in one"
