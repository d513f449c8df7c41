"""Causes that fail the cycles of many instances at once: one warning for all, with a count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddslogd.model.failure_kind import FailureKind


@dataclass(slots=True, kw_only=True)
class Cause:
    """Why cycles of one cloud's instances fail.

    Attributes:
        kind: Of the failure, the same for all of them.
        reason: In words, of whom it hit last.
        instances: The names of those whose last cycle failed for it.
        reported: How many there were when it was last reported; 0 where it was not.
    """

    cloud: str
    kind: FailureKind
    reason: str = ""
    instances: set[str] = field(default_factory=set)
    reported: int = 0


class SharedCauses:
    """Knows which instances fail for the same cause."""

    def __init__(self) -> None:
        self._causes: dict[tuple[str, FailureKind], Cause] = {}

    def failed(self, instance: str, *, cloud: str, kind: FailureKind, reason: str) -> bool:
        """Record a cycle that failed as a whole; return whether others fail for the same cause already."""
        cause = self._causes.setdefault((cloud, kind), Cause(cloud=cloud, kind=kind))
        is_shared = bool(cause.instances - {instance})
        cause.instances.add(instance)
        cause.reason = reason
        self._leave(instance, but=cause)
        return is_shared

    def ended(self, instance: str) -> None:
        """Record a cycle that did not fail as a whole."""
        self._leave(instance)

    def _leave(self, instance: str, *, but: Cause | None = None) -> None:
        for cause in self._causes.values():
            if cause is not but:
                cause.instances.discard(instance)

    def news(self) -> Iterator[Cause]:
        """Return the causes that hit several instances, twice as many as last time at least, and those that are over.

        Whoever asks reports them. A cause that is over has no instances, and is forgotten.
        """
        for key, cause in list(self._causes.items()):
            number = len(cause.instances)
            if number > 1 and number >= 2 * cause.reported:
                cause.reported = number
                yield cause
            elif not number:
                del self._causes[key]
                if cause.reported:
                    yield cause
