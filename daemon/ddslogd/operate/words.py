"""Times, sizes and hostile text in the words that the page shows: pure."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

_JUST_NOW_S = 5
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WHOLE_BELOW_S = 2 * 60  # up to two minutes seconds are told; beyond that they only flicker
_KILO = 1000
_TENTHS_BELOW = 99.95  # what three digits can hold
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode's categories of what has no shape of its own


def span(seconds: float) -> str:
    """Give a duration in its two largest units: ``45 s``, ``12 min``, ``2 h 10 min``, ``3 d 4 h``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    if whole < _WHOLE_BELOW_S:
        return f"{whole} s"
    for (size, unit), (finer, finer_unit) in pairwise(_STEPS):
        if whole >= size:
            rest = whole % size // finer
            return f"{whole // size} {unit} {rest} {finer_unit}" if rest and finer > 1 else f"{whole // size} {unit}"
    return f"{whole} s"


def relative(moment: datetime, now: datetime) -> str:
    """Say how far a moment is from now: ``3 min ago``, ``in 20 s``, ``now``."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < _JUST_NOW_S:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def machine(moment: datetime) -> str:
    """Give a moment for programs: ISO 8601, UTC, milliseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def absolute(moment: datetime) -> str:
    """Give a moment for eyes: UTC, to the second."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds") + " UTC"


def size(count: float) -> str:
    """Give bytes in decimal units with three digits: ``0 B``, ``1.5 kB``, ``41.9 MB``."""
    if count < _KILO:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= _KILO
        if count < _TENTHS_BELOW:
            return f"{count:.1f} {unit}"
        if count < _KILO - 0.5:
            return f"{count:.0f} {unit}"
    return f"{count / _KILO:.1f} PB"


def seen(value: Any) -> Any:
    """Make text whose characters are all seen: what reorders, hides or breaks it is shown as its code point.

    A name from the cloud may hold bidirectional overrides, which would let it read as another one, or a surrogate,
    which no encoding takes. What is no text passes as it is; None is nothing.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return "".join(_shown(character) for character in value)


def _shown(character: str) -> str:
    if character in "\n\t\r":
        return " "
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in _UNSEEN else character
