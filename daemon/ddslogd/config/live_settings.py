"""The settings in force: one holder, which every part that outlives a reload reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddslogd.config.settings import Settings


class LiveSettings:
    """Holds the settings in force.

    A part keeps the holder and reads ``current`` whenever it needs a setting. What must not change half-way, as a
    cycle, takes its own copy at its start.

    Attributes:
        current: Frozen. Only a reload replaces it, after all that can refuse the new settings was tried.
    """

    def __init__(self, settings: Settings) -> None:
        self.current = settings
