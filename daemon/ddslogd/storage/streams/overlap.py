"""Where a new export continues what was delivered, and what proves it. Pure; reads windows in small pieces.

An export is the newest part of a log, cut anywhere. So it begins with the end of what was delivered, or with all of it
while the log is shorter than an export:

    delivered   ......aaaaaaaaaaaaaaaa
    export            aaaaaaaaaaaaaaaabbbbbb        the new begins after what both have
                                      ^

That both have some bytes proves nothing: a backtrace is the same in each event of an assertion storm, so two windows
that share no line of the log may still share a few dozen that are equal. What would be taken for delivered is lost
without a word. So an export continues what was delivered only where both have something that is in the log once:

1. ``LINE``: a whole line with a time, that is in each of both windows once. Two events with the same time and the same
   words, one in each window, would have to be a whole window apart: a clock does not stand still for so long.
2. ``STRETCH``: as many bytes or lines on end as no log repeats by chance (``STRETCH`` bytes or ``STRETCH_LINES``
   lines), that fit at no second place in either window. Of a log that repeats itself, no more than that is looked at:
   so it fits at several. A dump of all threads is as long, and may be in the log again: so what is before it has to be
   the same, too, up to a line with a time, or to where one of the windows begins, if the times go on there.
3. ``COMPLETE``: all that was ever delivered, from the first line of the log on. Then the log is shorter than an export,
   and the export begins where the log does.
4. ``REST``: the export begins within the last line delivered. That line has a time, its rest, which is nowhere else
   in either window, is what the export begins with, and the times go on: there is no longer pause than in the windows.

Where one of these holds, the first bytes that differ after it say what is new. That may be within the last line
delivered: the exporter ended it early, or marked it. Then the line is new again: a line twice is better than none. All
else is not proved, and has to be delivered whole, with word that lines may be missing before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Protocol

from ddslogd.storage.streams.log_time import Readable, first_time, last_time, line_time, times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

LINE = 1024  # bytes, in which most lines end
READ = 64 * 1024  # bytes: what is compared stays in the processor's cache
STRETCH = 64 * 1024  # bytes
STRETCH_LINES = 256
TIMED_REACH = 1024 * 1024  # bytes from a window's end, in which lines with a time are looked for
MOST_ABSENT = 4  # lines with a time that only one window has, before others are not looked for: the last few may differ
MOST_REPEATED = 16  # lines with a time that are in a window more than once; of small windows, more are looked at
MOST_SEARCHED = 256 * 1024 * 1024  # bytes
CHANGED_LINES = 4  # at the end of what was delivered, that the export may have otherwise
LEAST_REST = 16  # bytes of a line
LEAST_END = 2  # bytes of a line, which is no proof, but may be where the export begins
TRIES = 256  # places near the end of what was delivered where the export may begin, if nothing is proved


class Window(Readable, Protocol):
    """Bytes of a log."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none."""


@dataclass(frozen=True, slots=True)
class HeldWindow:
    """A window in memory."""

    content: bytes

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.content)

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end."""
        return self.content[start : start + size]

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none."""
        return self.content.find(text, start, end)


@dataclass(frozen=True, slots=True)
class Slice:
    """The first ``size`` bytes of another window, which has as many."""

    window: Window
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end."""
        return self.window.read(start, max(0, min(size, self.size - start)))

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none."""
        return self.window.find(text, start, min(end, self.size))


@dataclass(frozen=True, slots=True)
class Behind:
    """The bytes of another window from a place on."""

    window: Window
    start: int

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.window.size - self.start

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end."""
        return self.window.read(self.start + start, size)

    def find(self, text: bytes, start: int, end: int) -> int:
        """Return the first place from ``start`` on where the text is, and ends by ``end``; -1 for none."""
        at = self.window.find(text, self.start + start, self.start + end)
        return at - self.start if at >= 0 else -1


class OverlapProof(StrEnum):
    """What proves that an export continues what was delivered; see the module."""

    LINE = "line"
    STRETCH = "stretch"
    COMPLETE = "complete"
    REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where the new part of an export begins.

    Attributes:
        start: Bytes of the export that were delivered before; a line begins behind them, or nothing follows.
        shift: Bytes of what was delivered that come before the export's first one; negative where it begins earlier.
        older: Whether all of the export was delivered, and more: the next one is not to be compared with it.
        changed: Bytes at the end of what was delivered that the export has otherwise.
    """

    start: int
    shift: int
    proof: OverlapProof
    older: bool = False
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproved:
    """The export does not continue what was delivered, as far as is known.

    Attributes:
        alike: Whether both have whole lines in common all the same, so that perhaps nothing is missing.
    """

    alike: bool


@dataclass(frozen=True, slots=True)
class _Match:
    """Bytes that are the same in both windows."""

    delivered_at: int
    export_at: int
    size: int


