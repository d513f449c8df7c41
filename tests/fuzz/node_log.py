"""What a node writes: timed lines that say who they are, and lines without a time, the same behind many of them."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_WORDS = (
    "Connection pool is over its limit for host 10.0.{a}.{b}:8635",
    "Heartbeat failed after max retries, target 10.0.{a}.{b}:8635, last error HostUnreachable",
    "SSL peer certificate validation failed: certificate has expired, remote 10.0.{a}.{b}:41{b}",
    "WiredTiger error: [{b}:0x7f{a:04x}], file:index-{a}.wt: Device or resource busy",
    "Authentication failed for app{a} with mechanism SCRAM-SHA-256",
)
_ODD_DATES = (
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.000Z",
    "0001-01-01T00:00:00.000Z",
    "2199-01-01T00:00:00.000+14:00",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A whole line.

    Attributes:
        text: With its line end.
        time: Of the last line up to this one whose date can be believed.
        timed: Whether the line itself begins with a date.
        event: The number of its event.
    """

    text: bytes
    time: datetime
    timed: bool
    event: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a node writes.

    Attributes:
        json: As MongoDB 4.4 and later; else text.
        storm: Which part of its events is an assertion, which has lines without a time behind it.
        odd_dates: Which part of its events has a date that no clock shows.
    """

    json: bool
    storm: float
    odd_dates: float


class NodeLog:
    """The whole log of a node. Events are numbered, so no two timed lines are the same.

    Args:
        tag: In every timed line; no other node has it.
        random: Decides every line.
    """

    def __init__(self, tag: str, habits: Habits, random: Random) -> None:
        self.tag = tag
        self.lines: list[Line] = []
        self.content = bytearray()
        self._ends: list[int] = []  # of each line, in the content
        self._habits = habits
        self._random = random
        self._events = 0
        self._frames = [
            f" /usr/bin/mongod(_ZN5mongo{n}frameOfNode{tag}EPKcS1_j+0x{n * 37:X}) [0x55d0c0de{n:04x}]\n".encode()
            for n in range(random.randint(8, 24))
        ]

    @property
    def size(self) -> int:
        """Return the number of bytes written."""
        return len(self.content)

    def line_at(self, offset: int) -> int:
        """Return which line holds the byte at an offset; behind the last, the number of lines."""
        return bisect_right(self._ends, offset)

    def end_of(self, line: int) -> int:
        """Return the offset behind a line; of the line -1: 0."""
        return self._ends[line] if line >= 0 else 0

    def write(self, size: int, *, since: datetime, now: datetime) -> None:
        """Write about so many bytes, with dates from one moment to another."""
        goal = self.size + size
        step = max(timedelta(milliseconds=1), (now - since) / max(1, size // 150))
        moment = since
        while self.size < goal:
            if self._random.random() > 0.1:  # some events share their millisecond
                moment = min(moment + step, max(now, since))
            self._write_event(_whole_ms(moment))

    def _write_event(self, moment: datetime) -> None:
        odd = self._random.random() < self._habits.odd_dates
        ahead = _spelled(moment + timedelta(days=30), json=self._habits.json)
        date = self._random.choice((*_ODD_DATES, ahead)) if odd else _spelled(moment, json=self._habits.json)
        before = self.lines[-1].time if self.lines else moment
        time = before if odd else moment
        storm = self._random.random() < self._habits.storm
        words = "Invariant failure" if storm else self._words()
        self._append(Line(text=self._event(date, words), time=time, timed=True, event=self._events))
        for frame in self._frames if storm else ():
            self._append(Line(text=frame, time=time, timed=False, event=self._events))
        self._events += 1

    def _event(self, date: str, words: str) -> bytes:
        token = f"#{self.tag}.{self._events:06d}#"
        if not self._habits.json:
            return f"{date} E STORAGE  [conn{self._random.randrange(99)}] {words} {token}\n".encode()
        event = {"t": {"$date": date}, "s": "E", "c": "STORAGE", "id": 23083, "ctx": "conn1", "msg": words}
        return (json.dumps(event | {"attr": {"event": token}}, separators=(",", ":")) + "\n").encode()

    def _words(self) -> str:
        return self._random.choice(_WORDS).format(a=self._random.randrange(255), b=self._random.randrange(255))

    def _append(self, line: Line) -> None:
        self.lines.append(line)
        self.content += line.text
        self._ends.append(len(self.content))


def _spelled(moment: datetime, *, json: bool) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text if json else text.replace("+00:00", "+0000")


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
