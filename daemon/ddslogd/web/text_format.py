"""Times, sizes and hostile text in the words that the page shows: pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from ddslogd.model.printable import printable
from ddslogd.model.units import span

if TYPE_CHECKING:
    from datetime import datetime

_JUST_NOW_S = 5


def relative(moment: datetime, now: datetime) -> str:
    """Return how far a moment is from now: ``3 min ago``, ``in 20 s``, ``now``."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < _JUST_NOW_S:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def machine(moment: datetime) -> str:
    """Return a moment for programs: ISO 8601, UTC, milliseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def absolute(moment: datetime) -> str:
    """Return a moment for eyes: UTC, to the second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"


def seen(value: Any) -> Any:
    """Return a value as the page may show it: text is made printable, what is no text passes, and None is nothing."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
