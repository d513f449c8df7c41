"""What must be true of a stream, by what the node wrote, what was exported, and the gaps that are reported. Pure.

A stream is read from its beginning. A timed line says by itself which line of the log it is; lines without a time
belong to the timed line before them, or, behind a place where lines are missing, stand before the one after them:

    log      A u v w   B u v w   C
    stream   A u       |   v w   C        the place is after line "A u", and "v w" are B's

So every line of the stream gets its number in the log, and what is missing, doubled or in another order shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from fuzz.node_log import Line

UNPROVED = "unproved"
WITHOUT_LOSS = {UNPROVED, "instance gone", "evicted unshipped"}  # causes of gaps that may hide no line
NEAR = 4  # timed lines on each side of a place among which a gap's bounds are looked for
SLACK = timedelta(milliseconds=1)  # dates have milliseconds


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"
    """Lines are missing, and no gap names them."""
    DOUBLE = "double"
    """Lines are there twice, and nothing reports that."""
    NEEDLESS = "needless"
    """Lines are there twice behind a gap that is unproved, although a timed line would have proved where they go on."""
    FALSE_GAP = "false gap"
    """A gap names a place where nothing is missing."""
    ORDER = "order"
    """Lines are in another order than they were written."""
    FOREIGN = "foreign"
    """A line that no export ever held."""
    CUT = "cut"
    """Half a line, at a place where no gap is."""
    SPLIT = "split"
    """A node has several streams, or a stream several nodes."""
    SNAPSHOT = "snapshot"
    """A visible file that is no whole export."""
    FRESH = "fresh"
    """Called fresh while lines are missing that were written too long ago."""
    UNSAID = "unsaid"
    """There is a gap, and the status does not say so."""
    FORGOTTEN = "forgotten"
    """A gap that was reported is no longer in the list."""
    STUCK = "stuck"
    """When all is well again, lines do not come, or the status does not become good."""
    CRASH = "crash"
    """An error that was not foreseen, or a wrong exit status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that is wrong.

    Attributes:
        where: Instance and node, as far as they are known.
    """

    kind: Kind
    where: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A gap as it is reported; None for a bound that is not known."""

    after: datetime | None
    until: datetime | None
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of a node's log.

    Attributes:
        lines: All that was written.
        changed: Lines that an exporter made of its last one, with the number of the line in whose place they are.
        heads: The ends of lines that exports began with.
        tails: The beginnings of lines that exports ended with.
        begins: The numbers of the first whole lines of exports.
        first: The number of the first line that must be there, None where the stream's own first line decides.
    """

    lines: Sequence[Line]
    changed: Mapping[bytes, int] = field(default_factory=dict)
    heads: frozenset[bytes] = frozenset()
    tails: frozenset[bytes] = frozenset()
    begins: frozenset[int] = frozenset()
    first: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place of a stream that does not go on with the next line of the log.

    Attributes:
        before: The number of the line before it.
        after: The number of the line behind it.
        cut: Half lines that are there.
    """

    before: int
    after: int
    cut: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Reading:
    """What was found in a stream.

    Attributes:
        times: How often each line of the log is there.
        places: Where it does not go on with the next line.
        doubled: The numbers of lines that were there before, by the place behind which they are again.
        late: The numbers of lines that come behind later ones.
        odd: Lines that are of no export.
        loose: Lines without a time of which nobody can say which they are.
        changed: The numbers of the lines in whose place an exporter's own are there.
    """

    times: list[int]
    places: list[Place] = field(default_factory=list)
    doubled: dict[Place, list[int]] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    odd: list[bytes] = field(default_factory=list)
    loose: list[bytes] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)


