"""What a node writes to its error log: warnings and errors as mongod words them, the same for the same seed.

Since MongoDB 4.4 a line is a JSON object; up to 4.2 it is text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

Line = Callable[[datetime, Random], str]
"""Writes one line of a log."""
Saying = tuple[str, str, int, str, str]
"""Severity, component, id, message, attr."""

# Severity, component, id, message, attr. Braces are doubled since these are format strings. The words are mongod's.
_SAYINGS = (
    (
        "W",
        "NETWORK",
        22943,
        "Connection pool is over its limit",
        '{{"remote":"10.0.{a}.{b}:{port}","inUse":{n}}}',
    ),
    (
        "W",
        "COMMAND",
        20525,
        "Failed to gather storage statistics for slow operation",
        '{{"opId":{n},"error":"lock acquire timeout"}}',
    ),
    (
        "W",
        "REPL",
        21784,
        "Heartbeat failed after max retries",
        '{{"target":"10.0.{a}.{b}:8635","maxHeartbeatRetries":2,"error":{{"code":93,"codeName":"InvalidReplicaSetConfig"}}}}',
    ),
    (
        "W",
        "QUERY",
        20478,
        "Plan executor error during find",
        '{{"error":"Exec error resulting in state FAILURE","stats":{{"namespace":"shop.größe_{a}","nReturned":{n}}}}}',
    ),
    (
        "E",
        "STORAGE",
        22435,
        "WiredTiger error",
        '{{"error":{b},"message":"[{n}:0x7f{port:04x}], file:index-{a}.wt: Device or resource busy"}}',
    ),
    (
        "E",
        "NETWORK",
        23256,
        "SSL peer certificate validation failed",
        '{{"remote":"10.0.{a}.{b}:{port}","reason":"certificate has expired"}}',
    ),
    (
        "E",
        "ACCESS",
        20249,
        "Authentication failed",
        '{{"mechanism":"SCRAM-SHA-256","principalName":"app{a}","error":"AuthenticationFailed"}}',
    ),
)
_FATAL = ("F", "-", 23089, "Fatal assertion", '{{"msgid":{n},"file":"src/mongo/db/repl/rs_{a}.cpp","line":{b}}}')

_FATAL_ONE_IN = 2_000
_REPEATED_ONE_IN = 40


class NodeLog:
    """One log of a node, the whole of it: it grows with time, by lines at a rate and by what is written to it.

    How often it is asked does not change what it says: each line has its own moment.

    Args:
        random: Decides every line.
        line: Writes its lines.
        begins: When the first line may come.
        rate: Lines a second on average; 0 for none.
    """

    def __init__(self, random: Random, *, line: Line, begins: datetime, rate: float) -> None:
        self.content = bytearray()
        self.until = begins
        self._random = random
        self._line = line
        self._begins = begins
        self._rate = rate
        self._slot = 0
        self._next = self._moment()

    def advance(self, until: datetime) -> None:
        """Write the lines that are due at ``until``; going back changes nothing."""
        lines: list[str] = []
        while self._next is not None and self._next <= until:
            # A real log has the same line twice in one millisecond, which is what makes overlaps hard to find.
            times = 2 if self._random.randrange(_REPEATED_ONE_IN) == 0 else 1
            lines += [self._line(self._next, self._random)] * times
            self._slot += 1
            self._next = self._moment()
        self.content += "".join(lines).encode()
        self.until = max(self.until, until)

    def tail(self, size: int) -> bytes:
        """Return the newest ``size`` bytes, which may begin within a line."""
        return bytes(memoryview(self.content)[max(0, len(self.content) - size) :])

    def _moment(self) -> datetime | None:
        """Return the next line's time: somewhere in its slot, so that the rate holds and the gaps differ."""
        if self._rate <= 0:
            return None
        return self._begins + timedelta(seconds=(self._slot + self._random.random()) / self._rate)


def json_line(moment: datetime, random: Random) -> str:
    """Return a line of the error log as MongoDB 4.4 and later write it."""
    return json_layout(moment, random, _said(random))


def text_line(moment: datetime, random: Random) -> str:
    """Return a line of the error log as MongoDB up to 4.2 writes it."""
    return text_layout(moment, random, _said(random))


def json_layout(moment: datetime, random: Random, saying: Saying) -> str:
    """Put what is said into a JSON object; ``attr`` is JSON already."""
    severity, component, number, message, attr = saying
    return (
        f'{{"t":{{"$date":"{moment.isoformat(timespec="milliseconds")}"}},"s":"{severity}","c":"{component}",'
        f'"id":{number},"ctx":"conn{random.randrange(10**5)}","msg":"{message}","attr":{attr}}}\n'
    )


def text_layout(moment: datetime, random: Random, saying: Saying) -> str:
    """Put what is said into a line of text: the component is padded to eight."""
    severity, component, _, message, attr = saying
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "+0000")
    return f"{time} {severity} {component:<8} [conn{random.randrange(10**5)}] {message} {attr}\n"


def _said(random: Random) -> Saying:
    """Choose what is said, with its numbers filled in."""
    saying = _FATAL if random.randrange(_FATAL_ONE_IN) == 0 else random.choice(_SAYINGS)
    severity, component, number, message, attr = saying
    filled = attr.format(
        a=random.randrange(256), b=random.randrange(256), n=random.randrange(10**6), port=random.randrange(1024, 65536)
    )
    return severity, component, number, message, filled