def continuation(delivered: Window, export: Window, *, complete: bool = False) -> Continuation | Unproved:
    """Return where the export continues what was delivered, as far as that is proved.

    Args:
        delivered: The end of the log so far, as much as is known; whole lines, but the first one may be cut.
        export: May begin and end within a line.
        complete: Whether ``delivered`` is all that was ever delivered.
    """
    if not (delivered.size and export.size):
        return Unproved(alike=False)
    if match := _common_line(delivered, export):
        return _from(match, delivered, export, OverlapProof.LINE)
    if match := _common_stretch(delivered, export):
        return _from(match, delivered, export, OverlapProof.STRETCH)
    same = _agreement(delivered, 0, export, 0) if complete else 0
    if same and same >= delivered.size - 1:  # the last line may have been ended early
        return _from(_Match(0, 0, same), delivered, export, OverlapProof.COMPLETE)
    if rest := _rest_of_last_line(delivered, export):
        return Continuation(start=rest, shift=delivered.size - rest, proof=OverlapProof.REST)
    return Unproved(alike=_are_alike(delivered, export))


def longest_end(window: Window, head: bytes, *, most: int) -> int | None:
    """Return where the longest end of the window begins that an object may begin with; None where none does.

    Args:
        window: What is held.
        head: The first bytes of the object: one at least.
        most: Bytes that such an end has at the most, as the object has no more.
    """
    return next(_places(window, head, since=max(0, window.size - most)), None)


class ProofLine:
    """The last line with a time in a window, and how often it is there: counted while the window is read anyway.

    Attributes:
        line: With its end; empty where there is none.
        since: Where the window begins in what is read.
        times: How often the line was met.
        at: Where in what is read it was met last.
    """

    def __init__(self, window: Window, *, since: int) -> None:
        """Find the line near the window's end; what is read begins earlier than the window, or with it."""
        lines = (line for _, line in _lines_back(Behind(window, since), reach=TIMED_REACH))
        self.line = next((line for line in lines if line_time(line) is not None), b"")
        self.since = since
        self.times = 0
        self.at = 0
        self._before = b""  # the end of what was read last

    def read(self, start: int, piece: bytes) -> None:
        """Count in what follows; ``start`` is its place."""
        if not self.line:
            return
        text = self._before + piece
        first = start - len(self._before)
        for place in _places(HeldWindow(text), self.line, since=max(0, self.since - first)):
            self.times, self.at = self.times + 1, first + place
        self._before = text[max(0, len(text) - len(self.line) + 1) :]

    def proves(self, start: int, new: Window) -> bool:
        """Return whether it is once in the window, and once in what begins at a place and has ``new`` behind that."""
        is_within = self.since <= start <= self.at
        return self.times == 1 and is_within and new.find(self.line, 0, new.size) < 0


def end_of_lines(window: Window) -> int:
    """Return where the last whole line ends; 0 where there is none."""
    return _line_start(window, window.size)


def is_same(one: Window, other: Window) -> bool:
    """Return whether both windows hold the same bytes."""
    return one.size == other.size == _agreement(one, 0, other, 0)


def _from(match: _Match, delivered: Window, export: Window, proof: OverlapProof) -> Continuation:
    """Return the continuation that a common part shows, wherever in both windows it is."""
    same = match.size + _agreement(delivered, match.delivered_at + match.size, export, match.export_at + match.size)
    delivered_end, export_end = match.delivered_at + same, match.export_at + same
    shift = match.delivered_at - match.export_at
    if delivered_end == delivered.size:
        return Continuation(start=export_end, shift=shift, proof=proof)
    left = export.read(export_end, 2)
    if not left or left == b"\n":  # it ended earlier; or within a line, which was ended then
        return Continuation(start=export.size, shift=shift, proof=proof, older=True)
    start = _line_start(export, export_end)
    if _ends_earlier(export, start, delivered, start + shift, common=export_end - start):
        return Continuation(start=export.size, shift=shift, proof=proof, older=True)
    return Continuation(start=start, shift=shift, proof=proof, changed=delivered.size - start - shift)


def _ends_earlier(export: Window, start: int, delivered: Window, delivered_start: int, *, common: int) -> bool:
    """Return whether an export ends before what was delivered does, where both have another line at these places.

    What one of them has otherwise at its end is one line, and perhaps a trailer: who has more goes on for longer. Where
    both have as good as the same, the longer line is the one that was not cut.
    """
    last, delivered_last = _last_time(export), _last_time(delivered)
    if last is None or delivered_last is None or last > delivered_last:
        return False
    mine = len(list(islice(times(export, start, export.size), CHANGED_LINES + 1)))
    theirs = len(list(islice(times(delivered, delivered_start, delivered.size), 2 * CHANGED_LINES + 1)))
    if mine > CHANGED_LINES or mine >= theirs:
        return False
    return theirs - mine > CHANGED_LINES or _rest(export, start + common) < _rest(delivered, delivered_start + common)


