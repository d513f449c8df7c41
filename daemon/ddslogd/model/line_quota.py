"""How many lines one piece of work may bring to the journal: some of each kind of event, and a count of the rest.

What the names and numbers of a cloud's reply decide is one line for each row; a hostile reply has a thousand rows, and
comes at each run. Whatever logs within ``limited`` is counted, also in tasks and threads that are begun there.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST_LINES: Final = 20
"""Lines that one cycle, or one list, may bring to the journal of one kind of event; the others are counted."""


class LineQuota:
    """Counts events by their names."""

    def __init__(self, most: int = MOST_LINES) -> None:
        """Prepare; ``most`` of each kind are logged."""
        self._most = most
        self._seen: Counter[str] = Counter()

    def admits(self, event: str) -> bool:
        """Count one event, and return whether it is to be logged."""
        self._seen[event] += 1
        return self._seen[event] <= self._most

    @property
    def rest(self) -> Mapping[str, int]:
        """Return how many of which events were not logged."""
        return {event: number - self._most for event, number in self._seen.items() if number > self._most}


_current: ContextVar[LineQuota | None] = ContextVar("line_quota", default=None)


@contextmanager
def limited() -> Iterator[LineQuota]:
    """Limit what is logged in the block."""
    quota = LineQuota()
    token = _current.set(quota)
    try:
        yield quota
    finally:
        _current.reset(token)


def within_quota(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Pass an event on, unless enough of its kind were logged; a processor of structlog.

    Raises:
        structlog.DropEvent: It is not to be logged.
    """
    quota = _current.get()
    if quota is not None and not quota.admits(str(event.get("event", ""))):
        raise structlog.DropEvent
    return event


def some(texts: Sequence[str], between: str = ", ", most: int = MOST_LINES) -> str:
    """Return texts for one line: the first ones, and how many more there are."""
    rest = [f"{len(texts) - most} more"] if len(texts) > most else []
    return between.join([*texts[:most], *rest])
