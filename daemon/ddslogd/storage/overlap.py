"""Where a new export continues what was delivered of a log: pure, and linear in time whatever the log repeats.

An export is the newest part of a log, cut anywhere. So it begins with the end of what was delivered, or with all of it
while the log is shorter than an export:

    delivered   ......aaaaaaaaaaaaaaaa
    export            aaaaaaaaaaaaaaaabbbbbb        the new begins after the longest overlap
                                      ^

A log that repeats itself for a whole export cannot be told from one that stands still: the longest overlap is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

READ = 64 * 1024  # bytes: what is compared stays in the processor's cache
SEARCHED = 8 * READ  # bytes of one search
PROBE = 4096  # bytes of an export's beginning: in a real log they stand in one place
TRIES = 8  # places that are compared one by one; a log with more repeats itself, and is searched by its period
BLOCKS = (32, 16, 8, 4)  # lines
BLOCK_TRIES = 16


class Window(Protocol):
    """Bytes of a log."""

    @property
    def size(self) -> int:
        """Count the bytes."""

    def read(self, start: int, size: int) -> bytes:
        """Give ``size`` bytes from ``start`` on; fewer at the end."""


@dataclass(frozen=True, slots=True)
class Held:
    """A window in memory."""

    content: bytes

    @property
    def size(self) -> int:
        """Count the bytes."""
        return len(self.content)

    def read(self, start: int, size: int) -> bytes:
        """Give ``size`` bytes from ``start`` on; fewer at the end."""
        return self.content[start : start + size]


@dataclass(frozen=True, slots=True)
class Slice:
    """The first ``size`` bytes of another window, which has as many."""

    window: Window
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Give ``size`` bytes from ``start`` on; fewer at the end."""
        return self.window.read(start, max(0, min(size, self.size - start)))


class How(StrEnum):
    """What shows where an export continues."""

    OVERLAP = "overlap"
    """It begins with the end of what was delivered."""
    BLOCK = "block"
    """The last lines delivered stand in it, one behind the other: what is before them was changed."""
    INSIDE = "inside"
    """All of it was delivered, and more: it is an older one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where the new part of an export begins.

    Attributes:
        start: Bytes of the export that were delivered before.
    """

    start: int
    how: How


def continuation(delivered: Window, export: Window) -> Continuation | None:
    """Give where the export continues what was delivered; None where they have no whole line in common: a gap.

    Args:
        delivered: The end of the log so far, as much as is known; whole lines.
        export: May begin and end within a line.
    """
    overlap, inside = _overlap(delivered, export)
    if overlap and _has_line(delivered, delivered.size - overlap, delivered.size):
        return Continuation(start=overlap, how=How.OVERLAP)
    if inside:
        return Continuation(start=export.size, how=How.INSIDE)
    end = _end_of_block(delivered, export)
    return None if end is None else Continuation(start=end, how=How.BLOCK)


def longest_end(window: Window, head: bytes, *, most: int) -> int | None:
    """Give where the longest end of the window begins that an object may begin with; None where none does.

    Args:
        window: What is held.
        head: The first bytes of the object: one at least.
        most: Bytes that such an end has at the most, as the object has no more.
    """
    return next(_places(window, head, since=max(0, window.size - most)), None)


def end_of_lines(window: Window) -> int:
    """Give where the last whole line ends; 0 where there is none."""
    return _before(window, window.size)


def _overlap(delivered: Window, export: Window) -> tuple[int, bool]:
    """Give the size of the longest overlap, 0 for none; and whether all of the export was delivered before.

    The latter needs a whole line of it, as the least that proves anything.
    """
    probe, inside = export.read(0, PROBE), False
    tries = 0
    for tries, place in enumerate(islice(_places(delivered, probe), TRIES), 1):  # noqa: B007  # read after the loop
        same = _agreement(delivered, place, export, 0)
        if place + same == delivered.size:
            return same, inside
        if same == export.size:
            inside = inside or _has_line(delivered, place, place + end_of_lines(export))
    if tries < TRIES:  # all overlaps as long as the probe have been tried
        longest = min(delivered.size, len(probe))
        return _longest_border(delivered.read(delivered.size - longest, longest), probe[:longest]), inside
    text, head = delivered.read(0, delivered.size), export.read(0, export.size)
    return _longest_border(text, head), inside or _stands_in(text, head)


def _stands_in(delivered: bytes, export: bytes) -> bool:
    """Tell whether all of the export was delivered before, with a whole line of it; the first place has been tried."""
    if export.count(b"\n") > 1:  # wherever it stands, the second line is a whole one
        return export in delivered
    return b"\n" in export and b"\n" + export in delivered


