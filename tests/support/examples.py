"""How many examples a property is tried with: few where somebody waits for the result, all in CI."""

from __future__ import annotations

import os

ALL = os.environ.get("DDSLOGD_EXAMPLES") == "all"


def examples(number: int) -> int:
    """Return so many, or a quarter of them."""
    return number if ALL else number // 4
