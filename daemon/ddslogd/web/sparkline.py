"""The spark line of an instance's cycles: one SVG path, and the same in words. Pure.

An instance's first export holds days of lines, and each one after it minutes: to one scale, only one bar would be seen.
So what is far beyond the usual cycle is drawn as a bar with a break in it, and the others to a scale of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low

from ddslogd.model import units

CYCLES = 24  # places; fewer cycles stand at the right
STEP = 4  # units from bar to bar, of which the last is left blank
HEIGHT = 20
_LEAST = 1  # so that a cycle without a new line is seen as one
_FAR = 8  # times the median of the cycles that brought something: what is more is beyond the scale
_BREAK = 2  # units that are left blank in a bar beyond the scale
_ABOVE = 4  # units of it above the break; all other bars end below it


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
    """Draw the newest cycles, oldest first; the highest bar without a break is the most that is not far beyond them."""
    counts = counts[-CYCLES:]
    if not counts:
        return Spark(bars="", words="no cycle yet")
    end = scale_end(counts)
    height = HEIGHT if max(counts) <= end else HEIGHT - _ABOVE - _BREAK
    left = (CYCLES - len(counts)) * STEP
    bars = "".join(_bar(left + place * STEP, count, end, height) for place, count in enumerate(counts))
    return Spark(bars=bars, words=_told(counts, end))


def scale_end(counts: tuple[int, ...]) -> int:
    """Return the most bytes of a cycle that is not far beyond the usual one; 0 where none brought any.

    The usual one is the median of those that brought something: no number of silent cycles makes each other one far.
    """
    brought = [count for count in counts if count]
    if not brought:
        return 0
    far = _FAR * median_low(brought)
    return max(count for count in brought if count <= far)


def _bar(left: int, count: int, end: int, height: int) -> str:
    if count > end:
        return _piece(left, HEIGHT, height) + _piece(left, _ABOVE, _ABOVE)
    return _piece(left, HEIGHT, max(_LEAST, round(height * count / end)) if count else _LEAST)


def _piece(left: int, bottom: int, height: int) -> str:
    return f"M{left} {bottom}v-{height}h{STEP - 1}v{height}z"


def _told(counts: tuple[int, ...], end: int) -> str:
    cycles = "the last cycle" if len(counts) == 1 else f"the last {len(counts)} cycles"
    if not any(counts):
        return f"no new bytes in {cycles}"
    told = f"new bytes in {cycles}: {units.spelled_size(sum(counts))}, at most {units.spelled_size(max(counts))} in one"
    cut = sum(count > end for count in counts)
    if not cut:
        return told
    return f"{told}; {cut} bar{' is' if cut == 1 else 's are'} cut off, the scale ends at {units.spelled_size(end)}"
