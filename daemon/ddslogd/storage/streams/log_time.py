"""When the lines of a log were written: the first and the last time in a range of its bytes. Pure.

A line of mongod begins with its time, in the error log as in the slow log: JSON since MongoDB 4.4, text before.
Each line is looked at for itself, since an upgrade leaves both kinds in one log. What no server can have written, as it
is before ``OLDEST`` or from ``NEWEST`` on, is no time: what is reckoned with a log's times stays in the calendar.
https://www.mongodb.com/docs/manual/reference/log-messages/
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REACH = 1024 * 1024  # bytes from the range's beginning, or from its end, in which a time is looked for
READ = 32 * 1024  # bytes: dozens of lines, of which the first or the last mostly has one
SMALLEST = 512  # bytes: a line or two
BEGINNING = 128  # bytes of a line, in which its time stands

OLDEST = datetime(1990, 1, 1, tzinfo=UTC)
NEWEST = datetime(2100, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=2)
"""How far a line's time may be ahead of the best clock known and still be believed: a server's clock may be wrong."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A date is one of MongoDB's Extended JSON, relaxed (text) or canonical ($numberLong), or a bare number of milliseconds.
# https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/
# Each repetition has a bound, so that what is found is shorter than BEGINNING.
_BLANKS = rb"[ \t]{0,4}"
_MOMENT = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d(?::?[0-5]\d)?)?"
_NUMBER = rb"-?\d{1,18}"
_LONG = _BLANKS.join([rb"\{", rb'"\$numberLong"', b":", b'"(?P<long>' + _NUMBER + b')"', rb"\}"])
_DATE = b'(?:"(?P<json>' + _MOMENT + b')"|(?P<number>' + _NUMBER + b")|" + _LONG + b")"
_JSON = _BLANKS.join([rb"\{", b'"t"', b":", rb"\{", rb'"\$date"', b":", _DATE, rb"\}"])
_TEXT = b"(?P<text>" + _MOMENT + rb")(?!\S)"
_TIME = re.compile(b"^" + _BLANKS + b"(?:" + _JSON + b"|" + _TEXT + b")", re.MULTILINE)


class Readable(Protocol):
    """Bytes that are read from any place on."""

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from ``start`` on; fewer at the end."""


def line_time(line: bytes) -> datetime | None:
    """Return a line's time, aware and in UTC; None where its beginning holds none. One without a zone counts as UTC."""
    found = _TIME.match(line)
    return None if found is None else _moment(found)


def first_time(window: Readable, start: int, end: int, *, until: datetime = NEWEST) -> datetime | None:
    """Return the time of the first line that has one; those before it were cut, or go on with another line.

    Looks at the first MiB only.

    Args:
        window: Where the lines are.
        start: Counts as a line's beginning.
        end: May be within a line.
        until: Later times are not believed, and passed over.
    """
    last = min(end, start + REACH - BEGINNING)
    for block in _blocks(start, last):
        if (moment := _first(_found(window, range(start, end), block), until)) is not None:
            return moment
    return None


def last_time(window: Readable, start: int, end: int, *, until: datetime = NEWEST) -> datetime | None:
    """Return the time of the last line that has one; looks at the last MiB only.

    Args:
        window: Where the lines are.
        start: Counts as a line's beginning.
        end: May be within a line.
        until: Later times are not believed, and passed over.
    """
    since = max(start, end - REACH + 1)
    for block in _blocks_back(since, end):
        if (moment := _first(reversed(list(_found(window, range(start, end), block))), until)) is not None:
            return moment
    return None


def times(window: Readable, start: int, end: int) -> Iterator[datetime]:
    """Yield the times of the lines that have one, as far as somebody asks; the first line begins at ``start``."""
    for block in _blocks(start, end):
        yield from filter(None, map(_moment, _found(window, range(start, end), block)))


def _blocks(start: int, end: int) -> list[range]:
    return [range(at, min(at + READ, end)) for at in range(start, end, READ)]


def _blocks_back(start: int, end: int) -> Iterator[range]:
    """Yield blocks from the end on: small ones first, since the last line mostly has a time."""
    size = SMALLEST
    while end > start:
        yield range(max(start, end - size), end)
        end, size = end - size, min(size * 4, READ)


def _found(window: Readable, lines: range, block: range) -> Iterator[re.Match[bytes]]:
    """Yield the beginnings of those lines with a time that begin within the block."""
    before = min(block.start - lines.start, 1)  # the byte before shows whether the block begins with a line
    text = window.read(block.start - before, before + min(len(block) + BEGINNING, lines.stop - block.start))
    for found in _TIME.finditer(text, before):
        if found.start() < before + len(block):
            yield found


def _first(found: Iterable[re.Match[bytes]], until: datetime) -> datetime | None:
    """Return the first moment that there is and that is believed: to read one takes longer than to find it."""
    return next((moment for one in found if (moment := _moment(one)) is not None and moment <= until), None)


def _moment(found: re.Match[bytes]) -> datetime | None:
    """Return the moment that was found; None for one that there is not, or that no server has written."""
    text, milliseconds = found["json"] or found["text"], found["long"] or found["number"]
    try:
        if text is None:
            moment = _EPOCH + timedelta(milliseconds=int(milliseconds))
        else:
            read = datetime.fromisoformat(text.decode())
            moment = (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if OLDEST <= moment < NEWEST else None
