"""What a Range header asks of an object, as the store reads it."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


class Unsatisfiable(Exception):
    """The range begins at or past the object's end, or the object is empty."""


def asked_range(header: str | None, total: int) -> tuple[int, int] | None:
    """Return the first byte and the one after the last; None where the whole object is to come.

    A malformed range is ignored, and so are several ranges at once (the real store would answer in parts).

    Raises:
        Unsatisfiable: For a 416.
    """
    found = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, total - int(suffix)), total
    else:
        start, end = int(first), min(total, int(last) + 1) if last else total
        if last and int(last) < start:
            return None
    if start >= total:
        raise Unsatisfiable
    return start, end
