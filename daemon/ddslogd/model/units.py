"""Durations, sizes and moments: read, spelled, and in words. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, overload


class UnitError(ValueError):
    """A text is no duration or size; says what one looks like."""


def in_words(duration: timedelta) -> str:
    """Spell a duration by its two largest units: 1d 2h, 20m, 5s."""
    seconds = duration.total_seconds()
    if seconds < 10:  # noqa: PLR2004  # tenths tell something
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])


FACTORS: Final[dict[str, int]] = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}


def spell_duration(value: timedelta) -> str:
    """Write a duration the way ``read_duration`` reads it, to the millisecond."""
    left = value // timedelta(milliseconds=1)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        number, left = divmod(left, length)
        parts.append(f"{number}{unit}" if number else "")
    return "".join(parts) or "0s"


def spell_size(value: int) -> str | int:
    """Write a size the way ``read_size`` reads it: with the largest binary unit that leaves no rest."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % FACTORS[unit] == 0:
            return f"{value // FACTORS[unit]}{unit}"
    return value


DURATION: Final = (
    r"(?=[0-9])(?:([0-9]{1,7})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?(?:([0-9]{1,7})ms)?"
)
SIZE: Final = r"([0-9]{1,15})([KMGT]i?B|B)?"


def _shown(value: object) -> str:
    """Show a duration or a size that cannot be read; never call it for what could be a secret."""
    return f"{str(value)[:40]!r}" if isinstance(value, str | int | float) else "this"


def read_duration(value: object) -> timedelta:
    """Read ``20m``, ``10s``, ``500ms``, ``1h30m`` or ``1d``; a bare number is refused."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not (match := re.fullmatch(DURATION, value)):
        if re.fullmatch(r"[0-9]{1,7}", str(value)):
            raise UnitError(f"{value} has no unit (did you mean {value}s or {value}m?)")
        raise UnitError(f"{_shown(value)} is no duration like 20m, 10s, 500ms or 1h30m")
    days, hours, minutes, seconds, milliseconds = (int(number or 0) for number in match.groups())
    return timedelta(days, seconds, hours=hours, minutes=minutes, milliseconds=milliseconds)


def duration_or_none(text: str) -> timedelta | None:
    """Read a duration as ``read_duration`` does; None where it is none, or is longer than any calendar."""
    try:
        return read_duration(text)
    except (UnitError, OverflowError):
        return None


def read_size(value: object) -> int:
    """Read ``2GiB``, ``512KiB``, ``100MB``, ``0``; a bare number counts bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not (match := re.fullmatch(SIZE, value)):
        raise UnitError(f"{_shown(value)} is no size like 2GiB, 512KiB, 100MB or 0{_guess_size(value)}")
    return int(match[1]) * FACTORS[match[2] or "B"]


def _guess_size(value: object) -> str:
    match = re.fullmatch(r"\s*([0-9]{1,15})\s*([kmgt])i?b?\s*", str(value), re.IGNORECASE)
    return f" (did you mean {match[1]}{match[2].upper()}iB?)" if match else ""


_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WHOLE_BELOW_S = 2 * 60  # up to two minutes seconds are told; beyond that they only flicker
_KILO = 1000
_TENTHS_BELOW = 99.95  # what three digits can hold


def span(seconds: float) -> str:
    """Return a duration in its two largest units: ``45 s``, ``12 min``, ``2 h 10 min``, ``3 d 4 h``."""
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


def spelled_size(count: float) -> str:
    """Return bytes in decimal units with three digits: ``0 B``, ``1.5 kB``, ``41.9 MB``."""
    if count < _KILO:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= _KILO
        if count < _TENTHS_BELOW:
            return f"{count:.1f} {unit}"
        if count < _KILO - 0.5:
            return f"{count:.0f} {unit}"
    return f"{count / _KILO:.1f} PB"


@overload
def iso_time(moment: datetime) -> str: ...
@overload
def iso_time(moment: datetime | None) -> str | None: ...
def iso_time(moment: datetime | None) -> str | None:
    """Return a moment as ISO 8601 has it, to the millisecond and with its offset from UTC."""
    return None if moment is None else moment.isoformat(timespec="milliseconds")
