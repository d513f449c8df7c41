"""What nobody foresaw: it is entered as a failure of whom it hits, and stops nobody else."""

from __future__ import annotations

import structlog

from ddslogd.model.errors import Bug

log = structlog.get_logger()


class BugLog:
    """Logs bugs, each with its traceback the first time."""

    def __init__(self) -> None:
        self._known: set[tuple[object, ...]] = set()  # whose traceback was logged: kind of error, and where

    def note(self, cause: Exception, **place: str) -> Bug:
        """Return what is entered for something that nobody foresaw; log it."""
        bug, told = Bug(cause), (type(cause), *place.values())
        log.error("cycle.bug", exc_info=None if told in self._known else cause, reason=str(bug), **place)
        self._known.add(told)
        return bug
