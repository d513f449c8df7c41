"""Durations in words, for people."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ddslogd.model.units import in_words


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (0.25, "0.2s"),
        (5, "5s"),
        (9.96, "10s"),
        (10, "10s"),
        (59.6, "1m"),
        (90, "1m 30s"),
        (1200, "20m"),
        (3600, "1h"),
        (3605, "1h 5s"),
        (7384, "2h 3m"),
        (86_399.4, "23h 59m"),
        (93_784, "1d 2h"),
        (30 * 86_400, "30d"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_units(seconds: float, expected: str) -> None:
    """Below ten seconds by tenths."""
    assert in_words(timedelta(seconds=seconds)) == expected