def _last_time(window: Window) -> datetime | None:
    return last_time(window, 0, window.size)


def _rest(window: Window, start: int) -> int:
    """Return how many bytes of a line follow, up to some."""
    return len(window.read(start, READ).partition(b"\n")[0])


# --- a line with a time -----------------------------------------------------------------------------------------------


def _common_line(delivered: Window, export: Window) -> _Match | None:
    """Return the last line with a time that is in both windows once.

    What was delivered is gone through from its end first: the export goes on after it. An older export ends before
    that, so it is gone through then.
    """
    if found := _only_line(delivered, export):
        return _Match(found[0], found[1], found[2])
    if found := _only_line(export, delivered):
        return _Match(found[1], found[0], found[2])
    return None


def _only_line(window: Window, other: Window) -> tuple[int, int, int] | None:
    """Return where the window's last such line begins in it and in the other one, and its bytes."""
    seen: set[bytes] = set()
    absent = repeated = 0
    most_repeated = max(MOST_REPEATED, MOST_SEARCHED // (window.size + other.size))
    for start, line in _lines_back(window, reach=TIMED_REACH):
        if line in seen:
            continue
        seen.add(line)
        if line_time(line) is None:
            continue
        places = list(islice(_places(other, line), 2))
        if not places:
            absent += 1
        elif len(places) == 1 and _is_line_there(window, start, other, places[0]) and _is_once(window, line):
            return start, places[0], len(line)
        else:
            repeated += 1
        if absent == MOST_ABSENT or repeated == most_repeated:
            return None
    return None


def _is_line_there(window: Window, start: int, other: Window, place: int) -> bool:
    """Return whether the line of one window is one in the other, too, and the line before it is the same.

    A line may be twice in one millisecond, of which one window has the first and the other one the second.
    """
    before = start - _line_start(window, start - 1), place - _line_start(other, place - 1)
    needed = min(start, place, *before)
    return _is_line_start(other, place) and _agreement_back(window, start, other, place, most=needed) >= needed


def _is_once(window: Window, text: bytes) -> bool:
    return len(list(islice(_places(window, text), 2))) == 1


# --- a stretch --------------------------------------------------------------------------------------------------------


def _common_stretch(delivered: Window, export: Window) -> _Match | None:
    """Return a stretch near the end of what was delivered, or of an older export, that is in both windows once.

    The last lines may be otherwise in the other window.
    """
    for start, end in _stretches(delivered):
        place = _only_place(delivered, export, start, end)
        if place is not None and _is_anchored(delivered, start, export, place):
            return _Match(start, place, end - start)
    for start, end in _stretches(export):
        place = _only_place(export, delivered, start, end)
        if place is not None and _is_anchored(delivered, place, export, start):
            return _Match(place, start, end - start)
    return None


def _is_anchored(delivered: Window, delivered_at: int, export: Window, export_at: int) -> bool:
    """Return whether what is before a stretch shows as well that it is the same one in both windows."""
    back = _agreement_back(delivered, delivered_at, export, export_at, most=TIMED_REACH)
    agreed = delivered_at - back
    lines = agreed if _is_line_start(delivered, agreed) else _next_line(delivered, agreed)
    if lines < delivered_at and first_time(delivered, lines, delivered_at) is not None:
        return True
    return back == min(delivered_at, export_at) and _times_go_on(delivered, export)


def _next_line(window: Window, place: int) -> int:
    """Return where the next line begins after a place, if that is near; else the window's end."""
    at = window.read(place, READ).find(b"\n")
    return place + at + 1 if at >= 0 else window.size


def _times_go_on(delivered: Window, export: Window) -> bool:
    """Return whether the export may follow by the times of its lines: there is no longer pause than elsewhere in them.

    What is written between two exports that have nothing in common takes longer than that, mostly.
    """
    last, first = _last_time(delivered), first_time(export, 0, export.size)
    if last is None or first is None:
        return True
    near = [*pairwise(times(delivered, max(0, delivered.size - READ), delivered.size))]
    near += pairwise(islice(times(export, 0, export.size), STRETCH_LINES))
    return first - last <= max((abs(then - moment) for moment, then in near), default=timedelta(0))


def _stretches(window: Window) -> Iterator[tuple[int, int]]:
    """Yield the last stretch, and the last one before those lines that may be otherwise."""
    end = end_of_lines(window)
    for last in dict.fromkeys((end, _lines_before(window, end, CHANGED_LINES))):
        start = max(0, last - STRETCH, _lines_before(window, last, STRETCH_LINES))
        if _is_stretch(window, start, last):
            yield start, last


def _is_stretch(window: Window, start: int, end: int) -> bool:
    if end - start >= STRETCH:
        return True
    lines = window.read(start, end - start).count(b"\n")
    return lines - (not _is_line_start(window, start)) >= STRETCH_LINES


def _only_place(window: Window, other: Window, start: int, end: int) -> int | None:
    """Return where a part of the window is in the other one; None where that is nowhere, or either repeats it."""
    text = window.read(start, end - start)
    places = list(islice(_places(other, text), 2))
    return places[0] if len(places) == 1 and _is_once(window, text) else None


# --- the rest of a line, and what is alike ----------------------------------------------------------------------------


def _rest_of_last_line(delivered: Window, export: Window) -> int:
    """Return the bytes of the last line delivered that the export begins with, where that is a proof; else 0."""
    start = _line_start(delivered, delivered.size - 1)
    line = delivered.read(start, min(READ, delivered.size - start))
    rest = export.read(0, len(line)).partition(b"\n")[0] + b"\n"
    if not (LEAST_REST <= len(rest) < len(line) and line.endswith(rest)) or line_time(line) is None:
        return 0
    is_once = _is_once(delivered, rest) and _is_once(export, rest)
    return len(rest) if is_once and _times_go_on(delivered, export) else 0


def _are_alike(delivered: Window, export: Window) -> bool:
    """Return whether the export may all the same begin with the end of what was delivered, or be a part of it.

    The greater part of a line will do; many lines end alike. The last lines may be otherwise.
    """
    start = max(0, delivered.size - READ)
    tail, head = delivered.read(start, READ), export.read(0, READ)
    first = head[: head.find(b"\n") + 1] or head
    changed = _lines_before(HeldWindow(tail), len(tail), CHANGED_LINES)
    for at in islice(_places(HeldWindow(tail), first), TRIES):
        same = _same_bytes(tail[at:], head)
        lines = head.rfind(b"\n", 0, same) + 1
        line = at + len(first) - _line_start(HeldWindow(tail), at)
        is_enough = lines > len(first) or len(first) >= max(LEAST_END, line // 3)
        if lines and is_enough and at + same >= changed:
            return True
    return export.size <= READ and delivered.find(head, 0, delivered.size) >= 0


# --- bytes and lines --------------------------------------------------------------------------------------------------


def _places(window: Window, text: bytes, *, since: int = 0, until: int | None = None) -> Iterator[int]:
    """Yield where the text is in the window, from a place on, and up to one."""
    end = window.size if until is None else until + len(text)
    at = window.find(text, since, end)
    while at >= 0:
        yield at
        at = window.find(text, at + 1, end)


def _agreement(one: Window, start: int, other: Window, other_start: int) -> int:
    """Return the number of bytes that are the same in both windows from these places on."""
    same = 0
    while True:
        mine = one.read(start + same, READ)
        theirs = other.read(other_start + same, len(mine))
        if not mine or mine != theirs:
            return same + _same_bytes(mine, theirs)
        same += len(mine)


def _agreement_back(one: Window, end: int, other: Window, other_end: int, *, most: int) -> int:
    """Return the number of bytes that are the same in both windows before these places, up to some."""
    most, same = min(most, end, other_end), 0
    while same < most:
        size = min(READ, most - same)
        mine, theirs = one.read(end - same - size, size), other.read(other_end - same - size, size)
        if mine != theirs:
            return same + _same_bytes(mine[::-1], theirs[::-1])
        same += size
    return same


def _same_bytes(one: bytes, other: bytes) -> int:
    """Return the number of first bytes that are the same, by halving what is compared."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _lines_back(window: Window, *, reach: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines at the window's end, the last one first, each with where it begins; very long ones not."""
    end = end_of_lines(window)
    least = max(0, end - reach)
    while end > least:
        start = max(0, end - READ)
        text = window.read(start, end - start)
        first = text.find(b"\n", 0, len(text) - 1) + 1 if start else 0
        if first or not start:
            at = end
            for line in reversed(text[first:-1].split(b"\n")):
                at -= len(line) + 1
                yield at, line + b"\n"
            end = start + first
        else:  # a line that is longer than a read
            end = _line_start(window, start)


def _line_start(window: Window, place: int) -> int:
    """Return where the line begins that a place is in: behind the last line end before it; 0 for none."""
    size = LINE
    while place > 0:
        start = max(0, place - size)
        at = window.read(start, place - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        place, size = start, min(8 * size, READ)
    return 0


def _lines_before(window: Window, end: int, count: int) -> int:
    """Return where the line begins that is so many before a line's end; 0 where there are fewer."""
    for _ in range(count):
        end = _line_start(window, end - 1)
    return end


def _is_line_start(window: Window, place: int) -> bool:
    return place == 0 or window.read(place - 1, 1) == b"\n"
