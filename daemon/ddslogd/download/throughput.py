"""How fast one body comes, and whether its slot is better given to those who wait for one. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.model.errors import TooSlow

if TYPE_CHECKING:
    from ddslogd.download.slots import Slots
    from ddslogd.scheduling.clock import Clock

MEASURED_S = 60.0  # a shorter time would take a pause for a slow server


class Throughput:
    """The bytes of one body by the minute, judged as they come; silence is for ``stall_timeout`` to end."""

    def __init__(self, *, least: int, slots: Slots, clock: Clock) -> None:
        """Begin to measure.

        Args:
            least: Bytes a second that a slot has to bring while others wait for one; 0: any will do.
            slots: Knows whether others wait.
            clock: For the minute.
        """
        self._least = least
        self._slots = slots
        self._clock = clock
        self._slow = False  # the last whole minute was
        self.restart()

    def restart(self) -> None:
        """Measure from here on: the time until now was spent by us."""
        self._since = self._clock.monotonic()
        self._received = 0

    def took(self, size: int) -> None:
        """Count bytes that came.

        Raises:
            TooSlow: Others wait for a slot, and the last minute brought too little.
        """
        self._received += size
        passed = self._clock.monotonic() - self._since
        if passed >= MEASURED_S:
            self._slow = self._received < self._least * passed
            self.restart()
        elif self._received >= self._least * MEASURED_S:  # it has recovered
            self._slow = False
        if self._slow and self._slots.waiting:
            raise TooSlow("the transfer was slower than download.min_rate while others waited for a slot")
