"""Values of the cloud's JSON, which is not believed: bounded, and of the types that were asked for. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


MAX_NAME = 1024  # characters of a node or file name
MAX_CODE = 64  # characters of an error code or a status word; the longest known has 12
JSON_HEADERS = {"Content-Type": "application/json"}
EPOCH = datetime.fromtimestamp(0, UTC)
_YEAR_5138_S = 1e11  # as epoch seconds, so a larger number counts milliseconds


def read_moment(value: object) -> datetime | None:
    """Read epoch milliseconds, or seconds where it is too small for that, as a number or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        ms = round(number if number > _YEAR_5138_S else number * 1000)
    except (ValueError, OverflowError):  # no number, NaN, infinite
        return None
    # What is later than any log can be is no moment: adding to it could leave the calendar.
    return EPOCH + timedelta(milliseconds=ms) if 0 < ms < _YEAR_5138_S * 1000 else None


def read_word(value: object) -> str:
    """Return a status word or an error code, in capitals."""
    return one_line(read_text(value).upper(), MAX_CODE)


def read_text(value: object) -> str:
    """Return a text without outer blanks; half a surrogate pair, which no file or database takes, is spelled out."""
    return value.strip().encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""


def one_line(text: str, limit: int) -> str:
    """Make one line of foreign text: bounded, and with nothing in it that a terminal or a log would obey."""
    first = text[: 4 * limit]
    if not first.isprintable():
        first = "".join(char if char.isprintable() else " " for char in first)
    return " ".join(first.split())[:limit]


def stripped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the blanks that some replies have inside the quotes of a key. OTC, third example."""
    return {key.strip(): value for key, value in entry.items()}


def json_object(body: bytes) -> dict[str, Any] | None:
    """Return the object that a body is, or None."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return stripped(value) if isinstance(value, dict) else None


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing where it is none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