class _Reader:
    """Reads one stream; see the module."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.found = Reading([0] * len(history.lines))
        self._numbers = {line.text: number for number, line in enumerate(history.lines) if line.timed}
        self._untimed = {line.text for line in history.lines if not line.timed}
        self._at: int | None = None  # the number of the last line
        self._furthest = -1
        self._place = Place(before=-1, after=0)  # the last one
        self._pending: list[bytes] = []  # lines of which the next timed one says which they are
        self._cut: list[bytes] = []

    def read(self, text: bytes) -> None:
        """Take the next line."""
        history = self.history
        if not self._pending and self._at is not None and self._goes_on(text):
            self._set(range(self._at + 1, self._at + 2))
        elif text in self._numbers:
            self._resume(self._numbers[text])
        elif text in history.changed:
            self.found.changed.add(history.changed[text])
        elif text in self._untimed or text in history.heads:
            self._pending.append(text)
        elif text in history.tails:
            self._cut.append(text)
        else:
            self.found.odd.append(text)

    def end(self) -> Reading:
        """Return what was found."""
        self.found.loose += [text for text in self._pending if text not in self.history.heads]
        return self.found

    def _goes_on(self, text: bytes) -> bool:
        following = (self._at or 0) + 1
        return following < len(self.history.lines) and self.history.lines[following].text == text

    def _resume(self, number: int) -> None:
        """Go on with a timed line, behind lines of which it says which they are."""
        lines, start = self.history.lines, number
        while self._pending and start and lines[start - 1].text == self._pending[-1] and not lines[start - 1].timed:
            self._pending.pop()
            start -= 1
        heads = [text for text in self._pending if text in self.history.heads]
        self.found.loose += [text for text in self._pending if text not in self.history.heads]
        self._cut += heads
        self._pending = []
        self._set(range(start, number + 1))

    def _set(self, numbers: range) -> None:
        if self._at is not None and (numbers[0] != self._at + 1 or self._cut):
            self._place = Place(before=self._at, after=numbers[0], cut=tuple(self._cut))
            self.found.places.append(self._place)
        for number in numbers:
            if self.found.times[number]:
                self.found.doubled.setdefault(self._place, []).append(number)
            elif number < self._furthest:
                self.found.late.append(number)
            self.found.times[number] += 1
            self._furthest = max(self._furthest, number)
        self._at, self._cut = numbers[-1], []


def read(history: History, stream: bytes) -> Reading:
    """Return what is in a stream: all of its files in order, of which the last may end within a line."""
    reader = _Reader(history)
    for text in stream[: stream.rfind(b"\n") + 1].splitlines(keepends=True):
        reader.read(text)
    return reader.end()


def judge(history: History, stream: bytes, gaps: Sequence[Gap], *, where: str = "") -> list[Violation]:
    """Return what is wrong with a stream.

    Args:
        history: Of the node.
        stream: All files of its stream, in order.
        gaps: All that were ever reported of it.
        where: Whose it is, for the words.
    """
    return [
        Violation(kind=kind, where=where, detail=detail)
        for kind, detail in _wrong(history, read(history, stream), gaps)
    ]


def _wrong(history: History, found: Reading, gaps: Sequence[Gap]) -> Iterator[tuple[Kind, str]]:
    if found.odd:
        yield Kind.FOREIGN, f"{len(found.odd)} lines, the first: {found.odd[0][:120]!r}"
    if found.late or found.loose:
        shown = _shown(history, found.late) or repr(found.loose[0][:120])
        yield Kind.ORDER, f"{len(found.late) + len(found.loose)} lines, the first: {shown}"
    yield from _doubles(history, found, gaps)
    missing = _missing(history, found)
    unnamed = [number for number in missing if not _is_named(history, found, number, gaps)]
    if unnamed:
        detail = f"{len(unnamed)} of {len(missing)} missing lines are named in no gap, the first: "
        yield Kind.LOST, detail + _shown(history, unnamed)
    for place in found.places:
        if place.cut and not any(_is_at(history, place, gap) for gap in gaps):
            yield Kind.CUT, f"{place.cut[0][:80]!r} behind line {place.before}, where no gap is"
    for gap in gaps:
        if gap.cause not in WITHOUT_LOSS and not _hides(history, found, missing, gap) and not _is_seam(history, gap):
            yield Kind.FALSE_GAP, f"{gap.cause} from {gap.after} to {gap.until}: nothing is missing there"


def _doubles(history: History, found: Reading, gaps: Sequence[Gap]) -> Iterator[tuple[Kind, str]]:
    for place, numbers in found.doubled.items():
        again = [number for number in numbers if number not in found.changed]
        timed = [number for number in again if history.lines[number].timed]
        reported = any(gap.cause == UNPROVED and _is_at(history, place, gap) for gap in gaps)
        detail = f"{len(again)} lines ({len(timed)} timed) again behind line {place.before}, the first: "
        if again and not reported:
            yield Kind.DOUBLE, detail + _shown(history, again)
        elif timed:
            yield Kind.NEEDLESS, detail + _shown(history, timed)


def _missing(history: History, found: Reading) -> list[int]:
    """Return the numbers of the lines that are not there, from the first one that must be to the last one that is."""
    there = [number for number, count in enumerate(found.times) if count]
    if not there:
        return []
    first = there[0] if history.first is None else min(there[0], history.first)
    return [number for number in range(first, there[-1]) if not found.times[number]]


def _is_named(history: History, found: Reading, number: int, gaps: Sequence[Gap]) -> bool:
    moment = history.lines[number].time
    if any(_holds(gap, moment) for gap in gaps):
        return True
    places = [place for place in found.places if place.before < number < place.after]
    return any(_is_at(history, place, gap) for place in places for gap in gaps)


def _holds(gap: Gap, moment: datetime) -> bool:
    after = gap.after is None or gap.after - SLACK <= moment
    return after and (gap.until is None or moment <= gap.until + SLACK)


def _is_at(history: History, place: Place, gap: Gap) -> bool:
    """Return whether a gap is reported at a place of the stream: by the dates before it and behind it."""
    before = _times(
        history, range(min(place.before + 1, len(history.lines) - 1), -1, -1)
    )  # half of the next may be there
    after = _times(history, range(place.after, len(history.lines)))
    return (gap.after is None or _is_among(gap.after, before)) and (gap.until is None or _is_among(gap.until, after))


def _times(history: History, numbers: range) -> list[datetime]:
    """Return the times of the nearest timed lines."""
    found: list[datetime] = []
    for number in numbers:
        if history.lines[number].timed:
            found.append(history.lines[number].time)
        if len(found) == NEAR:
            break
    return found


def _is_among(moment: datetime, times: Sequence[datetime]) -> bool:
    return any(abs(moment - time) <= SLACK for time in times)


def _hides(history: History, found: Reading, missing: Sequence[int], gap: Gap) -> bool:
    if any(_holds(gap, history.lines[number].time) for number in missing):
        return True
    return any(place.after > place.before + 1 and _is_at(history, place, gap) for place in found.places)


def _is_seam(history: History, gap: Gap) -> bool:
    """Return whether an export begins there: where it has no whole line of what came before, nobody can know that.

    Were lines of it there before, they would be there twice now, which is wrong by itself.
    """
    return any(_is_at(history, Place(before=number - 1, after=number), gap) for number in history.begins)


def _shown(history: History, numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    line = history.lines[numbers[0]]
    return f"{numbers[0]} to {numbers[-1]}, {line.time.isoformat(timespec='milliseconds')} {line.text[:100]!r}"
