"""The cloud's time: one clock, one speed, and the skew a fault may give it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.sandbox.faults import Faults


def utc_now() -> datetime:
    """Return the host's time."""
    return datetime.now(UTC)


class CloudClock:
    """Reads the sandbox's only clock.

    Args:
        now: Where time comes from; aware.
        speed: What every duration of the cloud is divided by.
        faults: Of the whole cloud; their ``skew`` and ``skew_of`` are added to what it says the time is.
    """

    def __init__(self, now: Callable[[], datetime], *, speed: float, faults: Faults) -> None:
        self._now = now
        self._speed = speed
        self.faults = faults

    def now(self) -> datetime:
        """Return the true time."""
        return self._now().astimezone(UTC)

    def shown(self, moment: datetime | None = None, *, by: str = "dds") -> datetime:
        """Return a moment (default: now) as the clock of one of the cloud's servers has it."""
        return (moment or self.now()) + self.faults.skew + self.faults.skew_of.get(by, timedelta(0))

    def scaled(self, duration: timedelta) -> timedelta:
        """Return how long a duration of the cloud takes in this sandbox."""
        return duration / self._speed
