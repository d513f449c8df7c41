"""When the lines of a log were written: the first and the last time in a range of its bytes. Pure.

A line of mongod begins with its time, in the error log as in the slow log: JSON since MongoDB 4.4, text before.
Each line is looked at for itself, since an upgrade leaves both kinds in one log.
https://www.mongodb.com/docs/manual/reference/log-messages/
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ddslogd.storage.overlap import Window

REACH = 1024 * 1024  # bytes from the range's beginning, or from its end, in which a time is looked for
READ = 32 * 1024  # bytes: dozens of lines, of which the first or the last mostly has one
SMALLEST = 2 * 1024  # bytes: a few lines
BEGINNING = 128  # bytes of a line, in which its time stands

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


def line_time(line: bytes) -> datetime | None:
    """Give a line's time, aware and in UTC; None where its beginning holds none. One without a zone counts as UTC."""
    found = _TIME.match(line)
    return None if found is None else _moment(found)


def first_time(window: Window, start: int, end: int) -> datetime | None:
    """Give the time of the first line that has one; those before it were cut, or go on with another line.

    Looks at the first MiB only.

    Args:
        window: Where the lines are.
        start: Counts as a line's beginning.
        end: May be within a line.
    """
    until = min(end, start + REACH - BEGINNING)
    for block in _blocks(start, until):
        if (moment := _first(_found(window, range(start, end), block))) is not None:
            return moment
    return None


def last_time(window: Window, start: int, end: int) -> datetime | None:
    """Give the time of the last line that has one; looks at the last MiB only.

    Args:
        window: Where the lines are.
        start: Counts as a line's beginning.
        end: May be within a line.
    """
    since = max(start, end - REACH + 1)
    for block in _blocks_back(since, end):
        if (moment := _first(reversed(list(_found(window, range(start, end), block))))) is not None:
            return moment
    return None


def _blocks(start: int, end: int) -> list[range]:
    return [range(at, min(at + READ, end)) for at in range(start, end, READ)]


def _blocks_back(start: int, end: int) -> Iterator[range]:
    """Give blocks from the end on: small ones first, since the last line mostly has a time."""
    size = SMALLEST
    while end > start:
        yield range(max(start, end - size), end)
        end, size = end - size, min(size * 4, READ)


def _found(window: Window, lines: range, block: range) -> Iterator[re.Match[bytes]]:
    """Give the beginnings of those lines with a time that begin within the block."""
    before = min(block.start - lines.start, 1)  # the byte before shows whether the block begins with a line
    text = window.read(block.start - before, before + min(len(block) + BEGINNING, lines.stop - block.start))
    for found in _TIME.finditer(text, before):
        if found.start() < before + len(block):
            yield found


def _first(found: Iterable[re.Match[bytes]]) -> datetime | None:
    """Give the first moment that there is: to read one takes longer than to find it."""
    return next((moment for one in found if (moment := _moment(one)) is not None), None)


def _moment(found: re.Match[bytes]) -> datetime | None:
    """Read what was found; None for a moment that there is not."""
    text, milliseconds = found["json"] or found["text"], found["long"] or found["number"]
    try:
        if text is None:
            return _EPOCH + timedelta(milliseconds=int(milliseconds))
        moment = datetime.fromisoformat(text.decode())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