def _places(window: Window, needle: bytes, *, since: int = 0) -> Iterator[int]:
    """Give where the needle stands in the window, from a place on."""
    for start in range(since, window.size - len(needle) + 1, SEARCHED):
        text = window.read(start, SEARCHED + len(needle) - 1)
        at = text.find(needle)
        while at >= 0:
            yield start + at
            at = text.find(needle, at + 1)


def _agreement(one: Window, start: int, other: Window, other_start: int) -> int:
    """Count the bytes that are the same in both windows from these places on."""
    same = 0
    while True:
        mine = one.read(start + same, READ)
        theirs = other.read(other_start + same, len(mine))
        if not mine or mine != theirs:
            return same + _same_bytes(mine, theirs)
        same += len(mine)


def _same_bytes(one: bytes, other: bytes) -> int:
    """Count the first bytes that are the same, by halving what is compared."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _longest_border(tail: bytes, head: bytes) -> int:
    """Give the size of the longest end of ``tail`` that ``head`` begins with: linear, whatever they repeat.

    Sizes are tried in ranges from the longest down, each by one search for the shortest of its range. Within a range
    the places that are found lie so close together that they are one arithmetic progression: its step is a period of
    the needle (Fine and Wilf, "Uniqueness theorems for periodic functions", 1965). So two of them say where all are.
    """
    most = min(len(tail), len(head))
    while most:
        least = most - most // 3
        if border := _border_between(tail[-most:], head[:most], least):
            return border
        most = least - 1
    return 0


def _border_between(text: bytes, head: bytes, least: int) -> int:
    """Give the longest border of at least ``least`` bytes and at most the text's; 0 for none."""
    needle = head[:least]
    first = text.find(needle)
    if first < 0 or head.startswith(memoryview(text)[first:]):
        return len(text) - first if first >= 0 else 0
    second = text.find(needle, first + 1)
    if second < 0:
        return 0
    period = second - first
    # How far text and head go on repeating themselves.
    until = second + _agreement(Held(text), first, Held(text), second)
    run = period + _agreement(Held(head), 0, Held(head), period)
    if until == len(text):  # to the end: the longest that the head repeats as well
        start = len(text) - run + (run - len(text) + first) % period
    else:  # both stop repeating at the same byte, or nothing fits
        start = until - run
        if start < first or (start - first) % period or not head.startswith(memoryview(text)[start:]):
            return 0
    border = len(text) - start
    return border if border >= least else 0


def _has_line(window: Window, start: int, end: int) -> bool:
    """Tell whether there is a whole line between two places, which is the least that proves anything.

    The beginning of the window counts as a line's: the log may begin there. The end is a line's end.
    """
    if start == 0 or window.read(start - 1, 1) == b"\n":
        return end > start
    return any(b"\n" in window.read(at, min(READ, end - 1 - at)) for at in range(start, end - 1, READ))


def _end_of_block(delivered: Window, export: Window) -> int | None:
    """Give where the last lines delivered end in the export, as many as can be found; None where there are too few.

    Where they stand in it several times, the first counts: what is delivered twice is not lost.
    """
    starts = _last_lines(delivered, BLOCKS[0])
    counts = dict.fromkeys((len(starts), *BLOCKS))
    for count in (count for count in counts if 0 < count <= len(starts)):
        end = _end_of(delivered, starts[count - 1], export)
        if end is not None:
            return end
    return None


def _last_lines(window: Window, count: int) -> list[int]:
    """Give where the last whole lines begin, from the last one back, up to so many."""
    starts: list[int] = []
    end = end_of_lines(window)
    while end and len(starts) < count:
        end = _before(window, end - 1)
        starts.append(end)
    return starts


def _before(window: Window, end: int) -> int:
    """Give where the last line end before a place is, and the place after it; 0 for none."""
    while end > 0:
        start = max(0, end - READ)
        at = window.read(start, end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _end_of(delivered: Window, start: int, export: Window) -> int | None:
    """Give where the lines that begin at ``start`` end in the export, where they stand in it as whole lines.

    The first line that is known may be cut. So it may stand at another's end, with a whole line behind it.
    """
    since = max(0, start - 1)  # from the line end before
    size = delivered.size - since
    if size > export.size:
        return None
    for place in islice(_places(export, delivered.read(since, PROBE)), BLOCK_TRIES):
        if _agreement(delivered, since, export, place) == size and _has_line(export, place, place + size):
            return place + size
    return None
